package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/machinetest"
)

// load writes a new key again and again through each pod and remembers which
// were acknowledged.
type load struct {
	c     *cluster
	stop  atomic.Bool
	wg    sync.WaitGroup
	mu    sync.Mutex
	acked []string
	// unknown and refused count the other outcomes.
	unknown, refused int
	lastAck          time.Time
	longestGap       time.Duration
}

var loads atomic.Int64

func (c *cluster) load(callers int) *load {
	name := fmt.Sprintf("load%d", loads.Add(1))
	l := &load{c: c, lastAck: time.Now()}
	nodes := map[string]*Node{}
	for _, name := range c.list {
		nodes[name] = c.pods[name].node
	}
	for i := range callers {
		node := nodes[c.list[i%len(c.list)]]
		l.wg.Go(func() {
			for n := 0; !l.stop.Load(); n++ {
				key := fmt.Sprintf("%s-%d-%d", name, i, n)
				ctx, cancel := context.WithTimeout(context.Background(), patient)
				_, err := node.Propose(ctx, machinetest.PutCommand(key, key))
				cancel()
				if l.note(key, err) {
					return
				}
			}
		})
	}
	return l
}

func (l *load) note(key string, err error) (closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.acked = append(l.acked, key)
		l.longestGap = max(l.longestGap, time.Since(l.lastAck))
		l.lastAck = time.Now()
	case errors.Is(err, replication.ErrUnknown):
		l.unknown++
	case errors.Is(err, replication.ErrClosed):
		return true
	default:
		l.refused++
	}
	return false
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

func (l *load) awaitMore(n int) {
	l.c.t.Helper()
	want := l.count() + n
	l.c.eventually("writes are acknowledged", func() error {
		if got := l.count(); got < want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
}

// end stops the load and checks every living pod: what was acknowledged is
// there, and nothing was applied twice.
func (l *load) end() {
	l.c.t.Helper()
	l.stop.Store(true)
	l.wg.Wait()
	for _, name := range l.c.list {
		p := l.c.pods[name]
		if p.node == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		err := p.node.LinearizableRead(ctx)
		cancel()
		if err != nil {
			l.c.t.Fatalf("read on %s: %v", name, err)
		}
		puts := p.machine.Puts()
		for _, key := range l.acked {
			if puts[key] != 1 {
				l.c.t.Fatalf("%s on %s was acknowledged and applied %d times", key, name, puts[key])
			}
		}
		for key, n := range puts {
			if n > 1 {
				l.c.t.Fatalf("%s on %s was applied %d times", key, name, n)
			}
		}
	}
}

func TestKilledMaster(t *testing.T) {
	c := newCluster(t, 3).boot()
	l := c.load(12)
	l.awaitMore(200)
	old := c.master()
	began := time.Now()
	old.node.port.Close() // what a dead process' kernel does to its connections
	old.node.engine.Load().replica.Transport.CloseStreams()
	next := c.master(old.name)
	t.Logf("replaced after %s", time.Since(began))
	old.kill()
	next.mustPut("after", "the kill")
	l.awaitMore(200)
	l.end()
	t.Logf("longest gap between acknowledged writes: %s; unknown %d", l.longestGap, l.unknown)
	old.start()
	old.awaitStart()
	c.awaitReady()
	old.mustRead("after", "the kill")
}

// A follower's stream to a master that is cut off, or hangs, fills up, and then a
// Send waits for as long as the connection is taken for alive. The writes to the next
// master do not.
func TestForwardsToAMasterThatTakesNothing(t *testing.T) {
	c := newCluster(t, 3).boot()
	old, large := c.master(), strings.Repeat("x", 100<<10)
	c.net.isolate(old.name)
	var writers sync.WaitGroup
	defer writers.Wait()
	defer c.net.heal()
	for _, f := range c.followers() {
		for i := range 20 {
			writers.Go(func() { _ = f.put(fmt.Sprint("large/", i), large) }) // Unknown, or done.
		}
	}
	next := c.master(old.name)
	for _, f := range c.followers() {
		if f == old || f == next {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), patient/2)
		defer cancel()
		if _, err := f.node.Propose(ctx, machinetest.PutCommand("small", "x")); err != nil {
			t.Errorf("a write through %s to %s, which leads: %v", f.name, next.name, err)
		}
	}
}

// Scenario: S10, S40
func TestCutOffMasterServesNothing(t *testing.T) {
	c := newCluster(t, 3).boot()
	old := c.master()
	old.mustPut("k", "before")
	c.net.isolate(old.name)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	write := make(chan error, 1)
	go func() {
		_, err := old.node.Propose(ctx, machinetest.PutCommand("k", "lost"))
		write <- err
	}()
	read := make(chan error, 1)
	go func() {
		for {
			// Either it cannot be confirmed, or it was before the cut took effect
			// and then nobody else can have written yet.
			if err := old.node.LinearizableRead(ctx); err != nil {
				read <- err
				return
			}
			if v, _ := old.machine.Get("k"); v != "before" {
				read <- fmt.Errorf("read %q", v)
				return
			}
		}
	}()
	next := c.master(old.name)
	next.mustPut("k", "after")
	if err := old.node.LinearizableRead(ctx); err == nil {
		t.Error("the cut off master confirmed a read after another one had written")
	}
	if err := <-write; !errors.Is(err, replication.ErrUnknown) && !errors.Is(err, replication.ErrNoMaster) {
		t.Errorf("write on the cut off master: %v", err)
	}
	if err := <-read; !errors.Is(err, replication.ErrNoMaster) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read on the cut off master: %v", err)
	}
	c.net.heal()
	old.mustRead("k", "after")
	c.awaitReady()
}

