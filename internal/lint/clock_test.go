package lint

import (
	"go/ast"
	"slices"
	"testing"
)

// wallClock are the files that may make of a time what a clock that is set changes,
// or make a time of it, and why that does no harm. Everywhere else a time keeps
// what the monotonic clock says, by which Go compares: how the clock of a machine
// is set decides nothing.
var wallClock = map[string]string{
	"client/keeper.go":                        "the context of a lease ends by whichever clock is further: the other one stands still while a machine sleeps",
	"store/restore.go":                        "the time is where a new history begins, if that is above all that the backup may have seen",
	"replication/internal/logstream/frame.go": "when an entry was appended goes along, for metrics",
	"replication/internal/peer/port.go":       "a deadline that was over long ago ends a read",
	"cmd/kvctl/status.go":                     "a person reads it",
	"cmd/kvctl/pki.go":                        "a person reads it",
	"cmd/kvd/clients.go":                      "a person reads it",
	"kubernetes/issuer/issuer.go":             "a person reads it, in the name of a CA",
	"cmd/kvd/peertls.go":                      "certificates end by the wall clock, and a person reads when",
	"server/audit/record.go":                  "a person reads it",
	"server/audit/trail.go":                   "a person reads it",
	"server/tokens.go":                        "every pod must tell when a token ends: a clock that is set ends some early or late, and its user logs in again",
	"server/verify.go":                        "a person reads when the last round ended",
	"server/leaseids.go":                      "ids only grow within a process, and one that there is already is refused",
}

// ofWallClock are methods and functions that know only the wall clock, or leave
// only that. Round and Truncate are, for times, by 0.
var ofWallClock = []string{
	"Unix", "UnixNano", "UnixMilli", "UnixMicro", "AddDate", "UTC", "Local", "Date",
	"Format", "ModTime", "AsTime",
}

func TestClocksThatJumpDecideNothing(t *testing.T) {
	found := map[string]bool{}
	for _, s := range sources(t) {
		product := slices.ContainsFunc([]string{"cmd", "client", "kubernetes", "replication", "server", "store"},
			func(directory string) bool { return within(s.path, directory) })
		if s.generated || s.test() || !product {
			continue
		}
		ast.Inspect(s.syntax, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !readsWallClock(call) {
				return true
			}
			found[s.path] = true
			if wallClock[s.path] == "" {
				t.Errorf("%s: measure by times as they are, or say in wallClock why a clock that jumps does no harm", s.fileSet.Position(call.Pos()))
			}
			return true
		})
	}
	for path := range wallClock {
		if !found[path] {
			t.Errorf("%s does not read the wall clock any more: take it out of wallClock", path)
		}
	}
}

func readsWallClock(call *ast.CallExpr) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	if name := selector.Sel.Name; name == "Round" || name == "Truncate" {
		by, ok := call.Args[0].(*ast.BasicLit)
		return ok && by.Value == "0"
	}
	return slices.Contains(ofWallClock, selector.Sel.Name)
}
