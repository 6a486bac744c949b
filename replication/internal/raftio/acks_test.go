package raftio

import (
	"testing"
	"time"

	"github.com/batondb/baton/replication"
)

// A pause (SIGSTOP) leaves an answer from before it in the socket. It must not
// confirm a read that begins after it.
//
// Scenario: S40
func TestOldAnswersConfirmNothing(t *testing.T) {
	a := newAcks()
	all := []replication.MemberID{"kv-0/a", "kv-1/b", "kv-2/c"}
	sent := time.Now()
	since := time.Now()
	a.record("kv-1/b", ack{term: 3, sent: sent})
	if a.Confirmed("kv-0/a", all, 3, since) {
		t.Error("confirmed by the answer to a message sent before")
	}
	a.record("kv-1/b", ack{term: 2, sent: time.Now()})
	if a.Confirmed("kv-0/a", all, 3, since) {
		t.Error("confirmed by the answer of another term")
	}
	a.record("kv-1/b", ack{term: 3, sent: time.Now()})
	if !a.Confirmed("kv-0/a", all, 3, since) {
		t.Error("not confirmed by a majority")
	}
	if a.Confirmed("kv-0/a", append(all, "kv-3/d", "kv-4/e"), 3, since) {
		t.Error("confirmed by two of five")
	}
}
