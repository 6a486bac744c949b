package replication

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication/internal/entry"
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
	t, self := p.node.engine.Load().replica.transport, p.node.MemberID()
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
			if err := l.StoreLog(putEntry(i, term, "phantom")); err != nil {
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
		if got := p.node.engine.Load().replica.raft.CommitIndex(); !resp.Success || got > last {
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
	tr, to := m.node.engine.Load().replica.transport, f.node.MemberID()
	message := func() *raft.AppendEntriesRequest {
		var e raft.Log
		if err := m.node.engine.Load().replica.storage.log.GetLog(2, &e); err != nil {
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
		last, _ = m.node.engine.Load().replica.storage.log.LastIndex()
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
		return l.StoreLogs([]*raft.Log{putEntry(last+1, at.Term, "phantom"), putEntry(last+2, at.Term, "phantom")})
	})
	p.start()
	p.awaitStart()
	c.master().mustPut("k", "w")
	p.mustRead("k", "w")
	if _, ok := p.machine.get("phantom"); ok {
		t.Error("the entry was applied")
	}
	if first, _ := p.node.engine.Load().replica.storage.log.FirstIndex(); first != last+1 {
		t.Errorf("the log begins at %d, not after the database at %d", first, last)
	}
}

// A pod with a database up to entry 20, of term 3, and a log of some entries.
func TestRebase(t *testing.T) {
	entries := func(from, to, term uint64) (all []*raft.Log) {
		for i := from; i <= to; i++ {
			all = append(all, &raft.Log{Index: i, Term: term})
		}
		return all
	}
	for _, tc := range []struct {
		name        string
		first, last uint64 // of the log; 0: it is empty
		prev, to    uint64 // of the message
		term        uint64 // of its entries, and of the one before
		want        uint64 // the entry before it, then; 0: it matches
		wantFirst   uint64 // of its entries; 0: none
	}{
		{"right after a clone", 0, 0, 20, 22, 3, 0, 21},
		{"the first entry after a clone conflicts", 21, 22, 20, 22, 3, 0, 21},
		{"it begins below the log", 15, 30, 13, 25, 3, 0, 21},
		{"it ends below the log", 21, 30, 13, 18, 3, 0, 0},
		{"it ends with what is applied", 21, 30, 13, 20, 3, 0, 0},
		{"from the very first", 21, 30, 0, 25, 3, 0, 21},
		{"only what is committed", 21, 30, 20, 20, 3, 0, 0},
		{"in the log", 15, 30, 18, 25, 3, 18, 19},
		{"its first entry is the log's", 15, 30, 15, 25, 3, 15, 16},
		{"above what is applied", 15, 30, 25, 26, 3, 25, 26},
		{"above, and there is no log", 0, 0, 25, 26, 3, 25, 26},
		{"the database has another entry", 0, 0, 18, 22, 2, 20, 0},
		{"the database has another last entry", 21, 22, 20, 22, 2, 20, 0},
		{"from the very first, of another log", 0, 0, 0, 25, 2, 20, 0},
	} {
		l, err := raftlog.Open(raftlog.Options{
			Dir: t.TempDir(), Logger: hclog.NewNullLogger(), Limit: 1 << 20, HoldLimit: 1 << 20, Hang: time.Minute,
			Failed: func(err error) { t.Error(err) }, Floor: func() uint64 { return 20 },
		})
		if err != nil {
			t.Fatal(err)
		}
		if tc.last > 0 {
			if err := l.StoreLogs(entries(tc.first, tc.last, 3)); err != nil {
				t.Fatal(err)
			}
		}
		tr := &transport{
			logger: logger(t, "kv-0"), log: l, applied: &appliedIndex{},
			durable: func() Position { return Position{Index: 20, Term: 3} },
		}
		tr.applied.advance(20)
		req := &raft.AppendEntriesRequest{PrevLogEntry: tc.prev, PrevLogTerm: tc.term, Entries: entries(tc.prev+1, tc.to, tc.term)}
		tr.rebase(req)
		first := uint64(0)
		if len(req.Entries) > 0 {
			first = req.Entries[0].Index
		}
		if req.PrevLogEntry != tc.want || first != tc.wantFirst || tc.term == 2 && req.PrevLogTerm != 0 {
			t.Errorf("%s: after entry %d of term %d it begins with %d, want %d after %d", tc.name, req.PrevLogEntry, req.PrevLogTerm, first, tc.wantFirst, tc.want)
		}
		l.Close()
	}
}

// A master that was replaced has applied what another one committed. It is not in
// the log that it had sent.
func TestADeposedMasterTellsNothing(t *testing.T) {
	c := newCluster(t, 3).boot()
	m, f := c.master(), c.follower()
	m.mustPut("k", "v")
	tr, to := m.node.engine.Load().replica.transport, f.node.MemberID()
	line, err := tr.AppendEntriesPipeline(raft.ServerID(to), raft.ServerAddress(to))
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	p := line.(*pipeline)
	if _, err := p.AppendEntries(from(m, raft.AppendEntriesRequest{Term: m.node.Term(), PrevLogEntry: 100}), new(raft.AppendEntriesResponse)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.node.HandOver(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	c.master(m.name).mustPut("k", "w")
	m.mustRead("k", "w")
	if err := p.tell(tr); err != nil || p.next.LeaderCommitIndex != 0 {
		t.Errorf("it told that %d is committed (%v)", p.next.LeaderCommitIndex, err)
	}
}

func TestRestoreDoesNotGoBack(t *testing.T) {
	at := func(index uint64) (*fsm, *machine) {
		m := openMachine(t, t.TempDir())
		f := &fsm{trail: &trail{}, sm: m, applied: &appliedIndex{}, fail: func(err error) { t.Error(err) }}
		f.ApplyBatch([]*raft.Log{putEntry(index, 1, fmt.Sprint("at ", index))})
		return f, m
	}
	f, m := at(7)
	for index := uint64(6); index <= 7; index++ {
		_, other := at(index)
		other.flush()
		f.restoring = &spool{index: index}
		if err := f.Restore(io.NopCloser(bytes.NewReader(other.durable))); err == nil || m.Applied() != 7 {
			t.Errorf("a snapshot at %d: %v, applied up to %d", index, err, m.Applied())
		}
	}
}

// getsSnapshot gives a pod the database of another one, as if that one sent it
// as the master of a term.
func (p *pod) getsSnapshot(m *pod, term uint64) (resp raft.InstallSnapshotResponse, at Position, err error) {
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
	err = p.node.engine.Load().replica.transport.InstallSnapshot(raft.ServerID(id), raft.ServerAddress(id), req, &resp, snap)
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
	if last, err := p.node.engine.Load().replica.storage.log.LastIndex(); err != nil || last < at.Index {
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
	p.node.engine.Load().replica.campaign()
	c.eventually("the pod is missed", func() error {
		acks := m.node.engine.Load().replica.acks
		acks.mu.Lock()
		defer acks.mu.Unlock()
		if acks.away[p.node.MemberID()] == nil {
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
		if !errors.Is(err, errReplaced) {
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
	if _, ok := p.machine.get("phantom"); ok {
		t.Error("an entry that only this pod had was applied")
	}
}
