package clienttest

import (
	"context"
	"fmt"
	"net"
	"sync"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Cluster is some pods on loopback.
type Cluster struct {
	data *database
	pods []*pod

	mu     sync.Mutex // guards what follows
	master int
	calls  map[string]int
	id     string
	faults faults

	options []grpc.ServerOption
}

// faults are what tests make the pods do.
type faults struct {
	before, after func(pod int, method string) error
	// forgotten is the newest revision whose request ids are taken for forgotten.
	forgotten int64
	// lag is how far watches are behind at their start.
	lag    int64
	spoils string // a key
}

// pod is one listener. It implements all services.
type pod struct {
	kvv1.UnimplementedKVServiceServer
	kvv1.UnimplementedWatchServiceServer
	kvv1.UnimplementedLeaseServiceServer
	kvv1.UnimplementedClusterServiceServer
	kvv1.UnimplementedMaintenanceServiceServer
	kvv1.UnimplementedAuthServiceServer
	data    *database
	cluster *Cluster
	ordinal int
	address string
	server  *grpc.Server // nil while stopped; Cluster.mu guards it
}

// Start starts a cluster of so many pods; pod 0 is the master. The options are each
// server's.
func Start(pods int, options ...grpc.ServerOption) (*Cluster, error) {
	data, err := openDatabase()
	if err != nil {
		return nil, err
	}
	c := &Cluster{data: data, calls: map[string]int{}, id: "6b1f6f0e-0000-4000-8000-000000000001", options: options}
	for i := range pods {
		c.pods = append(c.pods, &pod{data: data, cluster: c, ordinal: i, address: "127.0.0.1:0"})
		if err := c.StartPod(i); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// StartPod starts a pod that was stopped, at the address that it had.
func (c *Cluster) StartPod(i int) error {
	p := c.pods[i]
	listener, err := net.Listen("tcp", p.address)
	if err != nil {
		return err
	}
	server := grpc.NewServer(append([]grpc.ServerOption{
		grpc.UnaryInterceptor(p.unary), grpc.StreamInterceptor(p.stream), grpc.MaxRecvMsgSize(16 << 20),
	}, c.options...)...)
	kvv1.RegisterKVServiceServer(server, p)
	kvv1.RegisterWatchServiceServer(server, p)
	kvv1.RegisterLeaseServiceServer(server, p)
	kvv1.RegisterClusterServiceServer(server, p)
	kvv1.RegisterMaintenanceServiceServer(server, p)
	kvv1.RegisterAuthServiceServer(server, p)
	c.mu.Lock()
	p.server, p.address = server, listener.Addr().String()
	c.mu.Unlock()
	go func() { _ = server.Serve(listener) }() // ends with Stop
	return nil
}

// StopPod breaks all connections of a pod and refuses new ones.
func (c *Cluster) StopPod(i int) {
	c.mu.Lock()
	server := c.pods[i].server
	c.pods[i].server = nil
	c.mu.Unlock()
	if server != nil {
		server.Stop()
	}
}

// Close stops every pod and removes the data.
func (c *Cluster) Close() {
	for i := range c.pods {
		c.StopPod(i)
	}
	c.data.close()
}

// Endpoints are the pods' addresses.
func (c *Cluster) Endpoints() (all []string) {
	for _, p := range c.pods {
		all = append(all, p.address)
	}
	return all
}

// SetMaster makes another pod the master; -1: there is none, and writes are
// refused.
func (c *Cluster) SetMaster(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.master = i
}

// SetID makes it another cluster, as a restored backup is.
func (c *Cluster) SetID(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.id = id
}

// ID is the cluster's.
func (c *Cluster) ID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// ofCluster refuses a request for another cluster.
func (c *Cluster) ofCluster(asked string) error {
	if own := c.ID(); asked != "" && asked != own {
		return Error(codes.FailedPrecondition, kvv1.ErrorReason_ERROR_REASON_OTHER_CLUSTER, "this is another cluster", "cluster_id", own)
	}
	return nil
}

// Before sets what is asked before each call (of a Batch stream: each batch); an
// error is the answer. nil: nothing.
func (c *Cluster) Before(ask func(pod int, method string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults.before = ask
}

// After is like Before, after the call was done: an error loses its answer.
func (c *Cluster) After(ask func(pod int, method string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults.after = ask
}

// Calls gives how often a method, for example "Put", was called.
func (c *Cluster) Calls(method string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[method]
}

// Forget refuses every request id that is older than now, as the store does when
// it has forgotten them.
func (c *Cluster) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults.forgotten = c.data.store.Revision()
}

// Lag makes "now" so many revisions earlier for watches, on every pod.
func (c *Cluster) Lag(revisions int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults.lag = revisions
}

func (c *Cluster) lag() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults.lag
}

// SpoilBatches makes every batch with a put of this key be refused as a whole.
func (c *Cluster) SpoilBatches(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults.spoils = key
}

// refuses is what Forget and SpoilBatches refuse of a request.
func (c *Cluster) refuses(request any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if write, ok := request.(interface{ GetRequestId() *kvv1.RequestId }); ok {
		if id := write.GetRequestId(); id != nil && id.GetKnownRevision() < c.faults.forgotten {
			return Error(codes.FailedPrecondition, kvv1.ErrorReason_ERROR_REASON_REQUEST_ID_EXPIRED,
				"the request id is older than the store remembers", "revision", fmt.Sprint(c.data.store.Revision()))
		}
	}
	batch, _ := request.(*kvv1.WriteBatch)
	for _, w := range batch.GetWrites() {
		if c.faults.spoils != "" && string(w.GetPut().GetKey()) == c.faults.spoils {
			return Error(codes.InvalidArgument, kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST, "a key is bad", "field", "key")
		}
	}
	return nil
}

// Error makes a refusal as a pod sends it.
func Error(code codes.Code, reason kvv1.ErrorReason, message string, metadata ...string) error {
	info := &errdetails.ErrorInfo{Domain: "baton", Reason: reason.String()[len("ERROR_REASON_"):], Metadata: map[string]string{}}
	for i := 0; i+1 < len(metadata); i += 2 {
		info.Metadata[metadata[i]] = metadata[i+1]
	}
	st, err := status.New(code, message).WithDetails(protoadapt.MessageV1Of(info))
	if err != nil {
		panic(fmt.Sprintf("clienttest: an ErrorInfo cannot be packed: %v", err))
	}
	return st.Err()
}

// statusOf makes a refusal of the store a status.
func statusOf(err error) error {
	if refused := refusal.Of(err); refused != nil {
		var metadata []string
		for key, value := range refused.Metadata {
			metadata = append(metadata, key, value)
		}
		return Error(refusal.Code(refused), refused.Reason, refused.Message, metadata...)
	}
	return err
}

func (p *pod) ask(method string, after bool) error {
	c := p.cluster
	c.mu.Lock()
	ask := c.faults.before
	if after {
		ask = c.faults.after
	} else {
		c.calls[method]++
	}
	c.mu.Unlock()
	if ask == nil {
		return nil
	}
	return ask(p.ordinal, method)
}

func (p *pod) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	method := lastPart(info.FullMethod)
	if err := p.ask(method, false); err != nil {
		return nil, err
	}
	if err := p.cluster.refuses(request); err != nil {
		return nil, err
	}
	response, err := handler(ctx, request)
	if err != nil {
		return nil, statusOf(err)
	}
	return response, p.ask(method, true)
}

func (p *pod) stream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := p.ask(lastPart(info.FullMethod), false); err != nil {
		return err
	}
	return statusOf(handler(service, stream))
}

func lastPart(method string) string {
	for i := len(method) - 1; i >= 0; i-- {
		if method[i] == '/' {
			return method[i+1:]
		}
	}
	return method
}

// canWrite is an error when there is no master.
func (c *Cluster) canWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.master < 0 {
		return Error(codes.Unavailable, kvv1.ErrorReason_ERROR_REASON_NO_MASTER, "there is no master now")
	}
	return nil
}

