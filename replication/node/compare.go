package node

import (
	"context"
	"time"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/raftio"
)

// compareTick is how often a follower that nobody reads from compares.
const compareTick = time.Second

// compareIdly compares this pod with the master even while nobody reads: local
// reads and watches compare nothing, and a master that differs hears of it from a
// follower.
func (n *Node) compareIdly(ctx context.Context) {
	e := n.engine.Load()
	tick := time.NewTicker(compareTick)
	defer tick.Stop()
	compared := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		last := e.replica.Trail.Last().Index
		if last == compared || e.replica.Views.Load().Leads {
			continue
		}
		reading, cancel := context.WithTimeout(ctx, compareTick)
		if n.LinearizableRead(reading) == nil {
			compared = last
		}
		cancel()
	}
}

// Mark is what this pod had after the last entry that it applied.
func (n *Node) Mark() replication.Mark {
	if e := n.engine.Load(); e != nil {
		return e.replica.Trail.Last()
	}
	return replication.Mark{}
}

// CompareWith asks a pod what it had after the entry of own, and tells it what
// this pod had. The pod answers when it has applied the entry; with index 0 when
// it does not remember.
func (n *Node) CompareWith(ctx context.Context, pod string, own replication.Mark) (replication.Mark, error) {
	conn, err := n.calls.Conn(pod)
	if err != nil {
		return replication.Mark{}, err
	}
	answer, err := peerv1.NewPeerServiceClient(conn).Compare(ctx, &peerv1.CompareRequest{Pod: n.opts.Name, Own: raftio.MarkProto(own)})
	if err != nil {
		return replication.Mark{}, err
	}
	return raftio.MarkOf(answer.GetMark()), nil
}
