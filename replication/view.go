package replication

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// view is what this pod believes about the master, at one moment.
type view struct {
	// master is empty while none is known.
	master MemberID
	// last is the last master that was known, this one included.
	last MemberID
	// leads: this pod is Raft's leader, and may propose.
	leads bool
	// ready: it leads, and has applied an entry of this term.
	ready bool
	term  uint64
	// changed is closed when there is a newer view.
	changed chan struct{}
}

const (
	// patience is how many election timeouts a call waits for a master.
	patience = 6
	// retryPause is waited when the master that is known refuses: it has not
	// noticed yet that it leads, or no more does.
	retryPause = 20 * time.Millisecond
)

// views keeps the present view.
type views struct {
	self MemberID
	// patience is how long a call waits for a master.
	patience time.Duration
	now      atomic.Pointer[view]
	// closed is closed when nobody waits for a master any more.
	closed chan struct{}

	mu        sync.Mutex // serialises changes
	readyTerm uint64
}

func newViews(self MemberID, election time.Duration) *views {
	v := &views{self: self, patience: patience * election, closed: make(chan struct{})}
	v.now.Store(&view{changed: make(chan struct{})})
	return v
}

func (v *views) load() *view { return v.now.Load() }

// refresh reads Raft's state again.
func (v *views) refresh(r *raft.Raft) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.set(r)
}

// ready says that an entry of the term was applied here, as the leader.
func (v *views) markReady(r *raft.Raft, term uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.readyTerm = term
	v.set(r)
}

func (v *views) set(r *raft.Raft) {
	_, id := r.LeaderWithID()
	next := view{
		master: MemberID(id),
		leads:  r.State() == raft.Leader,
		term:   r.CurrentTerm(),
	}
	if !next.leads && next.master == v.self {
		next.master = "" // stepping down
	}
	next.ready = next.leads && v.readyTerm == next.term
	old := v.load()
	next.changed, next.last = old.changed, old.last
	if next.master != "" {
		next.last = next.master
	}
	if next == *old {
		return
	}
	next.changed = make(chan struct{})
	v.now.Store(&next)
	close(old.changed)
}

// observe refreshes the view whenever the library reports a change, until done
// is closed. A report that finds the channel full is lost, and is made good
// by the ones before it in the channel, for each reads the state as it is then.
func (v *views) observe(r *raft.Raft, done <-chan struct{}) {
	events := make(chan raft.Observation, 16)
	o := raft.NewObserver(events, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	r.RegisterObserver(o)
	defer r.DeregisterObserver(o)
	for {
		v.refresh(r)
		select {
		case <-events:
		case <-done:
			return
		}
	}
}

// close ends the waits for a master, and those to come, with ErrClosed. It is
// called once.
func (v *views) close() { close(v.closed) }

func (v *views) isClosed() bool {
	select {
	case <-v.closed:
		return true
	default:
		return false
	}
}

// masterWait is the patience of one call with the absence of a master.
type masterWait struct{ until time.Time }

// wait returns when it is time to try again, after an attempt by the view seen.
func (w *masterWait) wait(ctx context.Context, views *views, seen *view) error {
	if w.until.IsZero() {
		w.until = time.Now().Add(views.patience)
	}
	left := time.Until(w.until)
	if left <= 0 {
		return fmt.Errorf("%w: none within %s", ErrNoMaster, views.patience)
	}
	if seen.master != "" {
		left = min(left, retryPause)
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-seen.changed:
	case <-t.C:
	case <-ctx.Done():
		return fmt.Errorf("%w: not applied: %w", ErrNoMaster, ctx.Err())
	case <-views.closed:
		return ErrClosed
	}
	return nil
}
