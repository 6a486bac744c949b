package node

import (
	"context"

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
	var asked []replication.MemberID
	var pods []string
	for _, id := range e.replica.OtherVoters() {
		if (to == "" || id.Pod() == to) && e.replica.Acks.Heard(id, e.timing.Lease) {
			asked, pods = append(asked, id), append(pods, id.Pod())
		}
	}
	answers := ofEach(pods, func(pod string) (*peerv1.InspectResponse, bool) {
		answer, err := inspectOne(ctx, e.conn, pod)
		return answer, err == nil
	})
	var found []policy.Successor
	for _, id := range asked {
		seen := answers[id.Pod()] // Without an answer it counts as far behind.
		h := policy.Successor{
			ID: id, Last: seen.GetLastIndex(), Stopping: seen.GetStopping(), Unwanted: wanted.Excludes(replication.Ordinal(id.Pod())),
		}
		if e.handing.mayAsk(id, term, h.Last) {
			found = append(found, h)
		}
	}
	return policy.RankSuccessors(e.self, e.replica.Raft.LastIndex(), found)
}
