package raftio

import (
	"sync"
	"time"

	"github.com/batondb/baton/replication"
)

// ack says that a member was in term when it got a message sent at sent.
type ack struct {
	term uint64
	sent time.Time
}

// Acks remembers the newest ack of each member.
type Acks struct {
	Changed chan struct{} // has a token after a change; one waiter

	mu     sync.Mutex // guards the fields below
	newest map[replication.MemberID]ack
	away   map[replication.MemberID]chan struct{} // closed at the next answer
}

func newAcks() *Acks {
	return &Acks{Changed: make(chan struct{}, 1), newest: map[replication.MemberID]ack{}, away: map[replication.MemberID]chan struct{}{}}
}

// lost notes that a member does not answer.
func (a *Acks) lost(id replication.MemberID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.away[id] == nil {
		a.away[id] = make(chan struct{})
	}
}

// IsAway says whether a member did not answer the last message.
func (a *Acks) IsAway(id replication.MemberID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.away[id] != nil
}

// returned notes that a member answers, whatever it says: of a newer term the
// library learns by what waits here.
func (a *Acks) returned(id replication.MemberID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if back := a.away[id]; back != nil {
		close(back)
		delete(a.away, id)
	}
}

// awaitReturn waits while a member is away, at most awayFor: see
// Transport.AppendEntries.
func (a *Acks) awaitReturn(id replication.MemberID, ended <-chan struct{}) {
	a.mu.Lock()
	back := a.away[id]
	a.mu.Unlock()
	if back == nil {
		return
	}
	t := time.NewTimer(awayFor)
	defer t.Stop()
	select {
	case <-back:
	case <-ended:
	case <-t.C:
	}
}

func (a *Acks) record(id replication.MemberID, k ack) {
	a.mu.Lock()
	a.newest[id] = k
	a.mu.Unlock()
	select {
	case a.Changed <- struct{}{}:
	default:
	}
}

// Confirmed says whether a majority of voters, self taken for granted, were in
// term at a moment after since.
func (a *Acks) Confirmed(self replication.MemberID, voters []replication.MemberID, term uint64, since time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, id := range voters {
		k := a.newest[id]
		if id == self || k.term == term && !k.sent.Before(since) {
			n++
		}
	}
	return n > len(voters)/2
}

// Heard says whether a member confirmed within d.
func (a *Acks) Heard(id replication.MemberID, d time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Since(a.newest[id].sent) < d
}
