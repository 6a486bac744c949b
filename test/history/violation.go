package history

import "fmt"

// Violation is one thing that must not be.
type Violation struct {
	Check string // The check that found it.
	Text  string
}

func (v Violation) String() string { return v.Check + ": " + v.Text }

// findings collects the violations of one check. A broken history may have as
// many as it has ops; the first ones tell enough.
type findings struct {
	check string
	found []Violation
	more  int
}

const maxFindings = 20

func (f *findings) add(format string, args ...any) {
	if len(f.found) == maxFindings {
		f.more++
		return
	}
	f.found = append(f.found, Violation{Check: f.check, Text: fmt.Sprintf(format, args...)})
}

func (f *findings) result() []Violation {
	if f.more > 0 {
		f.found = append(f.found, Violation{Check: f.check, Text: fmt.Sprintf("and %d more", f.more)})
	}
	return f.found
}
