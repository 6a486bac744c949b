package node

import (
	"bytes"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/entry"
	"github.com/batondb/baton/replication/internal/machinetest"
	"github.com/batondb/baton/replication/internal/raftio"
	"github.com/batondb/baton/replication/internal/raftlog"
)

// header is of a message of this version.
func header() raft.RPCHeader { return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax} }

// sends has a pod send another one a message of the library's, whatever it says.
func (p *pod) sends(to *pod, req any) error {
	p.c.t.Helper()
	t, id := p.node.engine.Load().replica.Transport.NetworkTransport, raft.ServerID(to.node.MemberID())
	switch m := req.(type) {
	case raft.AppendEntriesRequest:
		m.RPCHeader = header()
		var resp raft.AppendEntriesResponse
		err := t.AppendEntries(id, raft.ServerAddress(id), &m, &resp)
		if err == nil && !resp.Success {
			err = fmt.Errorf("not taken in term %d", resp.Term)
		}
		return err
	case raft.RequestVoteRequest:
		m.RPCHeader = header()
		return t.RequestVote(id, raft.ServerAddress(id), &m, &raft.RequestVoteResponse{})
	case raft.RequestPreVoteRequest:
		m.RPCHeader = header()
		return t.RequestPreVote(id, raft.ServerAddress(id), &m, &raft.RequestPreVoteResponse{})
	case raft.InstallSnapshotRequest:
		m.RPCHeader = header()
		return t.InstallSnapshot(id, raft.ServerAddress(id), &m, &raft.InstallSnapshotResponse{}, bytes.NewReader(make([]byte, 1<<10)))
	case raft.TimeoutNowRequest:
		m.RPCHeader = header()
		return t.TimeoutNow(id, raft.ServerAddress(id), &m, &raft.TimeoutNowResponse{})
	}
	panic(fmt.Sprintf("%T", req))
}

// served says that all pods take a write, and show it.
func (c *cluster) served(value string) {
	c.t.Helper()
	c.awaitReady()
	for _, name := range c.list {
		c.pods[name].mustPut("served by "+name, value)
	}
	for _, name := range c.list {
		for _, other := range c.list {
			c.pods[other].mustRead("served by "+name, value)
		}
	}
}

