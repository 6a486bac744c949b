package server

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// clock is the leaseExpirer's in tests.
type clock struct{ now time.Duration }

func testExpirer(s *testStore, c *clock) *leaseExpirer {
	l := &leaseExpirer{store: s.Store, clock: func() time.Duration { return c.now }, leases: map[int64]*lease{}}
	l.load()
	return l
}

// Scenario: S37
func TestLeaseEndsAfterItsTimeAndNotBefore(t *testing.T) {
	s, c := newStore(t), &clock{}
	s.grant(1, 10)
	l := testExpirer(s, c)
	c.now = 10*time.Second - 1
	if over := l.over(); len(over) != 0 {
		t.Fatalf("ended early: %v", over)
	}
	c.now++
	over := l.over()
	if len(over) != 1 || over[0].id != 1 {
		t.Fatalf("over: %v", over)
	}
	if again := l.over(); len(again) != 0 {
		t.Error("ended twice at once")
	}
	if l.keepAlive(1) != 0 {
		t.Error("kept alive while it ends")
	}
	// The revocation failed: it is tried again.
	if c.now += endingTimeout; len(l.over()) != 1 {
		t.Error("the end is not tried again")
	}
	s.revoke(1)
	l.refresh()
	if len(l.leases) != 0 || len(l.queue) != 0 {
		t.Error("a revoked lease is still held")
	}
}

// What passes while the master is in doubt about its data is no time of a lease's.
func TestNoLeaseEndsInDoubt(t *testing.T) {
	s, c := newStore(t), &clock{}
	s.grant(1, 10)
	l := testExpirer(s, c)
	for at, doubt := range []bool{false, false, false, false, true, true, true, true, true, true, true, true, false} {
		c.now = time.Duration(at) * time.Second
		l.tick(doubt)
	}
	if _, left, _ := l.remaining(1); left != 7*time.Second {
		t.Errorf("%s are left", left)
	}

	p := three(t)[0]
	p.store.grant(5, 1)
	ended := make(chan struct{}, 1)
	p.log.propose = func(context.Context, *kvv1.Command) (*kvv1.Result, error) {
		select {
		case ended <- struct{}{}:
		default:
		}
		return nil, errors.New("not now")
	}
	runMaster(t, p)
	p.Withdraw("it may be wrong")
	select {
	case <-ended:
		t.Error("a lease was ended in doubt")
	case <-time.After(1500 * time.Millisecond):
	}
	p.core.doubts.diverged.Store(nil)
	select {
	case <-ended:
	case <-within5s(t).Done():
		t.Error("a lease does not end after a doubt")
	}
}

// A lease that was revoked and granted again before anybody looked has its own
// time, and is not about to end because the one before was.
func TestGrantedAgain(t *testing.T) {
	s, c := newStore(t), &clock{}
	s.grant(1, 10)
	l := testExpirer(s, c)
	if c.now = 10 * time.Second; len(l.over()) != 1 {
		t.Fatal("it does not end")
	}
	s.revoke(1)
	s.grant(1, 20)
	if ttl, left, ok := l.remaining(1); !ok || ttl != 20*time.Second || left != ttl {
		t.Errorf("granted again: %v, %v left, %v", ttl, left, ok)
	}
	if c.now += 15 * time.Second; len(l.over()) != 0 || len(l.queue) != 1 {
		t.Error("it ends early")
	}
}

func TestKeepAlive(t *testing.T) {
	s, c := newStore(t), &clock{}
	s.grant(1, 10)
	s.grant(2, 15)
	l := testExpirer(s, c)
	c.now = 9 * time.Second
	if got := l.keepAlive(1); got != 10*time.Second {
		t.Fatal(got)
	}
	c.now = 18 * time.Second
	if over := l.over(); len(over) != 1 || over[0].id != 2 {
		t.Fatalf("over: %v", over)
	}
	if ttl, left, ok := l.remaining(1); !ok || ttl != 10*time.Second || left != time.Second {
		t.Fatal(ttl, left, ok)
	}
	if l.keepAlive(3) != 0 {
		t.Error("kept alive what does not exist")
	}
}

// A lease that was granted a moment ago, before the leaseExpirer has looked.
func TestKeepAliveOfAnUnseenLease(t *testing.T) {
	s, c := newStore(t), &clock{}
	l := testExpirer(s, c)
	c.now = time.Second
	s.grant(5, 3)
	if got := l.keepAlive(5); got != 3*time.Second {
		t.Fatal(got)
	}
}

// A new master gives every lease its full time again.
func TestTakeover(t *testing.T) {
	s, c := newStore(t), &clock{}
	s.grant(1, 10)
	testExpirer(s, c)
	next := testExpirer(s, &clock{now: 9 * time.Second})
	if _, left, _ := next.remaining(1); left != 10*time.Second {
		t.Fatal(left)
	}
}

