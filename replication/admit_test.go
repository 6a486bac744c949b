package replication

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/batondb/baton/replication/internal/entry"
	"github.com/batondb/baton/replication/internal/raftlog"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// editLog changes the log of a pod that does not run.
func (p *pod) editLog(edit func(l *raftlog.Log) error) {
	p.c.t.Helper()
	l, err := raftlog.Open(raftlog.Options{
		Dir: filepath.Join(p.dir, "raft"), Logger: hclog.NewNullLogger(), Limit: 1 << 30, HoldLimit: 1 << 30, Hang: time.Minute,
		Failed: func(err error) { p.c.t.Error(err) }, Floor: func() uint64 { return 0 },
	})
	if err != nil {
		p.c.t.Fatal(err)
	}
	defer l.Close()
	if err := edit(l); err != nil {
		p.c.t.Fatal(err)
	}
}

// putEntry is an entry that puts a key.
func putEntry(index, term uint64, key string) *raft.Log {
	b, err := entry.AppendCommand([]byte{entry.Version}, putCommand(key, "v"))
	if err != nil {
		panic(err)
	}
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: b, Extensions: entry.Checksum(b)}
}

// from is a message of a member.
func from(p *pod, req raft.AppendEntriesRequest) *raft.AppendEntriesRequest {
	id := []byte(p.node.MemberID())
	req.RPCHeader = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: id, Addr: id}
	return &req
}

// receives gives a pod a message, as another pod sends it, and returns its answer.
// pipelined: on a connection that carries many.
func (p *pod) receives(pipelined bool, req *raft.AppendEntriesRequest) *raft.AppendEntriesResponse {
	p.c.t.Helper()
	t, self := p.node.engine.Load().transport, p.node.MemberID()
	var resp raft.AppendEntriesResponse
	if !pipelined {
		if err := t.NetworkTransport.AppendEntries(raft.ServerID(self), raft.ServerAddress(self), req, &resp); err != nil {
			p.c.t.Fatal(err)
		}
		return &resp
	}
	line, err := t.AppendEntriesPipeline(raft.ServerID(self), raft.ServerAddress(self))
	if err != nil {
		p.c.t.Fatal(err)
	}
	defer line.Close()
	if _, err := line.(*pipeline).Pipeline.AppendEntries(req, &resp); err != nil {
		p.c.t.Fatal(err)
	}
	select {
	case f := <-line.Consumer():
		return f.Response()
	case <-time.After(patient):
		p.c.t.Fatal("no answer")
		return nil
	}
}

// A pod has the end of a log that nobody else has: it led, was cut off, and
// died. What the new master says is committed are other entries, which a message
// that says so need not have with it: it was put together while the master's own
// disk was slow, or waited for the pod to come back.
func TestTheEndOfALogThatNobodyElseHasIsNotCommitted(t *testing.T) {
	c := newCluster(t, 3).boot()
	c.master().mustPut("k", "v")
	p := c.follower()
	p.mustRead("k", "v")
	p.kill()
	m := c.master()
	var last, term, lastTerm uint64
	p.editLog(func(l *raftlog.Log) error {
		last, _ = l.LastIndex()
		var e raft.Log
		if err := l.GetLog(last, &e); err != nil {
			return err
		}
		term, lastTerm = m.node.Term(), e.Term
		return l.StoreLogs([]*raft.Log{putEntry(last+1, term+1, "phantom"), putEntry(last+2, term+1, "phantom")})
	})
	c.net.isolate(p.name)
	p.start()
	p.awaitStart()
	for _, pipelined := range []bool{false, true} {
		resp := p.receives(pipelined, from(m, raft.AppendEntriesRequest{
			Term: term + 2, PrevLogEntry: last, PrevLogTerm: lastTerm, LeaderCommitIndex: last + 2,
		}))
		if got := p.node.engine.Load().raft.CommitIndex(); !resp.Success || got > last {
			t.Errorf("pipelined %t: to a message that ends at %d, whose commit index is %d, the answer is %t, and %d is committed",
				pipelined, last, last+2, resp.Success, got)
		}
	}
	if _, ok := p.machine.get("phantom"); ok {
		t.Error("the entry was applied")
	}
}

// What is sent says nothing of entries that it does not prove to be there,
// neither when it waits for a member to come back, nor when it only tells what
// is committed.
func TestSentCommitIndexIsBounded(t *testing.T) {
	c := newCluster(t, 3).boot()
	for range 5 {
		c.master().mustPut("k", "v")
	}
	m, f := c.master(), c.follower()
	tr, to := m.node.engine.Load().transport, f.node.MemberID()
	message := func() *raft.AppendEntriesRequest {
		var e raft.Log
		if err := m.node.engine.Load().storage.log.GetLog(2, &e); err != nil {
			t.Fatal(err)
		}
		return from(m, raft.AppendEntriesRequest{Term: m.node.Term(), PrevLogEntry: 2, PrevLogTerm: e.Term, LeaderCommitIndex: 100})
	}
	req := message()
	if err := tr.AppendEntries(raft.ServerID(to), raft.ServerAddress(to), req, new(raft.AppendEntriesResponse)); err != nil {
		t.Fatal(err)
	}
	if req.LeaderCommitIndex != 2 {
		t.Errorf("a message up to entry 2 has the commit index %d", req.LeaderCommitIndex)
	}
	line, err := tr.AppendEntriesPipeline(raft.ServerID(to), raft.ServerAddress(to))
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	req = message()
	if _, err := line.AppendEntries(req, new(raft.AppendEntriesResponse)); err != nil || req.LeaderCommitIndex != 2 {
		t.Errorf("a message up to entry 2 on a pipeline has the commit index %d (%v)", req.LeaderCommitIndex, err)
	}
	req = message()
	req.LeaderCommitIndex = 1
	p := line.(*pipeline)
	if _, err := p.AppendEntries(req, new(raft.AppendEntriesResponse)); err != nil {
		t.Fatal(err)
	}
	if err := p.tell(tr); err != nil || p.next.LeaderCommitIndex != 2 {
		t.Errorf("after a message up to entry 2, it is told that %d is committed (%v)", p.next.LeaderCommitIndex, err)
	}
}
