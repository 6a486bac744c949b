package node

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/machinetest"
	"github.com/batondb/baton/replication/internal/raftio"
	"github.com/batondb/baton/replication/internal/raftlog"
)

// editLog changes the log of a pod that does not run.
func (p *pod) editLog(edit func(l *raftlog.Log) error) {
	p.c.t.Helper()
	l, err := raftlog.Open(raftlog.Options{
		Dir: filepath.Join(p.dir, "raft"), Logger: hclog.NewNullLogger(), Limit: 1 << 30, HoldLimit: 1 << 30, Hang: time.Minute,
		Failed: func(err error) { p.c.t.Error(err) }, Floor: func() uint64 { return math.MaxUint64 },
	})
	if err != nil {
		p.c.t.Fatal(err)
	}
	defer l.Close()
	if err := edit(l); err != nil {
		p.c.t.Fatal(err)
	}
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
	t, self := p.node.engine.Load().replica.Transport, p.node.MemberID()
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
	if _, err := line.(*raftio.Pipeline).Pipeline.AppendEntries(req, &resp); err != nil {
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

// cutOffMaster gives a follower n entries that nobody else has, as if it had led
// in the next term and had been cut off. It is cut off, and knows nothing after
// entry last.
func (c *cluster) cutOffMaster(n uint64) (p *pod, last, lastTerm uint64) {
	c.t.Helper()
	c.master().mustPut("k", "v")
	p = c.follower()
	p.mustRead("k", "v")
	p.kill()
	term := c.master().node.Term() + 1
	p.editLog(func(l *raftlog.Log) error {
		last, _ = l.LastIndex()
		var e raft.Log
		if err := l.GetLog(last, &e); err != nil {
			return err
		}
		lastTerm = e.Term
		for i := last + 1; i <= last+n; i++ {
			if err := l.StoreLog(machinetest.PutEntry(i, term, "phantom")); err != nil {
				return err
			}
		}
		return nil
	})
	c.net.isolate(p.name)
	p.start()
	p.awaitStart()
	return p, last, lastTerm
}

// A pod has the end of a log that nobody else has: it led, was cut off, and
// died. What the new master says is committed are other entries, which a message
// that says so need not have with it: it was put together while the master's own
// disk was slow, or waited for the pod to come back.
//
// Scenario: S43
func TestTheEndOfALogThatNobodyElseHasIsNotCommitted(t *testing.T) {
	c := newCluster(t, 3).boot()
	p, last, lastTerm := c.cutOffMaster(2)
	m := c.master()
	term := m.node.Term()
	for _, pipelined := range []bool{false, true} {
		resp := p.receives(pipelined, from(m, raft.AppendEntriesRequest{
			Term: term + 2, PrevLogEntry: last, PrevLogTerm: lastTerm, LeaderCommitIndex: last + 2,
		}))
		if got := p.node.engine.Load().replica.Raft.CommitIndex(); !resp.Success || got > last {
			t.Errorf("pipelined %t: to a message that ends at %d, whose commit index is %d, the answer is %t, and %d is committed",
				pipelined, last, last+2, resp.Success, got)
		}
	}
	if _, ok := p.machine.Get("phantom"); ok {
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
	tr, to := m.node.engine.Load().replica.Transport, f.node.MemberID()
	message := func() *raft.AppendEntriesRequest {
		var e raft.Log
		if err := m.node.engine.Load().replica.Storage.Log.GetLog(2, &e); err != nil {
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
	p := line.(*raftio.Pipeline)
	if _, err := p.AppendEntries(req, new(raft.AppendEntriesResponse)); err != nil {
		t.Fatal(err)
	}
	if told, err := p.Tell(); err != nil || told != 2 {
		t.Errorf("after a message up to entry 2, it is told that %d is committed (%v)", told, err)
	}
}

// After a clone a log begins right after the database. Its first entry is of a
// master that was cut off, and sent it to this pod only; the next master has
// another one there. It asks for the entry before, which no log has.
//
// Scenario: S46
func TestAFirstEntryThatConflictsIsReplaced(t *testing.T) {
	c := newCluster(t, 3).boot()
	m := c.master()
	m.mustPut("k", "v")
	p := c.follower()
	p.mustRead("k", "v")
	var last uint64
	c.eventually("the pod has all of the log on disk", func() error {
		last, _ = m.node.engine.Load().replica.Storage.Log.LastIndex()
		if applied := p.machine.Applied(); applied != last {
			return fmt.Errorf("it has %d, the log %d", applied, last)
		}
		return p.machine.Flush(t.Context(), last)
	})
	at := p.machine.Durable()
	p.kill()
	if _, err := m.node.HandOver(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	p.editLog(func(l *raftlog.Log) error {
		first, _ := l.FirstIndex()
		if err := l.DeleteRange(first, last); err != nil {
			return err
		}
		return l.StoreLogs([]*raft.Log{machinetest.PutEntry(last+1, at.Term, "phantom"), machinetest.PutEntry(last+2, at.Term, "phantom")})
	})
	p.start()
	p.awaitStart()
	c.master().mustPut("k", "w")
	p.mustRead("k", "w")
	if _, ok := p.machine.Get("phantom"); ok {
		t.Error("the entry was applied")
	}
	if first, _ := p.node.engine.Load().replica.Storage.Log.FirstIndex(); first != last+1 {
		t.Errorf("the log begins at %d, not after the database at %d", first, last)
	}
}

// A master that was replaced has applied what another one committed. It is not in
// the log that it had sent.
func TestADeposedMasterTellsNothing(t *testing.T) {
	c := newCluster(t, 3).boot()
	m, f := c.master(), c.follower()
	m.mustPut("k", "v")
	tr, to := m.node.engine.Load().replica.Transport, f.node.MemberID()
	line, err := tr.AppendEntriesPipeline(raft.ServerID(to), raft.ServerAddress(to))
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	p := line.(*raftio.Pipeline)
	if _, err := p.AppendEntries(from(m, raft.AppendEntriesRequest{Term: m.node.Term(), PrevLogEntry: 100}), new(raft.AppendEntriesResponse)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.node.HandOver(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	c.master(m.name).mustPut("k", "w")
	m.mustRead("k", "w")
	if told, err := p.Tell(); err != nil || told != 0 {
		t.Errorf("it told that %d is committed (%v)", told, err)
	}
}

// getsSnapshot gives a pod the database of another one, as if that one sent it
// as the master of a term.
func (p *pod) getsSnapshot(m *pod, term uint64) (resp raft.InstallSnapshotResponse, at replication.Position, err error) {
	p.c.t.Helper()
	if err := m.machine.Flush(p.c.t.Context(), m.machine.Applied()); err != nil {
		p.c.t.Fatal(err)
	}
	snap, err := m.machine.Snapshot()
	if err != nil {
		p.c.t.Fatal(err)
	}
	defer snap.Close()
	at = snap.Position()
	req := &raft.InstallSnapshotRequest{
		RPCHeader: from(m, raft.AppendEntriesRequest{}).RPCHeader, SnapshotVersion: 1, Term: term,
		LastLogIndex: at.Index, LastLogTerm: at.Term, Size: snap.Size(),
		Configuration: at.Configuration, ConfigurationIndex: at.ConfigurationIndex,
	}
	id := p.node.MemberID()
	err = p.node.engine.Load().replica.Transport.InstallSnapshot(raft.ServerID(id), raft.ServerAddress(id), req, &resp, snap)
	return resp, at, err
}

// The answer to a snapshot was lost, and the master sends it again.
func TestASnapshotWithNothingNewIsAcknowledged(t *testing.T) {
	c := newCluster(t, 3).boot()
	m := c.master()
	m.mustPut("k", "v")
	p := c.follower()
	p.mustRead("k", "v")
	resp, at, err := p.getsSnapshot(m, m.node.Term())
	if err != nil || !resp.Success {
		t.Errorf("it was answered with %+v, %v", resp, err)
	}
	if last, err := p.node.engine.Load().replica.Storage.Log.LastIndex(); err != nil || last < at.Index {
		t.Errorf("the log ends at %d, %v", last, err)
	}
	m.mustPut("k", "w")
	p.mustRead("k", "w")
}

// A pod that was cut off stood for election there, and is in a newer term when it
// is back after a restart: the master, which waits for its return, has to hear of the term.
func TestAPodReturnsInANewerTerm(t *testing.T) {
	c := newCluster(t, 3).boot()
	m, p := c.master(), c.follower()
	c.net.isolate(p.name)
	p.node.engine.Load().replica.Campaign()
	c.eventually("the pod is missed", func() error {
		if !m.node.engine.Load().replica.Acks.IsAway(p.node.MemberID()) {
			return errors.New("it is not yet")
		}
		return nil
	})
	c.eventually("it has stood", func() error {
		if ours, its := m.node.Term(), p.node.Term(); its <= ours {
			return fmt.Errorf("in term %d, the master is in %d", its, ours)
		}
		return nil
	})
	p.kill() // Nobody gets what it sent.
	c.net.heal()
	p.start()
	p.awaitStart()
	c.awaitReady()
	c.master().mustPut("k", "v")
	p.mustRead("k", "v")
}

// A snapshot ends below the end of the log that it replaces: what follows it is
// of a master of before.
func TestASnapshotBelowTheEndOfTheLog(t *testing.T) {
	c := newCluster(t, 3).boot()
	p, last, _ := c.cutOffMaster(50)
	m := c.master()
	for range 5 {
		m.mustPut("k", "w")
	}
	_, at, _ := p.getsSnapshot(m, m.node.Term()+2)
	if at.Index <= last || at.Index >= last+50 {
		t.Fatalf("the snapshot is at %d", at.Index)
	}
	select {
	case err := <-p.node.Failed():
		if !errors.Is(err, raftio.ErrReplaced) {
			t.Errorf("it failed with %v", err)
		}
	case <-time.After(patient):
		t.Error("it goes on")
	}
	p.kill()
	c.net.heal()
	p.start()
	p.awaitStart()
	c.awaitReady()
	c.master().mustPut("k", "x")
	p.mustRead("k", "x")
	if _, ok := p.machine.Get("phantom"); ok {
		t.Error("an entry that only this pod had was applied")
	}
}