func TestManyLeasesEndInBoundedLots(t *testing.T) {
	s, c := newStore(t), &clock{}
	for id := int64(1); id <= 3*maxEndings; id++ {
		s.grant(id, 1)
	}
	l := testExpirer(s, c)
	c.now = time.Second
	for range 3 {
		if got := len(l.over()); got != maxEndings {
			t.Fatal(got)
		}
	}
	if got := len(l.over()); got != 0 {
		t.Fatal(got)
	}
}

// The longest time to live does not overflow.
func TestLongestLease(t *testing.T) {
	s := newStore(t)
	s.grant(1, MaxTTLSeconds)
	l := testExpirer(s, &clock{now: 365 * 24 * time.Hour})
	if _, left, _ := l.remaining(1); left != MaxTTLSeconds*time.Second {
		t.Fatal(left)
	}
}

// RunMaster revokes what is over, through the log.
func TestRunMasterEndsLeases(t *testing.T) {
	p := newPod(t, "kv-0").use()
	revoked := make(chan int64, 1)
	p.log.propose = func(_ context.Context, command *kvv1.Command) (*kvv1.Result, error) {
		if r := command.GetRevoke(); r != nil {
			if r.GetGrantedIndex() != 1 {
				t.Errorf("%v may end another lease of this id", r)
			}
			p.store.revoke(r.GetId())
			revoked <- r.GetId()
			return &kvv1.Result{Result: &kvv1.Result_Revoke{Revoke: &kvv1.RevokeResponse{}}}, nil
		}
		return &kvv1.Result{Result: &kvv1.Result_Compact{Compact: &kvv1.CompactResponse{}}}, nil
	}
	p.store.grant(8, 1) // Its index is 1.
	ctx, cancel := context.WithCancel(within5s(t))
	ended := make(chan struct{})
	start := time.Now()
	go func() { defer close(ended); p.RunMaster(ctx) }()
	select {
	case id := <-revoked:
		if id != 8 || time.Since(start) < time.Second {
			t.Errorf("lease %d ended after %s", id, time.Since(start))
		}
	case <-ctx.Done():
		t.Fatal("the lease did not end")
	}
	cancel()
	<-ended
	if p.leaseExpirer.Load() != nil {
		t.Error("the leaseExpirer outlives the role")
	}
}

// Without leases the master waits for one, however long; what passed meanwhile is
// nobody's time, in doubt or not.
func TestTheFirstLease(t *testing.T) {
	s, c := newStore(t), &clock{}
	l := testExpirer(s, c)
	held, tick, granted := l.due()
	if held != 0 || tick != nil {
		t.Fatalf("it ticks for %d leases", held)
	}
	l.tick(true)
	c.now = time.Hour
	s.grant(1, 10)
	select {
	case <-granted:
	case <-time.After(5 * time.Second):
		t.Fatal("nobody was told of the first lease")
	}
	l.refresh()
	l.tick(false)
	if _, left, ok := l.remaining(1); !ok || left != 10*time.Second {
		t.Errorf("%s left, %t", left, ok)
	}
	if held, tick, _ := l.due(); held != 1 || tick == nil {
		t.Errorf("it does not tick for %d leases", held)
	}
	// One that came before anybody asked is no less a change.
	s.revoke(1)
	before := l.changes
	select {
	case <-s.LeasesChanged(before):
	case <-time.After(5 * time.Second):
		t.Fatal("nobody was told of the last lease's end")
	}
}

// Beside a hundred thousand leases, a grant and its first keep-alive cost no more
// than beside none.
func TestManyLeasesDoNotSlowOneDown(t *testing.T) {
	const many, pairs = 100_000, 50
	s, c := newStore(t), &clock{}
	for id := range int64(many) {
		s.grant(id+1, 1000)
	}
	l := testExpirer(s, c)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for id := int64(many + 1); id <= many+pairs; id++ {
		s.grant(id, 10)
		if l.keepAlive(id) != 10*time.Second {
			t.Fatal("a new lease is not known")
		}
	}
	runtime.ReadMemStats(&after)
	if bytes := (after.TotalAlloc - before.TotalAlloc) / pairs; bytes > 64<<10 {
		t.Errorf("%d bytes for each: all leases were looked at", bytes)
	}
}

// What the expirer holds is what the store has, however far it is behind.
func TestExpirerFollows(t *testing.T) {
	s := newStore(t)
	l, random := testExpirer(s, &clock{}), rand.New(rand.NewPCG(1, 2))
	for _, changes := range []int{0, 1, 10, 3000, 20_000, 8192, 8193, 5} {
		for range changes {
			if id := random.Int64N(2000) + 1; random.IntN(2) == 0 {
				s.grant(id, random.Int64N(3)+10)
			} else {
				s.revoke(id)
			}
		}
		l.refresh()
		all, _ := s.Leases()
		if len(all) != len(l.leases) || len(all) != len(l.queue) {
			t.Fatalf("after %d changes: %d leases, %d known, %d queued", changes, len(all), len(l.leases), len(l.queue))
		}
		for _, stored := range all {
			if have := l.leases[stored.GetId()]; have == nil || have.granted != stored.GetGrantedIndex() || l.queue[have.place] != have {
				t.Fatalf("after %d changes: %v is known as %+v", changes, stored, have)
			}
		}
	}
}
