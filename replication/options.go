package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft-wal/types"
	"github.com/prometheus/client_golang/prometheus"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// MaxCommandBytes bounds one command: the API's largest is 2 MiB, and this
// leaves room for the encoding.
const MaxCommandBytes = 3 << 20

// StateMachine is what the log drives. Apply, ApplyConfiguration, Digest and
// Restore are called by one goroutine; the others by any.
type StateMachine interface {
	// Apply applies the commands of one entry and returns one result each.
	Apply(index, term uint64, commands []*kvv1.Command) []*kvv1.Result
	// ApplyConfiguration records a membership with the same index order.
	ApplyConfiguration(index, term uint64, configuration []byte)
	// Applied is the last index given to Apply or ApplyConfiguration.
	Applied() uint64
	// Digest is the newest revision and the running hash of all that was applied.
	// It is called as Apply is.
	Digest() (revision int64, hash uint64)
	// Durable is what is on disk.
	Durable() Position
	// Flush returns when Durable().Index >= index.
	Flush(ctx context.Context, index uint64) error
	// Snapshot is the database as it is on disk.
	Snapshot() (Snapshot, error)
	// Restore replaces the content, all or nothing; with ErrDamaged when what is in
	// the stream is.
	Restore(r io.Reader) error
	// Check reads all that is on disk, and reports damage as any other read does.
	Check(ctx context.Context) error
}

// Position is a place in the log, and the membership that held there.
type Position struct {
	Index, Term, ConfigurationIndex uint64
	Configuration                   []byte
}

// Snapshot streams a database of exactly Size bytes.
type Snapshot interface {
	io.ReadCloser
	Position() Position
	Size() int64
}

// Timing is how patient a pod is. The defaults suit pods in one zone.
type Timing struct {
	// Heartbeat is how long a follower waits for the master before it tries to
	// replace it; 500 ms. Too short: elections when the processors are
	// overcommitted (with 300 ms they were seen at eight runnable threads a
	// core). Too long: the writes stop for longer when a master is cut off. A
	// killed one is noticed at once, see failureDetector.
	Heartbeat time.Duration
	// Election is how long a candidate waits for votes; as Heartbeat.
	Election time.Duration
	// Lease is how long a master without a quorum goes on; at most, and by
	// default, Heartbeat.
	Lease time.Duration
	// Commit is how often the library looks for what a follower was not told, or
	// did not get over a connection that broke; 100 ms. News goes at once, see
	// pipeline.tellCommitted, and what was said is not repeated.
	Commit time.Duration
	// Transport bounds one message between members; 3 s.
	Transport time.Duration
	// Hang is how long the disk may take for one write; 10 s.
	Hang time.Duration
	// LockWait is how long Open waits for another process's lock; 10 s.
	LockWait time.Duration
	// CloneStall is how long a clone may make no progress; 10 s.
	CloneStall time.Duration
	// Retry is the pause between rounds of asking around; 250 ms.
	Retry time.Duration
}

