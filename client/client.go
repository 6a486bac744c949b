package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	defaultDialTimeout    = time.Second
	defaultAttemptTimeout = time.Second
	// A dead peer whose connection stays open is noticed after these two; pings
	// more often than every 10 s are refused by gRPC.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 3 * time.Second
	// Answers are bounded by the server; this only has to be above its bounds.
	maxAnswerBytes = 64 << 20
)

// Options configure a [Client].
type Options struct {
	// Endpoints are "host:port" of some pods, or of a Service in front of them.
	// At least one; one that answers is enough to find the others.
	Endpoints []string
	// Cluster is the id (StatusResponse.ClusterId) of the cluster that gave the
	// revisions that this client gets from elsewhere, for example from an earlier run
	// of the program; empty: the cluster that answers first. In another cluster,
	// watches and reads with a MinRevision end with [ErrOtherCluster].
	Cluster string
	// DialTimeout bounds one attempt to connect; 0 means 1 s.
	DialTimeout time.Duration
	// AttemptTimeout is how long the first attempt of a call waits for an answer
	// before another pod is asked; later attempts wait longer. 0 means 1 s. Too
	// short repeats calls that were only slow; too long is the time that a hung
	// pod costs.
	AttemptTimeout time.Duration
	// TLS is for every connection; nil: the connections are plain, unless Files says
	// otherwise. Without a ServerName a pod's certificate must be for the host of
	// its address; see TLSFiles.
	TLS *tls.Config
	// Files is TLS from files, which are read again; TLS must be nil then.
	Files TLSFiles
	// TokenFile holds the token that is sent with each call, for example one of a
	// Kubernetes ServiceAccount for the audience "baton". It is read again when it
	// may have changed. Without TLS it is refused for every address but loopback's.
	TokenFile string
	// User and Password log the client in, and again before its token ends; both
	// empty: it does not. While the cluster's access control is off they are not
	// needed. Without TLS they are refused for every address but loopback's.
	User, Password string
	// DialOptions are added to the client's own.
	DialOptions []grpc.DialOption
}

func (o Options) withDefaults() (Options, error) {
	if len(o.Endpoints) == 0 {
		return o, invalid("Options.Endpoints is empty: give at least one host:port")
	}
	for _, endpoint := range o.Endpoints {
		if endpoint == "" {
			return o, invalid("Options.Endpoints holds an empty address")
		}
	}
	if o.DialTimeout < 0 || o.AttemptTimeout < 0 {
		return o, invalid("a timeout in Options is negative")
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = defaultDialTimeout
	}
	if o.AttemptTimeout == 0 {
		o.AttemptTimeout = defaultAttemptTimeout
	}
	return o, nil
}

// Client talks to a cluster. All methods may be called from any goroutine.
type Client struct {
	options Options
	pods    *pods

	// ctx ends when Close is called; every goroutine of the client ends with it.
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	// Together they make request ids.
	id       []byte
	sequence atomic.Uint64
	// seen is the highest revision that any answer showed.
	seen atomic.Int64
	// cluster is the id of the cluster that revisions are of; nil: not known yet.
	cluster atomic.Pointer[string]

	keepers keepers
	secure  secure
}

// New makes a client. It connects in the background and does not fail when no
// pod can be reached: calls do.
func New(o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	secure, err := newSecure(o)
	if err != nil {
		return nil, err
	}
	c := &Client{options: o, id: make([]byte, 16), secure: secure}
	if o.User != "" {
		c.secure.login = &login{client: c, user: o.User, password: o.Password}
	}
	rand.Read(c.id)
	c.observeCluster(o.Cluster)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.pods, err = newPods(o.Endpoints, c.dial)
	if err != nil {
		c.cancel()
		return nil, err
	}
	c.tasks.Go(func() { c.pods.follow(c.ctx, c.observeStatus) })
	return c, nil
}

// Close ends every call and stream of the client and closes its connections.
// Keep-alives stop: leases live on for their time to live.
func (c *Client) Close() error {
	c.cancel()
	c.tasks.Wait()
	c.pods.close()
	return nil
}

// Revision is the highest revision that any answer has shown this client; 0
// before the first. As [MinRevision] it makes reads monotonic.
func (c *Client) Revision() int64 {
	return c.seen.Load()
}

func (c *Client) observe(revision int64) {
	for {
		seen := c.seen.Load()
		if revision <= seen || c.seen.CompareAndSwap(seen, revision) {
			return
		}
	}
}

// observeCluster keeps the first id that it is given, for good: whatever revision
// the client has is of that cluster.
func (c *Client) observeCluster(id string) {
	if id != "" {
		c.cluster.CompareAndSwap(nil, &id)
	}
}

// clusterID is "" as long as it is not known.
func (c *Client) clusterID() string {
	if id := c.cluster.Load(); id != nil {
		return *id
	}
	return ""
}

func (c *Client) observeStatus(s *kvv1.StatusResponse) {
	// A pod that knows of no ready one may be of another cluster, left behind.
	if slices.ContainsFunc(s.GetPods(), (*kvv1.PodStatus).GetReady) {
		c.observeCluster(s.GetClusterId())
	}
	if id := c.clusterID(); id != "" && s.GetClusterId() != id {
		return // its revisions are others
	}
	for _, pod := range s.GetPods() {
		c.observe(pod.GetRevision())
	}
}

// newRequestID names a write that is about to be sent for the first time.
func (c *Client) newRequestID() *kvv1.RequestId {
	return &kvv1.RequestId{
		ClientId:      c.id,
		Sequence:      c.sequence.Add(1),
		KnownRevision: c.seen.Load(),
	}
}

func (c *Client) dial(address string) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: false,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			// A pod that restarts is used again soon, so the delay stays short.
			Backoff: backoff.Config{
				BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2,
				MaxDelay: 500 * time.Millisecond,
			},
			MinConnectTimeout: c.options.DialTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)),
		// The client repeats what is safe itself; a silent second attempt by gRPC
		// would make the first one's outcome unclear.
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		// The services are plain addresses: a proxy of the environment is for HTTP.
		grpc.WithNoProxy(),
	}
	options = append(options, c.secure.to(address)...)
	return grpc.NewClient("passthrough:///"+address, append(options, c.options.DialOptions...)...)
}
