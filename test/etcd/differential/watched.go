package differential

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/batondb/baton/test/etcd/answers"
)

// watched is a stream of the same watches on both systems.
type watched struct {
	etcd, baton *watching
	creates     []*pb.WatchCreateRequest
}

// maxWatches on one stream.
const maxWatches = 3

func (g *generator) watches() []*pb.WatchCreateRequest {
	var all []*pb.WatchCreateRequest
	for range 1 + g.IntN(maxWatches) {
		r := &pb.WatchCreateRequest{PrevKv: g.chance(50), Fragment: g.chance(30), ProgressNotify: g.chance(20)}
		r.Key, r.RangeEnd = g.bounds()
		if g.chance(40) {
			r.StartRevision = g.past()
		}
		for _, filter := range []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE} {
			if g.chance(15) {
				r.Filters = append(r.Filters, filter)
			}
		}
		// What has yet to begin, and what ends because its beginning was compacted
		// away, keeps etcd from reporting the progress of others on its stream.
		if r.StartRevision > g.revision || r.StartRevision < g.compacted && r.StartRevision != 0 {
			return []*pb.WatchCreateRequest{r}
		}
		all = append(all, r)
	}
	return all
}

func newWatched(ctx context.Context, etcd, baton *grpc.ClientConn, creates []*pb.WatchCreateRequest) (*watched, error) {
	w := &watched{creates: creates}
	var err error
	if w.etcd, err = watch(ctx, etcd); err != nil {
		return nil, err
	}
	if w.baton, err = watch(ctx, baton); err != nil {
		return nil, err
	}
	// A watch from now on begins with what its pod has: let that be all.
	if err := catchUp(ctx, baton); err != nil {
		return nil, err
	}
	for _, create := range creates {
		if err := w.etcd.create(create); err != nil {
			return nil, fmt.Errorf("etcd: %w", err)
		}
		if err := w.baton.create(create); err != nil {
			return nil, fmt.Errorf("baton: %w", err)
		}
	}
	return w, nil
}

// drain waits until both have said all up to a revision.
func (w *watched) drain(revision int64) error {
	if w.creates[0].GetStartRevision() > revision {
		return nil
	}
	if err := w.etcd.drain(revision); err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	if err := w.baton.drain(revision); err != nil {
		return fmt.Errorf("baton: %w", err)
	}
	return nil
}

func (w *watched) end() {
	w.etcd.end()
	w.baton.end()
}

// difference is empty when both have said the same.
func (w *watched) difference() string {
	etcd, baton := w.etcd.String(), w.baton.String()
	if etcd == baton {
		return ""
	}
	var creates string
	for _, create := range w.creates {
		creates += prototext.MarshalOptions{}.Format(create) + "\n"
	}
	return fmt.Sprintf("%setcd:\n%s\nbaton:\n%s", creates, answers.Short(etcd), answers.Short(baton))
}