// Scenario: S23
func TestHandOverUnderLoad(t *testing.T) {
	c := newCluster(t, 3).boot()
	l := c.load(12)
	for range 6 {
		l.awaitMore(50)
		old := c.master()
		to := c.follower().name
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		began := time.Now()
		got, err := c.follower().node.HandOver(ctx, to) // asked on a follower
		cancel()
		if err != nil || got != to {
			t.Fatalf("hand over from %s to %s: %s, %v", old.name, to, got, err)
		}
		t.Logf("handed over in %s", time.Since(began))
	}
	l.awaitMore(50)
	l.end()
	if l.unknown > 0 || l.refused > 0 {
		t.Errorf("%d writes of unknown outcome and %d refused in orderly changes of master", l.unknown, l.refused)
	}
	t.Logf("longest gap between acknowledged writes: %s", l.longestGap)
}

// Scenario: S23
func TestCloseHandsOver(t *testing.T) {
	c := newCluster(t, 3).boot()
	old := c.master()
	old.mustPut("k", "v")
	term := old.node.Status().Term
	old.close(context.Background())
	next := c.master()
	next.mustRead("k", "v")
	if got := next.node.Status().Term; got != term+1 {
		t.Errorf("term %d after %d: there was more than the one election of the hand over", got, term)
	}
	old.start()
	old.awaitStart()
	c.awaitReady()
	if n := len(c.master().node.Members()); n != 3 {
		t.Errorf("%d members after a restart", n)
	}
}

// What was acknowledged survives kills of all pods at once: the state machines
// forget what they have not flushed, and the log gives it again.
func TestAllKilled(t *testing.T) {
	c := newCluster(t, 3).boot()
	for round := range 3 {
		l := c.load(6)
		l.awaitMore(100)
		l.stop.Store(true)
		l.wg.Wait()
		for _, name := range c.list {
			c.pods[name].kill()
		}
		for i := range c.list {
			c.pods[c.list[(i+round)%3]].start()
		}
		for _, p := range c.pods {
			p.awaitStart()
		}
		c.awaitReady()
		l.end()
	}
}

// When all pods start together nobody waits for an election timeout: here it is
// longer than the test.
func TestAllStartTogether(t *testing.T) {
	c := newCluster(t, 3).boot()
	c.master().mustPut("k", "v")
	for _, name := range c.list {
		c.pods[name].kill()
	}
	c.adjust = func(o *replication.Options) { o.Timing.Heartbeat, o.Timing.Election = 2*patient, 2*patient }
	for _, name := range c.list {
		c.pods[name].start()
	}
	for _, p := range c.pods {
		p.awaitStart()
	}
	c.master().mustRead("k", "v")
}

