package server

import (
	"context"

	"google.golang.org/grpc"

	"github.com/batondb/baton/internal/access"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

// Backend is what services of other packages stand on, so that they have the
// same log, the same copy of the data and the same rules as Baton's own. All
// methods may be called by any goroutine; their errors are for package refusal.
type Backend struct {
	core    *core
	cluster *clusterService
	leases  *leaseService
}

// ShareDeadline gives a call without a deadline one that it shares with others,
// which costs least; see deadlines.
func (b *Backend) ShareDeadline(ctx context.Context) context.Context {
	return b.core.shareDeadline(ctx)
}

// Read returns this pod's copy of the data when it is as fresh as the options
// ask; nil asks for every write that was acknowledged before.
func (b *Backend) Read(ctx context.Context, options *kvv1.ReadOptions) (*store.Store, error) {
	return b.core.prepareRead(ctx, options)
}

// Watch returns a cursor over this pod's changes; it must be closed. It fails with
// TOO_MANY when the caller of ctx, or the pod, has as many watches as it may.
func (b *Backend) Watch(ctx context.Context, req *kvv1.WatchRequest) (*Watcher, error) {
	return b.core.watch(ctx, req)
}

// Newest returns this pod's copy when it has all that the master has, at a price for the
// master that does not grow with the number of calls: for those that anybody may make.
func (b *Backend) Newest(ctx context.Context) (*store.Store, error) { return b.core.newest(ctx) }

// Access is who may do what, as far as this pod has applied it; nil: nobody has ever
// said.
func (b *Backend) Access() *access.State { return b.core.access() }

// Login gives a token for a user's password, and the header of the answer.
func (b *Backend) Login(ctx context.Context, user, password string) (string, *kvv1.ResponseHeader, error) {
	return b.core.login(ctx, user, password)
}

// ChangeAuth changes users and roles; password is the new user's, or the new one of a user.
func (b *Backend) ChangeAuth(ctx context.Context, change *kvv1.AuthChange, password string) (*kvv1.ChangeAuthResponse, error) {
	return b.core.changeAuth(ctx, change, password)
}

// Users returns one user, or all if the name is empty, if the caller of ctx may see them.
func (b *Backend) Users(ctx context.Context, name string) ([]*kvv1.AuthUser, *kvv1.ResponseHeader, error) {
	return b.core.users(ctx, name)
}

// Roles returns one role, or all if the name is empty, if the caller of ctx may see them.
func (b *Backend) Roles(ctx context.Context, name string) ([]*kvv1.AuthRole, *kvv1.ResponseHeader, error) {
	return b.core.roles(ctx, name)
}

// Admin refuses a caller of ctx without the role "root".
func (b *Backend) Admin(ctx context.Context) error { return b.core.allow(ctx, administrator) }

// MayOrder is Admin by rights as new as any pod's, for what does not go through the log.
func (b *Backend) MayOrder(ctx context.Context) error { return b.core.mayOrder(ctx) }

// MayReadLeases refuses a caller of ctx who may not read the keys of all leases.
func (b *Backend) MayReadLeases(ctx context.Context, st *store.Store, leases []*kvv1.Lease) error {
	return b.core.mayReadLeases(ctx, st, leases)
}

// MayRead refuses a caller of ctx who may not read all of some ranges, by rights as new as
// any pod's: before a read that asks the master, which a refused one need not do then.
func (b *Backend) MayRead(ctx context.Context, ranges ...*kvv1.KeyRange) error {
	return b.core.mayRead(ctx, ranges...)
}

// MayWatch refuses a watch of what the caller of ctx may not read; so does Watch.
func (b *Backend) MayWatch(ctx context.Context, req *kvv1.WatchRequest) error {
	return b.core.mayWatch(ctx, req)
}

// Log fails with NOT_READY while the pod starts.
func (b *Backend) Log() (Log, error) { return b.core.needLog() }

// Term is Raft's; 0 while the pod starts.
func (b *Backend) Term() uint64 {
	if log := b.core.log.Load(); log != nil {
		return (*log).Term()
	}
	return 0
}

// BeginLater waits until the caller's tenant has a request left of its rate, and takes it,
// or fails with ctx: what has begun is not refused.
func (b *Backend) BeginLater(ctx context.Context) error { return b.core.slow(ctx, 1, 0) }

// KeepAlive gives a lease its full time again and returns it; 0: there is no
// such lease. It goes by no rate: see BeginLater.
func (b *Backend) KeepAlive(ctx context.Context, lease int64) (ttlSeconds int64, err error) {
	response, err := b.leases.renew(ctx, &kvv1.KeepAliveRequest{Id: lease})
	return response.GetTtlSeconds(), err
}

// Grant proposes a lease with an id; it fails with TOO_MANY when the caller of ctx has
// as many as it may.
func (b *Backend) Grant(ctx context.Context, req *kvv1.GrantRequest) (*kvv1.GrantResponse, error) {
	return b.core.grant(ctx, req)
}

// NewLeaseID chooses the id of a lease whose client did not: see leaseIDs.
func (b *Backend) NewLeaseID() int64 { return b.leases.leaseIDs.next() }

// TimeToLive is the method of the native API.
func (b *Backend) TimeToLive(ctx context.Context, req *kvv1.TimeToLiveRequest) (*kvv1.TimeToLiveResponse, error) {
	return b.leases.TimeToLive(ctx, req)
}

// Status is how the pods are, or this one alone.
func (b *Backend) Status(ctx context.Context, thisPodOnly bool) (*kvv1.StatusResponse, error) {
	return b.cluster.Status(ctx, &kvv1.StatusRequest{ThisPodOnly: thisPodOnly})
}

// ClientAddress is where clients reach a pod; empty if this pod has not heard of it.
func (b *Backend) ClientAddress(pod string) string {
	if pod == b.core.options.Name {
		return b.core.options.ClientAddress
	}
	return b.core.peerStatuses.clientAddress(pod)
}

// Space is how much room this pod's volume has.
func (b *Backend) Space() (Space, error) { return b.core.options.Space() }

// Pod is this pod's name.
func (b *Backend) Pod() string { return b.core.options.Name }

// StreamContext ends with ctx, or when the pod stops: it is for unary calls that
// wait. The returned function frees it.
func (b *Backend) StreamContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return b.core.streamContext(ctx)
}

// Go runs a function in a goroutine that may outlive a call on the client port by a
// moment. The pod waits for it when it stops, after the calls.
func (b *Backend) Go(run func()) { b.core.outliving.Go(run) }

// Register adds services to the client port; call it before Start. It counts their
// calls, gives unary ones the default deadline if they have none (but see Waiter),
// and ends streams when the pod stops. Their errors go to clients unchanged.
func (s *Server) Register(register func(grpc.ServiceRegistrar, *Backend)) {
	asTheyAre := func(_ context.Context, err error) error { return err }
	register(instrumented{s.audit(s.grpc), s.core, s.identify(), asTheyAre, s.core.fail}, &Backend{core: s.core, cluster: s.cluster, leases: s.leases})
}
