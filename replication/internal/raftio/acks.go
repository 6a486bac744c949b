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

// match is how much of the log of a term's master a member has stored.
type match struct{ term, index uint64 }

// Acks remembers the newest ack of each member, and how far its log is.
type Acks struct {
	Changed chan struct{} // has a token after a change; one waiter

	mu     sync.Mutex // guards the fields below
	newest map[replication.MemberID]ack
	stored map[replication.MemberID]match
	away   map[replication.MemberID]chan struct{} // closed at the next answer
}

func newAcks() *Acks {
	return &Acks{
		Changed: make(chan struct{}, 1), newest: map[replication.MemberID]ack{},
		stored: map[replication.MemberID]match{}, away: map[replication.MemberID]chan struct{}{},
	}
}

// lost notes that a member did not answer.
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

// returned notes that a member answers, whatever it says: what waits here is how
// the library learns of a newer term.
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

// store notes how far a member is. Answers of several connections may overtake each
// other; in one term a log only grows.
func (a *Acks) store(id replication.MemberID, m match) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if before := a.stored[id]; m.term > before.term || m.term == before.term && m.index > before.index {
		a.stored[id] = m
	}
}

// Has says whether a member is known to have stored the log of a term up to an index.
func (a *Acks) Has(id replication.MemberID, term, index uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.stored[id]
	return m.term == term && m.index >= index
}

// Confirmed says whether a majority of voters, counting self without asking, were
// in term at some moment after since.
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

// latest is when the message was sent that a member confirmed last; zero while it
// is away.
func (a *Acks) latest(id replication.MemberID) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.away[id] != nil {
		return time.Time{}
	}
	return a.newest[id].sent
}

// Heard says whether a member confirmed within d.
func (a *Acks) Heard(id replication.MemberID, d time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Since(a.newest[id].sent) < d
}
