package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/machinetest"
	"github.com/batondb/baton/replication/internal/raftlog"
	"github.com/batondb/baton/replication/internal/volume"
)

// awaitRetired is the container that ends, and that Kubernetes starts again.
func (p *pod) awaitRetired() {
	p.c.t.Helper()
	select {
	case err := <-p.node.Failed():
		if !errors.Is(err, replication.ErrRetired) {
			p.c.t.Fatalf("%s failed with %v", p.name, err)
		}
	case <-time.After(patient):
		p.c.t.Fatalf("%s does not give up its data: %s", p.name, p.node.Status().Because)
	}
	p.kill()
}

// recloning begins what a pod does that finds its data damaged.
func (p *pod) recloning() {
	ctx := p.c.t.Context()
	go p.node.Reclone(ctx, "it is damaged")
}

// voters are the members of a pod's committed membership that vote.
func (p *pod) voters() (ids []replication.MemberID) {
	for _, m := range p.node.Members() {
		if m.Voter {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// awaitWhole waits until all pods vote and are ready, with new disks where
// it is said so.
func (c *cluster) awaitWhole(before map[string]replication.MemberID, replaced ...*pod) {
	c.t.Helper()
	c.awaitReady()
	c.eventually("every pod votes, and nobody else", func() error {
		for _, name := range c.list {
			if ids := c.pods[name].voters(); len(ids) != len(c.list) || len(c.pods[name].node.Members()) != len(ids) {
				return errors.New(name + " sees other members")
			}
		}
		return nil
	})
	for _, p := range replaced {
		if p.node.MemberID() == before[p.name] {
			c.t.Errorf("%s kept its data", p.name)
		}
	}
}

func (c *cluster) memberIDs() map[string]replication.MemberID {
	ids := map[string]replication.MemberID{}
	for name, p := range c.pods {
		ids[name] = p.node.MemberID()
	}
	return ids
}

// Damage is found in two pods at once. One gives up its data, the other one
// votes on until the first is whole again; there is a quorum all the time.
//
// Scenario: S44
func TestTwoPodsRecloneAtOnce(t *testing.T) {
	c := newCluster(t, 3).boot()
	before := c.memberIDs()
	master, followers := c.master(), c.followers()
	l := &load{c: c, lastAck: time.Now()}
	l.wg.Go(func() {
		for n := 0; !l.stop.Load(); n++ {
			key := fmt.Sprint("during ", n)
			l.note(key, master.put(key, key))
		}
	})
	for _, p := range followers {
		p.recloning()
	}
	first, second := followers[0], followers[1]
	c.eventually("one of them gives up its data", func() error {
		if len(second.node.fate.failed) > 0 {
			first, second = second, first
		}
		if len(first.node.fate.failed) == 0 {
			return errors.New(first.node.Status().Because)
		}
		return nil
	})
	if votes := master.voters(); len(votes) != 2 || len(second.node.fate.failed) > 0 {
		t.Errorf("when %s gives up its data the voters are %v", first.name, votes)
	}
	for _, p := range []*pod{first, second} {
		p.awaitRetired()
		l.awaitMore(20)
		p.start()
		p.awaitStart()
	}
	c.awaitWhole(before, followers...)
	if !master.node.IsMaster() {
		t.Error("there was another master")
	}
	l.end()
	if l.unknown+l.refused > 0 || l.longestGap > 2*time.Second {
		t.Errorf("%d writes of unknown outcome, %d refused, %s without a write", l.unknown, l.refused, l.longestGap)
	}
}

// The second pod finds damage while the first one is away to clone. It keeps its
// data, says why, and crashes meanwhile; later it goes on by itself.
//
// Scenario: S44
func TestRecloneWaitsForTheOther(t *testing.T) {
	c := newCluster(t, 3).boot()
	before := c.memberIDs()
	master, first, second := c.master(), c.followers()[0], c.followers()[1]
	first.recloning()
	first.awaitRetired()
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := second.node.Reclone(soon, "it is damaged")
	if err == nil || !strings.Contains(err.Error(), first.name+" does not vote yet") || !second.node.Disk().HasData {
		t.Fatalf("the second one: %v", err)
	}
	if s := second.node.Status(); s.Ready || !strings.Contains(s.Because, "it is damaged") {
		t.Errorf("the second one is ready (%t) because %q", s.Ready, s.Because)
	}
	master.mustPut("k", "by two of three")
	second.kill()
	second.start()
	second.awaitStart()
	master.mustPut("k", "after a crash")
	if seen := master.node.inspect(t.Context(), []string{second.name})[second.name]; seen.GetCloneable() || !seen.GetStopping() {
		t.Errorf("%s gives clones and takes the baton: %v", second.name, seen)
	}
	first.start()
	first.awaitStart()
	second.awaitRetired()
	second.start()
	second.awaitStart()
	c.awaitWhole(before, first, second)
	second.mustRead("k", "after a crash")
}

// Damage is found in a pod while another one answers, but lacks more than the log has,
// and cannot take a snapshot yet. The vote is not taken: without it nothing could be
// committed. The damaged pod says why it waits; later it goes on by itself.
//
// Scenario: S44
func TestNoVoteIsTakenWhileAnotherPodLags(t *testing.T) {
	c := newCluster(t, 3)
	c.adjust = func(o *replication.Options) { o.LogBytes = 1 << 20 }
	c.boot()
	before := c.memberIDs()
	master, lagging, damaged := c.master(), c.followers()[0], c.followers()[1]
	lagging.machine.Refuse(true)
	c.net.isolate(lagging.name)
	master.growLog("big", 20)
	c.net.heal()
	c.eventually("the pod that lacks much answers", func() error {
		if !master.node.engine.Load().replica.Acks.Heard(lagging.node.MemberID(), time.Second) {
			return errors.New("it does not")
		}
		return nil
	})
	damaged.recloning()
	c.eventually("it says what it waits for", func() error {
		if because := damaged.node.Status().Because; !strings.Contains(because, lagging.name+" lags behind") {
			return errors.New(because)
		}
		return nil
	})
	master.mustPut("k", "by two of three")
	if votes := master.voters(); len(votes) != 3 || len(damaged.node.Failed()) > 0 {
		t.Errorf("the voters are %v", votes)
	}
	lagging.machine.Refuse(false)
	damaged.awaitRetired()
	damaged.start()
	damaged.awaitStart()
	c.awaitWhole(before, damaged)
	damaged.mustRead("k", "by two of three")
}

// A pod that has lost its vote, and dies before it has set its data aside, does
// so after its next start.
func TestRecloneAfterACrash(t *testing.T) {
	c := newCluster(t, 3).boot()
	before := c.memberIDs()
	master, p := c.master(), c.follower()
	if err := p.node.askOut(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if votes := len(master.voters()); votes != 2 {
		t.Fatalf("%d voters", votes)
	}
	// It has noted the intention, and no more.
	soon, cancel := context.WithCancel(t.Context())
	cancel()
	p.node.Reclone(soon, "it is damaged")
	p.kill()
	p.start()
	p.awaitStart()
	p.awaitRetired()
	p.start()
	p.awaitStart()
	c.awaitWhole(before, p)
}

// The master hands the baton over first. The only member keeps what it has.
func TestMasterReclones(t *testing.T) {
	c := newCluster(t, 2).boot()
	before := c.memberIDs()
	p := c.master()
	p.mustPut("k", "v")
	p.recloning()
	p.awaitRetired()
	other := c.master(p.name)
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := other.node.Reclone(soon, "it is damaged, too"); !errors.Is(err, errAlone) || !other.node.Disk().HasData {
		t.Errorf("the only voter: %v", err)
	}
	p.start()
	c.eventually("it finds nobody to clone from", func() error {
		if because, _ := p.node.progress.Get(); !strings.Contains(because, "no pod has a database that can be cloned") {
			return errors.New(because)
		}
		return nil
	})
	if got := other.node.MemberID(); got != before[other.name] {
		t.Errorf("%s", got)
	}
	other.mustPut("k", "w")
}

// Two of three find at their start that they cannot even vote. They wait, and a
// person who names them recovers on the third.
//
// Scenario: S20
func TestMajorityDamaged(t *testing.T) {
	c := newCluster(t, 3).boot()
	survivor := c.pods["kv-0"]
	survivor.mustPut("k", "v")
	for _, name := range []string{"kv-1", "kv-2"} {
		p := c.pods[name]
		p.kill()
		if err := os.RemoveAll(filepath.Join(p.dir, "raft")); err != nil {
			t.Fatal(err)
		}
		p.start()
		if err := <-p.started; !errors.Is(err, replication.ErrDamaged) {
			t.Fatalf("%s started: %v", name, err)
		}
	}
	c.eventually("there is no master", func() error {
		if master, ok := survivor.node.Master(); ok {
			return errors.New(master)
		}
		return nil
	})
	for _, name := range []string{"kv-1", "kv-2"} {
		p := c.pods[name]
		p.recloning()
		c.eventually(name+" waits", func() error {
			if because, _ := p.node.progress.Get(); !strings.Contains(because, "no master") {
				return errors.New(because)
			}
			return nil
		})
	}
	for lost, want := range map[string]string{"": "--lost kv-1,kv-2", "kv-1": "--lost kv-2", "kv-1,kv-2": ""} {
		err := survivor.node.CheckRecovery(t.Context(), replication.Recovery{Lost: strings.FieldsFunc(lost, func(r rune) bool { return r == ',' })})
		if (err == nil) != (want == "") || err != nil && !strings.HasSuffix(err.Error(), want) {
			t.Errorf("with %q lost: %v", lost, err)
		}
	}
}

// A master that was paused, or is cut off, does not know who has become a member
// since. It tells nobody that he is out: who hears it gives up his data.
func TestNobodyIsOutByAnOldMastersWord(t *testing.T) {
	c := newCluster(t, 3).boot()
	old := c.master()
	service := old.node.answers
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c.net.isolate(old.name)
	later := "kv-2/" + uuid.NewString()
	joined := &peerv1.JoinRequest{MemberId: later, Address: later, Returning: true}
	if answer, err := service.Join(ctx, joined); err == nil {
		t.Errorf("to a member that it does not know: %v", answer)
	}
	c.net.heal()
	c.awaitReady()
	old = c.master()
	service = old.node.answers
	c.net.isolate(old.name)
	for _, reclone := range []bool{false, true} {
		if _, err := service.Leave(ctx, &peerv1.LeaveRequest{MemberId: later, Reclone: reclone}); err == nil {
			t.Errorf("a member that it does not know has left (%t)", reclone)
		}
	}
	c.net.heal()
	c.awaitReady()
	if answer, err := c.master().node.answers.Join(ctx, joined); err != nil || !answer.GetRemoved() {
		t.Errorf("with a quorum: %v, %v", answer, err)
	}
}

// A member id that no pod has is refused before it is noted anywhere.
func TestForeignMemberIDs(t *testing.T) {
	c := newCluster(t, 1).boot()
	service := c.master().node.answers
	for _, id := range []string{"", "kv-1", "kv-1/", "kv-1/x", "kv-1/../" + uuid.NewString(), "../x-1/" + uuid.NewString(), "kv/" + uuid.NewString()} {
		_, join := service.Join(t.Context(), &peerv1.JoinRequest{MemberId: id, Address: id})
		_, leave := service.Leave(t.Context(), &peerv1.LeaveRequest{MemberId: id})
		_, keep := service.KeepLog(t.Context(), &peerv1.KeepLogRequest{MemberId: id})
		for call, err := range map[string]error{"join": join, "leave": leave, "keep log": keep} {
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s %q: %v", call, id, err)
			}
		}
	}
}

// The disk takes nothing, first when a pod wants to note that its data is of no use,
// and again when it has lost its vote: it is tried again until it does. Meanwhile
// nobody takes the data for any good.
func TestRecloneOnAFullDisk(t *testing.T) {
	c := newCluster(t, 3).boot()
	before := c.memberIDs()
	master, p, other := c.master(), c.followers()[0], c.followers()[1]
	blocked := filepath.Join(p.dir, "member.json.tmp")
	full := func(is bool) {
		t.Helper()
		do := os.Remove
		if is {
			do = func(path string) error { return os.Mkdir(path, 0o700) }
		}
		if err := do(blocked); err != nil {
			t.Fatal(err)
		}
	}
	says := func(what string) {
		t.Helper()
		c.eventually("it says "+what, func() error {
			if because, _ := p.node.progress.Get(); !strings.Contains(because, what) {
				return errors.New(because)
			}
			return nil
		})
	}
	full(true)
	p.recloning()
	says("cannot be written")
	if seen := master.node.inspect(t.Context(), []string{p.name})[p.name]; seen.GetCloneable() || !seen.GetStopping() {
		t.Errorf("it gives clones and takes the baton: %v", seen)
	}
	if len(p.node.fate.failed) > 0 || len(master.voters()) != 3 {
		t.Errorf("it has failed (%d), or has no vote: %v", len(p.node.fate.failed), master.voters())
	}
	other.kill()
	full(false)
	says(other.name + " does not answer")
	full(true)
	other.start()
	other.awaitStart()
	c.eventually("it has no vote", func() error {
		if n := len(master.voters()); n != 2 {
			return fmt.Errorf("%d voters", n)
		}
		return nil
	})
	says("cannot be written")
	full(false)
	p.awaitRetired()
	p.start()
	p.awaitStart()
	c.awaitWhole(before, p)
}

// The disk takes nothing when a pod first hears that it is a member. It notes it
// later, and so hears as well that it was removed.
func TestJoinedOnAFullDisk(t *testing.T) {
	c := newCluster(t, 3).boot()
	p := c.follower()
	joined := func() uint64 { return p.node.volume.Identity().JoinedIndex }
	c.eventually("it has joined", func() error {
		if joined() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	p.kill()
	v, err := volume.Open(t.Context(), p.dir, p.name, time.Second, logger(t, p.name))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(v.Update(func(id *volume.Identity) { id.JoinedIndex = 0 }), v.Close()); err != nil {
		t.Fatal(err)
	}
	blocked := filepath.Join(p.dir, "member.json.tmp")
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	p.start()
	p.awaitStart()
	c.awaitReady()
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	c.eventually("it notes that it has joined", func() error {
		if joined() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
}

// A membership in the log cannot be decoded. Whoever looks whether the copy can be
// adopted, or recovered from, is told so.
func TestCheckDataWithADamagedMembership(t *testing.T) {
	c := newCluster(t, 1).boot()
	p := c.master()
	p.mustPut("k", "v")
	p.kill()
	p.editLog(func(l *raftlog.Log) error {
		last, err := l.LastIndex()
		if err != nil {
			return err
		}
		return l.StoreLog(&raft.Log{Index: last + 1, Term: 9, Type: raft.LogConfiguration, Data: []byte{0xc1}})
	})
	r := replication.Recovery{Dir: p.dir, Name: p.name, Open: func() (replication.StateMachine, func() error, error) {
		return machinetest.Open(t, p.dir), func() error { return nil }, nil
	}}
	if err := CheckData(t.Context(), r); err == nil {
		t.Error("the copy is whole")
	}
}

// What was never founded begins no other history, and is not chosen for one.
func TestCheckDataThatIsNotThere(t *testing.T) {
	c := newCluster(t, 1).boot()
	p := c.master()
	p.kill()
	v, err := volume.Open(t.Context(), p.dir, p.name, time.Second, logger(t, p.name))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(v.Update(func(id *volume.Identity) { id.Stage = volume.Bootstrapping }), v.Close()); err != nil {
		t.Fatal(err)
	}
	r := replication.Recovery{Dir: p.dir, Name: p.name, Cluster: "c2", Open: func() (replication.StateMachine, func() error, error) {
		return machinetest.Open(t, p.dir), func() error { return nil }, nil
	}}
	check := CheckData(t.Context(), r)
	if _, err := Recover(t.Context(), r); !errors.Is(err, replication.ErrRecoveryRefused) || check == nil {
		t.Errorf("it is recovered from: %v; it was checked: %v", err, check)
	}
}

// A bit flips in an entry of a pod's log. The pod does not start with it, keeps its
// data until the others can do without it, and clones.
func TestADamagedEntry(t *testing.T) {
	c := newCluster(t, 3).boot()
	before := c.memberIDs()
	p := c.follower()
	const value = "the value of which a bit flips"
	for _, v := range []string{"a", value, "b", "c"} {
		p.mustPut("k", v)
	}
	p.mustRead("k", "c")
	p.kill()
	files, err := filepath.Glob(filepath.Join(p.dir, "raft", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	flipped := 0
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(raw, []byte(value)); at >= 0 {
			flipped++
			raw[at] ^= 1
			if err := os.WriteFile(file, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if flipped != 1 {
		t.Fatalf("the entry is in %d files", flipped)
	}
	p.start()
	if err := <-p.started; !errors.Is(err, replication.ErrDamaged) {
		t.Fatalf("it starts: %v", err)
	}
	p.recloning()
	p.awaitRetired()
	p.start()
	p.awaitStart()
	c.awaitWhole(before, p)
	p.mustRead("k", "c")
}

// The votes, or what is known of the files of the log, cannot be read.
func TestDamagedVotesAreDamage(t *testing.T) {
	c := newCluster(t, 3).boot()
	for _, name := range []string{"vote.db", "wal-meta.db"} {
		p := c.followers()[0]
		before := c.memberIDs()
		p.mustPut("k", name)
		p.kill()
		path := filepath.Join(p.dir, "raft", name)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		clear(raw[:2*os.Getpagesize()]) // Both of bbolt's meta pages.
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		p.start()
		if err := <-p.started; !errors.Is(err, replication.ErrDamaged) {
			t.Fatalf("with %s: it starts: %v", name, err)
		}
		p.recloning()
		p.awaitRetired()
		p.start()
		p.awaitStart()
		c.awaitWhole(before, p)
		p.mustRead("k", name)
	}
}

// condemn notes on a pod's disk, while it is down, that its data is of no use.
func (p *pod) condemn() {
	p.c.t.Helper()
	v, err := volume.Open(p.c.t.Context(), p.dir, p.name, time.Second, logger(p.c.t, p.name))
	if err != nil {
		p.c.t.Fatal(err)
	}
	if err := errors.Join(v.Update(func(id *volume.Identity) { id.Condemned = "it is damaged" }), v.Close()); err != nil {
		p.c.t.Fatal(err)
	}
}

// A master finds its data damaged, and cannot apply any more: a write in flight
// never ends. It hands over all the same, and gives its data up. (Simulation, seed 82.)
func TestADamagedMasterThatIsStuck(t *testing.T) {
	c := newCluster(t, 3).boot()
	before := c.memberIDs()
	m := c.master()
	m.mustPut("k", "v")
	stuck := make(chan struct{})
	m.machine.Stuck.Store(&stuck)
	goOn := sync.OnceFunc(func() { m.machine.Stuck.Store(nil); close(stuck) })
	t.Cleanup(goOn)
	written := make(chan struct{})
	go func() { defer close(written); _ = m.put("in", "flight") }()
	m.recloning()
	c.master(m.name)
	select {
	case err := <-m.node.Failed():
		if !errors.Is(err, replication.ErrRetired) {
			t.Fatal(err)
		}
	case <-time.After(patient):
		t.Fatalf("it does not give up its data: %s", m.node.Status().Because)
	}
	goOn()
	m.kill()
	<-written
	m.start()
	m.awaitStart()
	c.awaitWhole(before, m)
	m.mustRead("k", "v")
}