func (p *pod) name() string { return fmt.Sprintf("kv-%d", p.ordinal) }

func (p *pod) header(revision int64) *kvv1.ResponseHeader {
	return &kvv1.ResponseHeader{Revision: revision, Pod: p.name()}
}

// Status implements ClusterService.
func (p *pod) Status(context.Context, *kvv1.StatusRequest) (*kvv1.StatusResponse, error) {
	now := p.data.store.Status()
	c := p.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	response := &kvv1.StatusResponse{ClusterId: c.id}
	for _, q := range c.pods {
		entry := &kvv1.PodStatus{
			Name: q.name(), Ordinal: int32(q.ordinal),
			MemberId: fmt.Sprintf("kv-%d/00000000-0000-4000-8000-00000000000%d", q.ordinal, q.ordinal),
			Role:     kvv1.PodStatus_ROLE_FOLLOWER, Ready: q.server != nil, Term: term,
			AppliedIndex: now.Applied + 5, Revision: now.Revision, DbSizeBytes: 32 << 10, Version: "v0.1.0",
			ClientAddress: q.address, PeerAddress: fmt.Sprintf("kv-%d.kv:7401", q.ordinal), OldestRevision: now.Compacted,
		}
		switch {
		case q.server == nil:
			entry = &kvv1.PodStatus{Name: entry.Name, Ordinal: entry.Ordinal, MemberId: entry.MemberId,
				NotReadyBecause: "unreachable: connection refused", ClientAddress: q.address}
		case q.ordinal == c.master:
			entry.Role = kvv1.PodStatus_ROLE_MASTER
		}
		response.Pods = append(response.Pods, entry)
	}
	return response, nil
}

// HandOver implements MaintenanceService.
func (p *pod) HandOver(_ context.Context, r *kvv1.HandOverRequest) (*kvv1.HandOverResponse, error) {
	c := p.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, q := range c.pods {
		name := q.name()
		if q.server != nil && (r.GetTo() == name || (r.GetTo() == "" && q.ordinal != c.master)) {
			c.master = q.ordinal
			return &kvv1.HandOverResponse{Master: name}, nil
		}
	}
	return nil, Error(codes.InvalidArgument, kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST,
		fmt.Sprintf("there is no pod %q that could be the master", r.GetTo()), "field", "to")
}

// message is an error as it stands inside an answer.
func message(err error) *kvv1.Error {
	st := status.Convert(statusOf(err))
	m := &kvv1.Error{Code: uint32(st.Code()), Message: st.Message()}
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			m.Reason = kvv1.ErrorReason(kvv1.ErrorReason_value["ERROR_REASON_"+info.GetReason()])
			m.Metadata = info.GetMetadata()
		}
	}
	return m
}
