package replication

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/raftlog"
	"github.com/hashicorp/raft"
)

// streams is Raft's way to the peer port. An address is a member id.
type streams struct {
	*acceptor
	port *port
}

func (s *streams) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	id := MemberID(address)
	return s.port.dial(ctx, handshake.Raft, id.Pod(), id)
}

// transport is the library's network transport that notes when each member
// confirmed that it still follows, and waits for those who are away.
type transport struct {
	*raft.NetworkTransport
	acks *acks
	log  *raftlog.Log
	// applied is what this pod has applied, and so certainly is committed.
	applied *appliedIndex
	// raft is there once it has started.
	raft atomic.Pointer[raft.Raft]
	// ended is closed when nothing is to be waited for any more.
	ended chan struct{}
}

// awayFor bounds a wait for a member that is away: it may have been removed.
const awayFor = 30 * time.Second

// AppendEntries implements raft.Transport; heartbeats come through here.
//
// The library lets up to ten seconds pass between attempts to replicate to a
// member that is away, and so before it notices one that is back. Heartbeats
// go on all the time: replication waits for one of them to be answered.
func (t *transport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	heartbeat := req.PrevLogEntry == 0 && len(req.Entries) == 0 && req.LeaderCommitIndex == 0
	if !heartbeat {
		t.acks.awaitReturn(MemberID(id), t.ended)
	}
	sent := time.Now()
	err := t.NetworkTransport.AppendEntries(id, to, req, resp)
	switch {
	case err != nil:
		t.acks.lost(MemberID(id))
	case resp.Success && resp.Term == req.Term:
		t.acks.record(MemberID(id), ack{req.Term, sent})
		err = t.awaitSync(req)
	}
	return err
}

// awaitSync holds an answer back until this pod's disk has the entries that it
// confirms: see raftlog.Log.Overlap.
func (t *transport) awaitSync(req *raft.AppendEntriesRequest) error {
	if len(req.Entries) == 0 {
		return nil
	}
	return t.log.AwaitSync(req.Entries[len(req.Entries)-1].Index)
}

// leads says that this pod leads in a term. Then all that it had applied before
// the call is in the log that it sends: a log of another leader would have been
// written, and applied, by a follower only.
func (t *transport) leads(term uint64) bool {
	r := t.raft.Load()
	return r != nil && r.State() == raft.Leader && r.CurrentTerm() == term
}

// AppendEntriesPipeline implements raft.Transport.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := t.NetworkTransport.AppendEntriesPipeline(id, to)
	if err != nil {
		return nil, err
	}
	s := &syncedPipeline{
		AppendPipeline: p, answers: make(chan raft.AppendFuture), closed: make(chan struct{}), stored: make(chan struct{}, 1),
	}
	go s.run(t)
	go s.tellCommitted(t)
	return s, nil
}

// tellAfter is how long a follower may not know that an entry is committed, when
// no further entry tells it.
const tellAfter = 2 * time.Millisecond

// syncedPipeline is a pipeline whose answers are held back by awaitSync, and
// that tells a follower soon what is committed.
type syncedPipeline struct {
	raft.AppendPipeline
	answers chan raft.AppendFuture
	closed  chan struct{}
	once    sync.Once
	stored  chan struct{} // has a token after an answer that confirms entries

	mu   sync.Mutex // One request at a time; guards the fields below.
	next raft.AppendEntriesRequest
	sent time.Time // when the last request was
}

// AppendEntries implements raft.AppendPipeline.
func (s *syncedPipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.send(req, resp)
}

// send notes what a request without entries would be after this one.
func (s *syncedPipeline) send(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	s.next, s.sent = *req, time.Now()
	if n := len(req.Entries); n > 0 {
		s.next.PrevLogEntry, s.next.PrevLogTerm = req.Entries[n-1].Index, req.Entries[n-1].Term
		s.next.Entries = nil
	}
	return s.AppendPipeline.AppendEntries(req, resp)
}

// tellCommitted sends what the library sends when its CommitTimeout is over: a
// request without entries. The library's comes so often whether there is news
// or not, and cannot come as soon.
func (s *syncedPipeline) tellCommitted(t *transport) {
	for {
		select {
		case <-s.stored:
		case <-s.closed:
			return
		}
		for quiet := time.Duration(0); quiet < tellAfter; quiet = s.quiet() {
			time.Sleep(tellAfter - quiet)
		}
		if s.tell(t) != nil {
			return // The library will find out as well.
		}
	}
}

func (s *syncedPipeline) quiet() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.sent)
}

func (s *syncedPipeline) tell(t *transport) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	committed := t.applied.value.Load()
	if committed <= s.next.LeaderCommitIndex || !t.leads(s.next.Term) {
		return nil
	}
	req := s.next
	req.LeaderCommitIndex = committed
	_, err := s.send(&req, new(raft.AppendEntriesResponse))
	return err
}

func (s *syncedPipeline) run(t *transport) {
	for {
		select {
		case answer := <-s.AppendPipeline.Consumer():
			if t.awaitSync(answer.Request()) != nil {
				// The log has failed, and the pod ends. Whoever sends would wait for
				// room for its answer, and never come to its own close.
				_ = s.AppendPipeline.Close()
				return
			}
			if len(answer.Request().Entries) > 0 {
				select {
				case s.stored <- struct{}{}:
				default:
				}
			}
			select {
			case s.answers <- answer:
			case <-s.closed:
				return
			}
		case <-s.closed:
			return
		}
	}
}

// Consumer implements raft.AppendPipeline.
func (s *syncedPipeline) Consumer() <-chan raft.AppendFuture { return s.answers }

// Close implements raft.AppendPipeline.
func (s *syncedPipeline) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.AppendPipeline.Close()
}

// ack says that a member was in term when it got a message sent at sent.
type ack struct {
	term uint64
	sent time.Time
}

// acks remembers the newest ack of each member.
type acks struct {
	changed chan struct{} // has a token after a change; one waiter

	mu     sync.Mutex // guards the fields below
	newest map[MemberID]ack
	away   map[MemberID]chan struct{} // closed at the next ack
}

func newAcks() *acks {
	return &acks{changed: make(chan struct{}, 1), newest: map[MemberID]ack{}, away: map[MemberID]chan struct{}{}}
}

// lost notes that a member does not answer.
func (a *acks) lost(id MemberID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.away[id] == nil {
		a.away[id] = make(chan struct{})
	}
}

// awaitReturn waits while a member is away, at most awayFor.
func (a *acks) awaitReturn(id MemberID, ended <-chan struct{}) {
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

func (a *acks) record(id MemberID, k ack) {
	a.mu.Lock()
	a.newest[id] = k
	if back := a.away[id]; back != nil {
		close(back)
		delete(a.away, id)
	}
	a.mu.Unlock()
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// confirmed says whether a majority of voters, self taken for granted, were in
// term at a moment after since.
func (a *acks) confirmed(self MemberID, voters []MemberID, term uint64, since time.Time) bool {
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

// heard says whether a member confirmed within d.
func (a *acks) heard(id MemberID, d time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Since(a.newest[id].sent) < d
}