// Scenario: S38
func TestUnknownOutcome(t *testing.T) {
	c := newCluster(t, 3).boot()
	follower, master := c.follower(), c.master()
	c.net.isolate(master.name)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := follower.node.Propose(ctx, machinetest.PutCommand("k", "v")); !errors.Is(err, replication.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("forwarded to a cut off master, context ended: %v", err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), patient)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := master.node.Propose(ctx, machinetest.PutCommand("k", "w"))
		done <- err
	}()
	if err := <-done; !errors.Is(err, replication.ErrUnknown) && !errors.Is(err, replication.ErrNoMaster) {
		t.Errorf("on the cut off master: %v", err)
	}
	c.net.heal()
	c.awaitReady()
}

func TestNoMaster(t *testing.T) {
	c := newCluster(t, 3).boot()
	p := c.pods["kv-1"]
	for _, name := range []string{"kv-0", "kv-2"} {
		c.pods[name].kill()
	}
	c.eventually("the pod has noticed", func() error {
		if m, ok := p.node.Master(); ok {
			return fmt.Errorf("it takes %s for the master", m)
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	if _, err := p.node.Propose(ctx, machinetest.PutCommand("k", "v")); !errors.Is(err, replication.ErrNoMaster) || errors.Is(err, replication.ErrUnknown) {
		t.Errorf("write: %v", err)
	}
	if err := p.node.LinearizableRead(ctx); !errors.Is(err, replication.ErrNoMaster) {
		t.Errorf("read: %v", err)
	}
	// The others' names do not resolve: a cold start, in which the next pod is
	// only created when this one is ready.
	c.eventually("it is ready", func() error {
		if s := p.node.Status(); !s.Ready {
			return errors.New(s.Because)
		}
		return nil
	})
}

// Scenario: S40
func TestBoundedRead(t *testing.T) {
	c := newCluster(t, 3).boot()
	p := c.follower()
	c.master().mustPut("k", "v")
	p.mustRead("k", "v")
	c.net.isolate(p.name)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := p.node.BoundedRead(ctx, time.Hour); err != nil {
		t.Errorf("within the bound: %v", err)
	}
	if err := p.node.BoundedRead(ctx, time.Nanosecond); err == nil {
		t.Error("a cut off pod gave a read that is at most a nanosecond old")
	}
}

// A hand-over that the master refuses is refused on a follower, too: nobody has to
// look what became of it.
func TestARefusedHandOverThroughAFollower(t *testing.T) {
	c := newCluster(t, 3).boot()
	master, follower := c.master(), c.follower()
	for _, p := range []*pod{master, follower} {
		if _, err := p.node.HandOver(t.Context(), "kv-9"); !errors.Is(err, replication.ErrNoSuccessor) {
			t.Errorf("on %s: %v", p.name, err)
		}
	}
	// It asks a pod that is not the master any more.
	answer, err := follower.node.answers.HandOver(t.Context(), &peerv1.HandOverRequest{})
	if status.Code(err) != codes.Aborted {
		t.Error(answer, err)
	}
	if !master.node.IsMaster() {
		t.Error("the baton was handed over")
	}
}

// A pod that has just lost the lead, and not heard of it yet, calls itself the master of
// the term that it led, not of its successor's.
func TestStatusOfALateMaster(t *testing.T) {
	c := newCluster(t, 2).boot()
	m := c.master()
	before := m.node.Status()
	views := m.node.engine.Load().replica.Views
	late := views.Load()
	if _, err := m.node.HandOver(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	c.master(m.name)
	views.Now.Store(late)
	if s := m.node.Status(); s.Role == replication.RoleMaster && s.Term != before.Term {
		t.Errorf("the master of term %d says that it is the one of term %d", before.Term, s.Term)
	}
}
