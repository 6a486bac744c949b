package server

import (
	"context"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// Log is the replicated log: what the server writes to, and asks about the
// cluster. Any goroutine may call it.
type Log interface {
	Propose(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error)
	// ProposeAsMaster fails when this pod is not the master.
	ProposeAsMaster(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error)

	// LinearizableRead and BoundedRead return when this pod's copy may be read.
	LinearizableRead(ctx context.Context) error
	BoundedRead(ctx context.Context, maxStaleness time.Duration) error

	// Status is how this pod's part in the cluster is. What is asked with every
	// request has a method of its own.
	Status() replication.Status
	ClusterID() string
	MemberID() replication.MemberID
	Term() uint64
	IsMaster() bool
	Master() (pod string, ok bool)
	// MasterChanged returns a channel that is closed when the master, or what this
	// pod knows of it, is another than now; nil while the pod starts.
	MasterChanged() <-chan struct{}
	// PodStatus is how this pod is, with what the server adds.
	PodStatus(ctx context.Context) *kvv1.PodStatus
	// AwaitsNext says that a pod may only be created once this one is ready.
	AwaitsNext() bool

	Members() []replication.Member
	// Joining are pods that should exist and are no members yet.
	Joining() []string
	PeerConn(pod string) (*grpc.ClientConn, error)
	// MasterConn returns nil when this pod is the master.
	MasterConn(ctx context.Context) (*grpc.ClientConn, error)
	HandOver(ctx context.Context, to string) (string, error)

	// Mark is what this pod has after the entry that it applied last.
	Mark() replication.Mark
	// CompareWith returns what a pod had after the same entry, index 0 when it does
	// not remember, and lets it know what this pod had.
	CompareWith(ctx context.Context, pod string, own replication.Mark) (replication.Mark, error)
	// ComparePart returns what a pod has of the same part, and lets it know what this
	// pod has. It fails when that pod cannot tell.
	ComparePart(ctx context.Context, pod string, own replication.Part) (replication.Part, error)
	// Reclone gives up this pod's data once the others can do without it.
	Reclone(ctx context.Context, reason string) error
}