// members of the cluster as they stand in a message.
func (c *cluster) membership() []byte {
	var conf raft.Configuration
	for _, name := range c.list {
		id := c.pods[name].node.MemberID()
		conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	return raft.EncodeConfiguration(conf)
}

// A term that no elections lead to leaves the cluster as it is, or near it, whatever
// message carries it, and wherever it comes from.
func TestTermsFarAhead(t *testing.T) {
	c := newCluster(t, 3).boot()
	before := c.master().node.Term()
	sent := 0
	for _, term := range []uint64{math.MaxUint64, math.MaxUint64 - 1, 1 << 63, 1 << 62, before + 1<<32} {
		for _, message := range []any{
			raft.RequestVoteRequest{Term: term, LastLogTerm: 1, LastLogIndex: 1 << 40, LeadershipTransfer: true},
			raft.RequestPreVoteRequest{Term: term, LastLogTerm: 1, LastLogIndex: 1 << 40},
			raft.AppendEntriesRequest{Term: term},
			raft.AppendEntriesRequest{Term: term, PrevLogEntry: 1, PrevLogTerm: 1, LeaderCommitIndex: 1},
			raft.InstallSnapshotRequest{Term: term, SnapshotVersion: 1, LastLogIndex: 1 << 40, LastLogTerm: 1, Size: 1 << 10, Configuration: c.membership(), ConfigurationIndex: 1},
		} {
			for _, from := range c.list {
				for _, to := range c.list {
					if from == to {
						continue
					}
					if err := c.pods[from].sends(c.pods[to], message); err == nil || !strings.Contains(err.Error(), "too far above") {
						t.Fatalf("%T of term %d from %s to %s: %v", message, term, from, to, err)
					}
					sent++
				}
			}
		}
	}
	c.served("v")
	if after := c.master().node.Term(); after > before+30<<20 {
		t.Errorf("after %d messages the term is %d, it was %d", sent, after, before)
	}
}

// raiseTerm changes the term of a pod that does not run.
func (p *pod) raiseTerm(term uint64) {
	p.c.t.Helper()
	v, err := raftlog.OpenVotes(filepath.Join(p.dir, "raft", "vote.db"), time.Minute, func(err error) { p.c.t.Error(err) }, func() error { return nil })
	if err != nil {
		p.c.t.Fatal(err)
	}
	if err := v.SetUint64([]byte("CurrentTerm"), term); err != nil {
		p.c.t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		p.c.t.Fatal(err)
	}
}

// A pod whose term is far above the others', however it got there, does not hold
// them up: they keep their master, and it clones.
func TestAPodFarAhead(t *testing.T) {
	for _, term := range []uint64{1 << 30, math.MaxUint64} {
		t.Run(fmt.Sprint(term), func(t *testing.T) {
			c := newCluster(t, 3).boot()
			ahead := c.follower()
			before := ahead.node.MemberID()
			ahead.kill()
			ahead.raiseTerm(term)
			ahead.start()
			ahead.awaitStart()
			select {
			case err := <-ahead.node.Failed():
				t.Log(err)
			case <-time.After(patient):
				t.Fatalf("it stays: %+v", ahead.node.Status())
			}
			c.master(ahead.name).mustPut("k", "v")
			ahead.kill()
			ahead.start()
			ahead.awaitStart()
			c.served("v")
			if ahead.node.MemberID() == before {
				t.Error("it is the same member")
			}
			if term := c.master().node.Term(); term > 1<<25 {
				t.Errorf("the term is %d", term)
			}
		})
	}
}

// A pod that was away while the others got far ahead follows them again.
func TestAPodFarBehind(t *testing.T) {
	c := newCluster(t, 3).boot()
	behind := c.follower()
	c.master().mustPut("k", "v")
	for _, p := range c.pods {
		p.kill()
	}
	for _, p := range c.pods {
		if p != behind {
			p.raiseTerm(4 << 20)
		}
	}
	for _, name := range c.list {
		c.pods[name].start()
	}
	for _, name := range c.list {
		c.pods[name].awaitStart()
	}
	before := behind.node.MemberID()
	c.served("v")
	if term := behind.node.Term(); term < 4<<20 || behind.node.MemberID() != before {
		t.Errorf("%s is in term %d, and was %s", behind.node.MemberID(), term, before)
	}
}

// next is a message of the master about the entry after a pod's last one.
func (p *pod) next(term uint64, typ raft.LogType, data, extensions []byte) raft.AppendEntriesRequest {
	last, lastTerm := p.node.engine.Load().replica.Storage.LastEntry()
	return raft.AppendEntriesRequest{Term: term, PrevLogEntry: last, PrevLogTerm: lastTerm, LeaderCommitIndex: last + 1,
		Entries: []*raft.Log{{Index: last + 1, Term: term, Type: typ, Data: data, Extensions: extensions}}}
}

// What a pod cannot apply does not get into its log, however it comes: neither what it
// cannot decode nor what ends the library.
//
// Scenario: S26
func TestWhatCannotBeAppliedIsNotTaken(t *testing.T) {
	c := newCluster(t, 3).boot()
	c.master().mustPut("k", "v")
	c.served("before")
	p, command := c.follower(), func(data ...byte) ([]byte, []byte) { return data, entry.Checksum(data) }
	self := string(p.node.MemberID())
	conf := func(servers ...raft.Server) []byte {
		return raft.EncodeConfiguration(raft.Configuration{Servers: servers})
	}
	attack := func(name string, typ raft.LogType, data, extensions []byte) {
		t.Helper()
		for _, pipelined := range []bool{false, true} {
			before, _ := p.node.engine.Load().replica.Storage.LastEntry()
			req := p.next(c.master().node.Term(), typ, data, extensions)
			if p.taken(pipelined, req) {
				t.Errorf("%s, pipelined %t: it was taken", name, pipelined)
			}
			if after, _ := p.node.engine.Load().replica.Storage.LastEntry(); after != before {
				t.Errorf("%s, pipelined %t: the log ended at %d, and ends at %d", name, pipelined, before, after)
			}
		}
	}
	newer, newerSum := command(entry.Version + 1)
	attack("a newer version", raft.LogCommand, newer, newerSum)
	unknown, unknownSum := command(entry.Version, 3, 0xfa, 0x01, 0)
	attack("an unknown command", raft.LogCommand, unknown, unknownSum)
	cut, cutSum := command(entry.Version, 200, 1)
	attack("half a command", raft.LogCommand, cut, cutSum)
	attack("another checksum", raft.LogCommand, []byte{entry.Version}, []byte{1, 2, 3, 4})
	attack("no checksum", raft.LogCommand, []byte{entry.Version}, nil)
	attack("no membership", raft.LogConfiguration, []byte("nothing"), nil)
	attack("an empty membership", raft.LogConfiguration, conf(), nil)
	attack("a stranger", raft.LogConfiguration, conf(raft.Server{ID: "stranger", Address: "stranger"}), nil)
	attack("another address", raft.LogConfiguration, conf(raft.Server{ID: raft.ServerID(self), Address: "127.0.0.1:1"}), nil)
	attack("one member twice", raft.LogConfiguration, conf(raft.Server{ID: raft.ServerID(self), Address: raft.ServerAddress(self)},
		raft.Server{ID: raft.ServerID(self), Address: raft.ServerAddress(self)}), nil)
	attack("a type of before", raft.LogAddPeerDeprecated, []byte("x"), nil)
	attack("a barrier", raft.LogBarrier, nil, nil)
	attack("a type of later", 99, nil, nil)
	c.master().mustPut("k", "w") // Which it knows.
	p.mustRead("k", "w")
	c.served("after")
}

// taken says whether a pod takes a message that comes from the master.
func (p *pod) taken(pipelined bool, req raft.AppendEntriesRequest) bool {
	p.c.t.Helper()
	m := p.c.master()
	if !pipelined {
		return m.sends(p, req) == nil
	}
	id := p.node.MemberID()
	line, err := m.node.engine.Load().replica.Transport.AppendEntriesPipeline(raft.ServerID(id), raft.ServerAddress(id))
	if err != nil {
		p.c.t.Fatal(err)
	}
	defer line.Close()
	req.RPCHeader = header()
	f, err := line.(*raftio.Pipeline).Pipeline.AppendEntries(&req, &raft.AppendEntriesResponse{})
	if err != nil {
		return false
	}
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err == nil && f.Response().Success
	case <-time.After(patient):
		p.c.t.Fatal("no answer, and no end")
		return false
	}
}