// Options of a Node. Dir, Name, Resolver, Listener and Receive are needed.
type Options struct {
	// Dir is the data directory; it is shared with the store.
	Dir string
	// Name is the pod's, <statefulset>-<ordinal>.
	Name string
	// Resolver says where a pod's peer port is, host:port; asked at each dial.
	// With an error it may say where it would be, for the sake of the port.
	Resolver func(pod string) (hostport string, err error)
	// Listener is the peer port. The node closes it.
	Listener net.Listener
	// Peers are the pods of the cluster, this one included; empty in
	// Kubernetes, where names are derived from ordinals.
	Peers []string
	// Founding is, without Peers, the sign from outside about a member without
	// data: which cluster it belongs to, and whether it founds that cluster. It
	// answers the same when it is asked again; an error says what is missing. A
	// disk that is not fresh has met a cluster, and must not found one that there
	// is not yet; nor must any while a pod may have data, and is not one of those
	// that have said that they are empty. nil: nobody founds.
	Founding func(ctx context.Context, member MemberID, fresh bool, empty []string) (clusterID string, founder bool, err error)
	// ExpectedOrdinals tells which pods should exist; nil, or known false:
	// nobody is removed for its ordinal.
	ExpectedOrdinals func() (covers func(ordinal int) bool, known bool)

	// Receive writes a snapshot stream into place and says what it holds.
	Receive func(r io.Reader) (Position, error)
	// HasData says whether there is a database in Dir.
	HasData func() bool
	// RunMaster runs while this pod is the master and ready to lead; it must
	// return soon after ctx ends.
	RunMaster func(ctx context.Context)
	// Differs is told when this pod had something else than another after the same
	// entry, and says whether to serve all the same. It must not block. nil: never.
	Differs func(pod, why string) (serve bool)
	// CheckCommand says why a command that another pod forwards must not go into the
	// log; nil: it may. It is called by many goroutines. nil: all may.
	CheckCommand func(*kvv1.Command) error
	// ComparePart says what this pod has of another's part, and is told by it that the
	// other one may have something else. nil: nothing is known.
	ComparePart func(ctx context.Context, pod string, theirs Part) (own Part, err error)
	// PodStatus completes what this package knows of the pod, for its peers.
	PodStatus func(*kvv1.PodStatus)

	// LogBytes is the size of the log over which it is truncated; 64 MiB.
	LogBytes int64
	// LogHoldBytes is the size up to which it is kept for a clone; 1 GiB.
	LogHoldBytes int64
	Timing       Timing

	Logger     *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: none

	// Dial opens connections to peers; nil: TCP.
	Dial func(ctx context.Context, hostport string) (net.Conn, error)
	// Security makes them, and those that are accepted, safe; nil: they are plain.
	Security Security
	// LogFS is the log's file system; nil: the operating system's.
	LogFS types.VFS
	// Committed is called after each transaction of the file of votes; see
	// store.Options. nil: nothing is called.
	Committed func(path string, transaction int)
	// Observe sees each entry just before it is applied, after the one at before,
	// on the goroutine that applies it. Tests compare the pods by it; nil: nobody
	// looks.
	Observe func(before, index, term uint64, data []byte)
}

func orDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Complete sets the defaults, and says what is missing or cannot be.
func (o *Options) Complete() error {
	t := &o.Timing
	orDefault(&t.Heartbeat, 500*time.Millisecond)
	orDefault(&t.Election, t.Heartbeat)
	orDefault(&t.Lease, t.Heartbeat)
	orDefault(&t.Commit, 100*time.Millisecond)
	orDefault(&t.Transport, 3*time.Second)
	orDefault(&t.Hang, 10*time.Second)
	orDefault(&t.LockWait, 10*time.Second)
	orDefault(&t.CloneStall, 10*time.Second)
	orDefault(&t.Retry, 250*time.Millisecond)
	orDefault(&o.LogBytes, 64<<20)
	orDefault(&o.LogHoldBytes, 1<<30)
	orDefault(&o.Logger, slog.New(slog.DiscardHandler))
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, hostport string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", hostport)
		}
	}
	if o.HasData == nil {
		o.HasData = func() bool { return false }
	}
	switch {
	case o.Dir == "" || o.Name == "" || o.Resolver == nil || o.Listener == nil || o.Receive == nil:
		return errors.New("replication: Dir, Name, Resolver, Listener and Receive are needed")
	case !ValidPod(o.Name):
		return fmt.Errorf("replication: the pod's name %q is not <statefulset>-<ordinal>, a DNS label as kv-0 is", o.Name)
	case t.Lease > t.Heartbeat || t.Election < t.Heartbeat:
		return fmt.Errorf("replication: the lease (%s) must not be over the heartbeat (%s), nor that over the election (%s)", t.Lease, t.Heartbeat, t.Election)
	}
	for _, p := range o.Peers {
		if Ordinal(p) < 0 {
			return fmt.Errorf("replication: the peer's name %q does not end in an ordinal, as in kv-0", p)
		}
	}
	return nil
}
