package node

import (
	"context"
	"sync"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/policy"
)

// successors are the voters that answer, do not stop and may be asked in the term, the
// best first; to, if given, is the only pod that counts.
func (e *engine) successors(ctx context.Context, term uint64, to string) []replication.MemberID {
	ctx, cancel := context.WithTimeout(ctx, askLast)
	defer cancel()
	wanted := e.changer.wanted()
	var found []policy.Successor
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, id := range e.replica.OtherVoters() {
		if to != "" && id.Pod() != to || !e.replica.Acks.Heard(id, e.timing.Lease) {
			continue
		}
		wg.Go(func() {
			h := policy.Successor{ID: id, Unwanted: wanted.Excludes(replication.Ordinal(id.Pod()))}
			if conn, err := e.conn(id.Pod()); err == nil {
				if seen, err := peerv1.NewPeerServiceClient(conn).Inspect(ctx, &peerv1.InspectRequest{}); err == nil {
					h.Last, h.Stopping = seen.LastIndex, seen.Stopping
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if e.handing.mayAsk(id, term, h.Last) {
				found = append(found, h)
			}
		})
	}
	wg.Wait()
	return policy.RankSuccessors(e.self, e.replica.Raft.LastIndex(), found)
}