// A pod that does not know what the master writes says so, keeps its data and its
// vote, and goes on when it does not come any more.
func TestAPodThatIsTooOld(t *testing.T) {
	c := newCluster(t, 3).boot()
	c.served("before")
	m, p := c.master(), c.follower()
	data := []byte{entry.Version + 1}
	if m.sends(p, p.next(m.node.Term(), raft.LogCommand, data, entry.Checksum(data))) == nil {
		t.Fatal("it was taken")
	}
	if s := p.node.Status(); s.Ready || !strings.Contains(s.Because, "version") {
		t.Errorf("%+v", s)
	}
	m.kill() // What comes now is what it knows.
	next := c.master(m.name)
	next.mustPut("k", "v")
	p.mustRead("k", "v")
	m.start()
	m.awaitStart()
	c.served("after")
}

// Places that no log has, entries out of order, and other entries than those that are
// committed, change nothing.
func TestEntriesThatNoMasterSends(t *testing.T) {
	c := newCluster(t, 3).boot()
	c.served("before")
	p := c.follower()
	good, err := entry.AppendCommand([]byte{entry.Version}, machinetest.PutCommand("stranger", "v"))
	if err != nil {
		t.Fatal(err)
	}
	log := func(index, term uint64) *raft.Log {
		return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: good, Extensions: entry.Checksum(good)}
	}
	s := p.node.engine.Load().replica.Storage
	last, lastTerm := s.LastEntry()
	term := c.master().node.Term()
	var committed raft.Log
	if err := s.Log.GetLog(last-1, &committed); err != nil {
		t.Fatal(err)
	}
	for name, req := range map[string]raft.AppendEntriesRequest{
		"an entry at the end":               {Term: term, PrevLogEntry: math.MaxUint64, Entries: []*raft.Log{log(0, term)}},
		"an entry near the end":             {Term: term, PrevLogEntry: math.MaxUint64 - 1, Entries: []*raft.Log{log(math.MaxUint64, term)}},
		"a far commit index":                {Term: term, PrevLogEntry: 1 << 63, LeaderCommitIndex: math.MaxUint64},
		"a gap":                             {Term: term, PrevLogEntry: last, PrevLogTerm: lastTerm, Entries: []*raft.Log{log(last+1, term), log(last+3, term)}},
		"an entry of a later term":          {Term: term, PrevLogEntry: last, PrevLogTerm: lastTerm, Entries: []*raft.Log{log(last+1, term+1)}},
		"an entry of a term before":         {Term: term, PrevLogEntry: last, PrevLogTerm: lastTerm, Entries: []*raft.Log{log(last+1, 0)}},
		"an entry before of a later term":   {Term: term, PrevLogEntry: last, PrevLogTerm: term + 1},
		"another entry for a committed one": {Term: term + 1, PrevLogEntry: last - 2, PrevLogTerm: termOf(t, s.Log, last-2), Entries: []*raft.Log{log(last-1, term+1)}},
	} {
		for _, pipelined := range []bool{false, true} {
			if pipelined && name == "a gap" {
				continue // There an entry's index follows from the one before.
			}
			if p.taken(pipelined, req) {
				t.Errorf("%s, pipelined %t: it was taken", name, pipelined)
			}
		}
	}
	c.served("after")
	if got, found := p.machine.Get("stranger"); found && got != "" {
		t.Error("it was applied")
	}
}

