package raftio

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
)

// View is what this pod believes about the master, at one moment.
type View struct {
	// Master is empty while none is known.
	Master replication.MemberID
	// Last is the last master that was known, this one included.
	Last replication.MemberID
	// Leads: this pod is Raft's leader, and may propose.
	Leads bool
	// Ready: it leads, and has applied an entry of this term.
	Ready bool
	Term  uint64
	// Changed is closed when there is a newer view.
	Changed chan struct{}
}

const (
	// patience is how many election timeouts a call waits for a master.
	patience = 6
	// retryPause is waited when the master that is known refuses: it has not
	// noticed yet that it leads, or no more does.
	retryPause = 20 * time.Millisecond
)

// Views keeps the present view.
type Views struct {
	self replication.MemberID
	// Patience is how long a call waits for a master.
	Patience time.Duration
	Now      atomic.Pointer[View]
	// closed is closed when nobody waits for a master any more.
	closed chan struct{}

	mu        sync.Mutex // serialises changes
	readyTerm uint64
}

// NewViews knows no master yet. Calls wait for one for some election timeouts.
func NewViews(self replication.MemberID, election time.Duration) *Views {
	v := &Views{self: self, Patience: patience * election, closed: make(chan struct{})}
	v.Now.Store(&View{Changed: make(chan struct{})})
	return v
}

// Load is the view now.
func (v *Views) Load() *View { return v.Now.Load() }

// refresh reads Raft's state again.
func (v *Views) refresh(r *raft.Raft) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.set(r)
}

// MarkReady says that an entry of the term was applied here, as the leader.
func (v *Views) MarkReady(r *raft.Raft, term uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.readyTerm = term
	v.set(r)
}

func (v *Views) set(r *raft.Raft) {
	_, id := r.LeaderWithID()
	next := View{
		Master: replication.MemberID(id),
		Leads:  r.State() == raft.Leader,
		Term:   r.CurrentTerm(),
	}
	if !next.Leads && next.Master == v.self {
		next.Master = "" // stepping down
	}
	next.Ready = next.Leads && v.readyTerm == next.Term
	old := v.Load()
	next.Changed, next.Last = old.Changed, old.Last
	if next.Master != "" {
		next.Last = next.Master
	}
	if next == *old {
		return
	}
	next.Changed = make(chan struct{})
	v.Now.Store(&next)
	close(old.Changed)
}

// observe refreshes the view whenever the library reports a change, until done
// is closed. A report that finds the channel full is lost, and is made good
// by the ones before it in the channel, for each reads the state as it is then.
func (v *Views) observe(r *raft.Raft, done <-chan struct{}) {
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

// Close ends the waits for a master, and those to come, with ErrClosed. It is
// called once.
func (v *Views) Close() { close(v.closed) }

// IsClosed says whether Close was called.
func (v *Views) IsClosed() bool {
	select {
	case <-v.closed:
		return true
	default:
		return false
	}
}

// MasterWait is the patience of one call with the absence of a master.
type MasterWait struct{ until time.Time }

// Wait returns when it is time to try again, after an attempt by the view seen.
func (w *MasterWait) Wait(ctx context.Context, views *Views, seen *View) error {
	if w.until.IsZero() {
		w.until = time.Now().Add(views.Patience)
	}
	left := time.Until(w.until)
	if left <= 0 {
		return fmt.Errorf("%w: none within %s", replication.ErrNoMaster, views.Patience)
	}
	if seen.Master != "" {
		left = min(left, retryPause)
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-seen.Changed:
	case <-t.C:
	case <-ctx.Done():
		return fmt.Errorf("%w: not applied: %w", replication.ErrNoMaster, ctx.Err())
	case <-views.closed:
		return replication.ErrClosed
	}
	return nil
}
