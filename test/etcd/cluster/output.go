package cluster

import (
	"bytes"
	"os/exec"
	"sync"
	"testing"
)

// Kvctl builds kvctl, runs it, and returns what it printed.
func Kvctl(t testing.TB, arguments ...string) string {
	t.Helper()
	output, err := exec.Command(build(t, kvctl), arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("kvctl %v: %v\n%s", arguments, err, output)
	}
	return string(output)
}

// Output takes what a running process prints, and can be read meanwhile.
type Output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