func termOf(t *testing.T, log *raftlog.Log, index uint64) uint64 {
	var l raft.Log
	if err := log.GetLog(index, &l); err != nil {
		t.Fatal(err)
	}
	return l.Term
}

// Snapshots that no master sends are refused before anything of them is stored.
func TestSnapshotsThatNoMasterSends(t *testing.T) {
	c := newCluster(t, 3)
	c.adjust = func(o *replication.Options) { o.Timing.CloneStall = 200 * time.Millisecond }
	c.boot()
	c.served("before")
	p, m := c.follower(), c.master()
	good := raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: m.node.Term(), LastLogIndex: 1 << 30, LastLogTerm: 1, Size: 1 << 10, Configuration: c.membership(), ConfigurationIndex: 1}
	for name, change := range map[string]func(*raft.InstallSnapshotRequest){
		"an index at the end":             func(r *raft.InstallSnapshotRequest) { r.LastLogIndex = math.MaxUint64 },
		"no index":                        func(r *raft.InstallSnapshotRequest) { r.LastLogIndex = 0 },
		"a later term":                    func(r *raft.InstallSnapshotRequest) { r.LastLogTerm = r.Term + 1 },
		"a membership after it":           func(r *raft.InstallSnapshotRequest) { r.ConfigurationIndex = r.LastLogIndex + 1 },
		"no membership":                   func(r *raft.InstallSnapshotRequest) { r.Configuration = nil },
		"a membership that is none":       func(r *raft.InstallSnapshotRequest) { r.Configuration = []byte("x") },
		"less than nothing":               func(r *raft.InstallSnapshotRequest) { r.Size = -1 },
		"the version of before":           func(r *raft.InstallSnapshotRequest) { r.SnapshotVersion, r.Peers = 0, []byte("x") },
		"what is no database":             func(*raft.InstallSnapshotRequest) {},
		"less than it says that it sends": func(r *raft.InstallSnapshotRequest) { r.Size = 1 << 11 },
	} {
		req := good
		change(&req)
		if err := m.sends(p, req); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	c.served("after")
}

// Only the master has a pod stand for election.
func TestWhoCallsAnElection(t *testing.T) {
	c := newCluster(t, 3).boot()
	c.served("before")
	term, followers := c.master().node.Term(), c.followers()
	for range 5 {
		for i, p := range followers {
			if err := followers[1-i].sends(p, raft.TimeoutNowRequest{}); err == nil || !strings.Contains(err.Error(), "not the master") {
				t.Errorf("%v", err)
			}
		}
	}
	c.served("after")
	if after := c.master().node.Term(); after != term {
		t.Logf("the term is %d, it was %d: a busy machine may hold an election at any time", after, term)
	}
}
