package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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

const (
	// maxPartKey is the longest key that a state machine may have.
	maxPartKey = 32 << 10
	// maxPartVersions and maxPartBytes are what another pod may have this one read, many
	// times what any version asks for.
	maxPartVersions = 64 << 10
	maxPartBytes    = 64 << 20
)

// errPartUnknown is returned by ComparePart when the other pod does not know: it has
// compacted the revision, or has no database.
var errPartUnknown = errors.New("it does not know what it has of a part")

// ComparePart returns what another pod has of a part, and lets it know what this pod has.
// It fails when the other pod cannot tell; one of an earlier version cannot.
func (n *Node) ComparePart(ctx context.Context, pod string, own replication.Part) (theirs replication.Part, err error) {
	conn, err := n.calls.Conn(pod)
	if err != nil {
		return replication.Part{}, err
	}
	answer, err := peerv1.NewPeerServiceClient(conn).ComparePart(ctx, &peerv1.ComparePartRequest{
		Pod: n.opts.Name, History: own.History, From: own.From, To: own.To, Revision: own.Revision,
		Versions: int64(own.Versions), SizeBytes: int64(own.Bytes), Hash: own.Hash[:],
	})
	if err != nil {
		return replication.Part{}, err
	}
	theirs = own
	if copy(theirs.Hash[:], answer.GetHash()) != sha256.Size {
		return replication.Part{}, errPartUnknown
	}
	return theirs, nil
}

// ComparePart is the other pod's end of Node.ComparePart.
func (s *peerService) ComparePart(ctx context.Context, req *peerv1.ComparePartRequest) (*peerv1.ComparePartResponse, error) {
	if s.node.opts.ComparePart == nil {
		return nil, status.Error(codes.Unimplemented, "nothing is known of parts")
	}
	theirs := replication.Part{
		History: req.GetHistory(), From: req.GetFrom(), To: req.GetTo(), Revision: req.GetRevision(),
		Versions: int(req.GetVersions()), Bytes: int(req.GetSizeBytes()),
	}
	switch {
	case copy(theirs.Hash[:], req.GetHash()) != sha256.Size || len(req.GetHash()) != sha256.Size:
		return nil, status.Errorf(codes.InvalidArgument, "a hash has %d bytes, this one has %d", sha256.Size, len(req.GetHash()))
	case max(len(theirs.From), len(theirs.To)) > maxPartKey:
		return nil, status.Errorf(codes.InvalidArgument, "a key has at most %d bytes", maxPartKey)
	case theirs.Revision <= 0 || theirs.Versions < 0 || theirs.Versions > maxPartVersions || theirs.Bytes < 0 || theirs.Bytes > maxPartBytes:
		return nil, status.Errorf(codes.InvalidArgument, "a part at revision %d with %d versions and %d bytes: at most %d and %d",
			theirs.Revision, theirs.Versions, theirs.Bytes, maxPartVersions, maxPartBytes)
	}
	own, err := s.node.opts.ComparePart(ctx, req.GetPod(), theirs)
	if err != nil {
		s.node.logger.Debug("a part is not compared", "with", req.GetPod(), "error", err)
		return &peerv1.ComparePartResponse{}, nil
	}
	return &peerv1.ComparePartResponse{Hash: own.Hash[:]}, nil
}
