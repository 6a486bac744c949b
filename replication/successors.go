package replication

import (
	"cmp"
	"context"
	"slices"
	"sync"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication/internal/member"
)

// smallLag is how many entries a successor may be behind: it gets them in the time
// of a few messages, while the writes wait.
const smallLag = 256

// successor is a voter that may take the baton.
type successor struct {
	id       MemberID
	last     uint64 // the last index in its log
	stopping bool   // it was told to end
	unwanted bool   // its ordinal should not exist
}

// rankSuccessors orders those who may take the baton, the best first; own is the
// master's last index.
//
// A StatefulSet restarts its pods from the highest ordinal down. When the
// master is told to stop in such a roll-out, the pods above it have been
// restarted and stay; the one below it is restarted next. So the lowest one
// above is the successor: the baton changes hands once, and once in the next
// roll-out, too. When there is none above, every successor will be restarted, and
// the lowest ordinal is the last.
//
// Whoever is far behind comes after all that are not: the writes would wait.
func rankSuccessors(self MemberID, own uint64, successors []successor) []MemberID {
	successors = slices.DeleteFunc(slices.Clone(successors), func(h successor) bool { return h.stopping || h.id == self })
	ordinal := Ordinal(self.Pod())
	rank := func(h successor) int {
		late := h.last+smallLag < own
		switch {
		case h.unwanted && late:
			return 5
		case h.unwanted:
			return 4
		case late:
			return 3
		case Ordinal(h.id.Pod()) > ordinal:
			return 1
		}
		return 2
	}
	slices.SortFunc(successors, func(a, b successor) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), member.ByOrdinal(a.id.Pod(), b.id.Pod()))
	})
	var ids []MemberID
	for _, h := range successors {
		ids = append(ids, h.id)
	}
	return ids
}

// successors are the voters that answer, do not stop and may be asked in the term, the
// best first; to, if given, is the only pod that counts.
func (e *engine) successors(ctx context.Context, term uint64, to string) []MemberID {
	ctx, cancel := context.WithTimeout(ctx, askLast)
	defer cancel()
	wanted := e.changer.wanted()
	var found []successor
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, id := range e.replica.otherVoters() {
		if to != "" && id.Pod() != to || !e.replica.acks.heard(id, e.timing.Lease) {
			continue
		}
		wg.Go(func() {
			h := successor{id: id, unwanted: wanted.Excludes(Ordinal(id.Pod()))}
			if conn, err := e.conn(id.Pod()); err == nil {
				if seen, err := peerv1.NewPeerServiceClient(conn).Inspect(ctx, &peerv1.InspectRequest{}); err == nil {
					h.last, h.stopping = seen.LastIndex, seen.Stopping
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if e.handing.mayAsk(id, term, h.last) {
				found = append(found, h)
			}
		})
	}
	wg.Wait()
	return rankSuccessors(e.self, e.replica.raft.LastIndex(), found)
}
