package server

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/store"
)

// Store is what the server reads from: this pod's own copy of the data.
type Store interface {
	Range(ctx context.Context, req *kvv1.RangeRequest) (*kvv1.RangeResponse, error)
	Scan(ctx context.Context, req *kvv1.RangeRequest, emit func(revision int64, kvs []*kvv1.KeyValue) error) error
	Watch(req *kvv1.WatchRequest) (Watcher, error)
	// Leases returns all leases, and a number that changes when they do. A lease
	// that was granted again under the same id is another pointer.
	Leases() ([]*kvv1.Lease, uint64)
	LeaseChanges() uint64
	LeaseKeys(id int64, limit int) ([][]byte, error)
	// Hash returns the running hash at a revision; 0 is the newest.
	Hash(revision int64) (int64, uint64, error)
	Status() store.Status
	// Revision is the newest one.
	Revision() int64
	WaitRevision(ctx context.Context, revision int64) error
	// WaitScrubbed waits until what a compaction removes is off the disk.
	WaitScrubbed(ctx context.Context, revision int64) error
	// Snapshot returns the database, with all that was applied before the call,
	// as a stream of a known size.
	Snapshot(ctx context.Context) (stream io.ReadCloser, size int64, err error)
}

// Watcher is a cursor over the changes of a range.
type Watcher interface {
	// Start is the revision that the watch starts after.
	Start() int64
	// Next blocks until there are events. It bounds its answers to about 1 MiB,
	// unless one event alone is larger. An answer must not be changed.
	Next(ctx context.Context) (*kvv1.WatchResponse, error)
	// Progress: every change up to this revision was returned by Next.
	Progress() int64
	// OnReady is for who calls Poll: the function is called whenever there may be
	// something, at once if there is now; it must not block, nor call the store.
	OnReady(func())
	// Poll is Next without waiting, and returns nil when there is nothing. After
	// more it must be called again without waiting for OnReady.
	Poll(ctx context.Context) (response *kvv1.WatchResponse, more bool, err error)
	Close()
}

// Log is what the server writes to, and asks about the cluster.
type Log interface {
	Propose(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error)
	// ProposeAsMaster fails when this pod is not the master.
	ProposeAsMaster(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error)
	// LinearizableRead and BoundedRead return when this pod's copy may be read.
	LinearizableRead(ctx context.Context) error
	BoundedRead(ctx context.Context, maxStaleness time.Duration) error
	// MasterConn returns nil when this pod is the master.
	MasterConn(ctx context.Context) (*grpc.ClientConn, error)
	PeerConn(pod string) (*grpc.ClientConn, error)
	// Mark is what this pod has after the entry that it applied last.
	Mark() replication.Mark
	// CompareWith returns what a pod had after the same entry, index 0 when it does
	// not remember, and lets it know what this pod had.
	CompareWith(ctx context.Context, pod string, own replication.Mark) (replication.Mark, error)
	IsMaster() bool
	Master() (pod string, ok bool)
	Members() []replication.Member
	// Joining are pods that should exist and are no members yet.
	Joining() []string
	ClusterID() string
	// MemberID is this pod's.
	MemberID() replication.MemberID
	Term() uint64
	Status() replication.Status
	// AwaitsNext says that a pod may only be created once this one is ready.
	AwaitsNext() bool
	// PodStatus is how this pod is, with what the server adds.
	PodStatus(ctx context.Context) *kvv1.PodStatus
	HandOver(ctx context.Context, to string) (string, error)
	// Reclone gives up this pod's data once the others can do without it.
	Reclone(ctx context.Context, reason string) error
}
