package node

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/batondb/baton/replication"
)

// What a pod that calls a master's port sees, and whether the master is dead.
func TestDeadMaster(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	reset := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	for name, test := range map[string]struct {
		seen []error // the last one again and again
		dead bool
	}{
		"gone":                     {[]error{refused}, true},
		"its listener closes last": {[]error{reset, io.EOF, refused}, true},
		"breaks every connection":  {[]error{reset}, false},
		"restarted":                {[]error{refused, errors.New("it says who it is")}, false},
		"cut off":                  {[]error{context.DeadlineExceeded}, false},
	} {
		calls := 0
		g := &failureDetector{
			timing: replication.Timing{Heartbeat: time.Second}, connected: func(replication.MemberID) bool { return false },
			probe: func(context.Context, replication.MemberID) error {
				err := test.seen[min(calls, len(test.seen)-1)]
				calls++
				return err
			},
		}
		if g.dead(t.Context(), "kv-0/a") != test.dead {
			t.Errorf("%s: dead is %t", name, !test.dead)
		}
	}
}
