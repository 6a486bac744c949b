package replication

import (
	"sync"
	"sync/atomic"

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

// views keeps the present view.
type views struct {
	self MemberID
	now  atomic.Pointer[view]

	mu        sync.Mutex // serialises changes
	readyTerm uint64
}

func newViews(self MemberID) *views {
	v := &views{self: self}
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
