package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/batondb/baton/internal/seldom"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/volume"
)

const (
	handshakeTimeout = 3 * time.Second
	// connectTimeout is short: an address that DNS still gives for a pod that has
	// moved answers nothing, and the next attempt may have the right one.
	connectTimeout = time.Second
	// maxConns of one kind a pod may have; with all that breaks and is made anew it
	// needs some ten.
	maxConns = 64
)

// Port is the peer port: one listener whose connections begin with a
// handshake, and go to Raft or to gRPC after it.
type Port struct {
	opts     *replication.Options
	identity func() volume.Identity
	logger   *slog.Logger
	refusals refusals

	recentAddresses *recentAddresses
	greetings       *greetings
	// Left gets a member when its last Raft connection has ended.
	Left chan replication.MemberID
	wg   sync.WaitGroup

	mu        sync.Mutex                   // guards the fields below
	listeners map[handshake.Kind]*Listener // those of Raft are there once it runs
	conns     map[*Conn]struct{}
	callers   map[replication.MemberID]int // Raft connections of each member
	closed    chan struct{}                // closed by Close
}

// refusals counts the connections that were refused, and says some of them.
type refusals struct {
	count func(side string, reason handshake.Reason)
	said  seldom.Events
}

// NewPort begins to accept connections at o.Listener, for the member that identity
// names at that moment. countRefusal is told of every one that was refused, by this
// side ("in") or by the other ("out").
func NewPort(o *replication.Options, identity func() volume.Identity, countRefusal func(string, handshake.Reason)) *Port {
	p := &Port{
		opts: o, identity: identity, logger: o.Logger,
		recentAddresses: &recentAddresses{ips: map[string]string{}}, greetings: &greetings{},
		listeners: map[handshake.Kind]*Listener{}, conns: map[*Conn]struct{}{},
		callers: map[replication.MemberID]int{}, closed: make(chan struct{}), Left: make(chan replication.MemberID, 16),
		refusals: refusals{count: countRefusal},
	}
	p.wg.Go(p.accept)
	if o.Security != nil {
		p.wg.Go(p.recheck)
	}
	return p
}

// Listener is the net.Listener of one kind of connections.
type Listener struct {
	addr  net.Addr
	conns chan *Conn
	done  chan struct{}
	once  sync.Once
}

func newListener(addr net.Addr) *Listener {
	return &Listener{addr: addr, conns: make(chan *Conn), done: make(chan struct{})}
}

// Next returns the next connection, or net.ErrClosed.
func (a *Listener) Next() (*Conn, error) {
	select {
	case c := <-a.conns:
		return c, nil
	case <-a.done:
		return nil, net.ErrClosed
	}
}

// Accept implements net.Listener.
func (a *Listener) Accept() (net.Conn, error) {
	c, err := a.Next()
	if err != nil {
		return nil, err // not a nil *trackedConn
	}
	return c, nil
}

func (a *Listener) Close() error   { a.once.Do(func() { close(a.done) }); return nil }
func (a *Listener) Addr() net.Addr { return a.addr }

// memberAddr is the address that Raft knows a member by.
type memberAddr replication.MemberID

func (memberAddr) Network() string  { return "baton" }
func (m memberAddr) String() string { return string(m) }

// Listen opens the port for one kind; calls can be opened again: the newer
// listener gets what comes.
func (p *Port) Listen(kind handshake.Kind) *Listener {
	a := newListener(memberAddr(p.identity().MemberID))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listeners[kind] = a
	return a
}

func (p *Port) accept() {
	for {
		conn, err := p.opts.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			p.logger.Warn("the peer port cannot accept a connection", "error", err)
			time.Sleep(50 * time.Millisecond) // out of file descriptors: do not spin
			continue
		}
		done := p.greetings.enter(conn)
		p.wg.Go(func() { p.greet(conn, done) })
	}
}

// greet is the listening side of the handshake; done is called when it is over. There is
// one deadline for all of it, and for the bytes of TLS and of the handshake there are
// bounds.
func (p *Port) greet(conn net.Conn, done func()) {
	tracked := &Conn{Conn: conn, raw: conn, port: p}
	if !p.track(tracked) {
		conn.Close()
		done()
		return
	}
	to, hello, err := p.welcome(tracked)
	if done(); err != nil {
		tracked.Close()
		return
	}
	p.makeRoom(tracked, hello.Kind)
	if hello.Kind != handshake.Calls {
		p.count(tracked, replication.MemberID(hello.Member))
	}
	select {
	case to.conns <- tracked:
	case <-to.done:
		tracked.Close()
	}
}

// makeRoom closes a pod's oldest connection of a kind when it has too many.
func (p *Port) makeRoom(tracked *Conn, kind handshake.Kind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tracked.kind, tracked.since = kind, time.Now()
	pod, held, oldest := tracked.caller.Member.Pod(), 0, (*Conn)(nil)
	for c := range p.conns {
		if c.kind != kind || c.caller.Member.Pod() != pod {
			continue
		}
		if held++; oldest == nil || c.since.Before(oldest.since) {
			oldest = c
		}
	}
	if held > maxConns {
		oldest.raw.Close()
	}
}

// errRefused is told to nobody: the other side has been told why.
var errRefused = errors.New("refused")

func (p *Port) welcome(tracked *Conn) (*Listener, handshake.Hello, error) {
	conn := tracked.raw
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	conn.SetDeadline(time.Now().Add(handshakeTimeout))
	if err := p.secure(ctx, tracked, ""); err != nil {
		p.refused("in", reasonOf(err), err.Error(), conn)
		return nil, handshake.Hello{}, err
	}
	hello, err := handshake.ReadHello(tracked.Conn)
	to, answer := p.judge(hello, tracked.proved, err)
	if answer.Reason != handshake.Accepted {
		p.refused("in", answer.Reason, answer.Message, conn)
	}
	if err := handshake.WriteWelcome(tracked.Conn, answer); err != nil {
		return nil, hello, err
	}
	if answer.Reason != handshake.Accepted {
		return nil, hello, errRefused
	}
	conn.SetDeadline(time.Time{})
	keepAlive(conn)
	member := hello.Cluster != "" && hello.Cluster == answer.Cluster
	if member {
		p.recentAddresses.note(hello.Pod, conn.RemoteAddr())
	}
	tracked.caller = Caller{Member: replication.MemberID(hello.Member), Proven: tracked.proved != "", SameCluster: member}
	return to, hello, nil
}

// judge decides about a caller, who has proved to be a pod, or nothing.
func (p *Port) judge(h handshake.Hello, proved string, err error) (*Listener, handshake.Welcome) {
	id := p.identity()
	w := handshake.Welcome{Cluster: id.Cluster(), Member: id.MemberID, Pod: p.opts.Name}
	refuse := func(r handshake.Reason, format string, args ...any) handshake.Welcome {
		w.Reason, w.Message = r, fmt.Sprintf(format, args...)
		return w
	}
	var refused *handshake.Refused
	switch {
	case errors.As(err, &refused):
		return nil, refuse(refused.Reason, "%s", refused.Message)
	case err != nil:
		return nil, refuse(handshake.Malformed, "%v", err)
	case !replication.MemberID(h.Member).Valid():
		return nil, refuse(handshake.Malformed, "%q is not a member id", h.Member)
	case proved != "" && h.Pod != proved:
		return nil, refuse(handshake.WrongCertificate, "%s has the certificate of %s", h.Pod, proved)
	case h.TargetPod != p.opts.Name:
		return nil, refuse(handshake.WrongPod, "%s asks for %s, this is %s", h.Pod, h.TargetPod, p.opts.Name)
	case h.Cluster != "" && id.Cluster() != "" && h.Cluster != id.Cluster():
		return nil, refuse(handshake.WrongCluster, "%s is of cluster %s, %s of %s", h.Pod, h.Cluster, p.opts.Name, id.Cluster())
	case h.TargetMember != "" && h.TargetMember != id.MemberID:
		return nil, refuse(handshake.WrongMember, "%s asks for %s, this is %s", h.Pod, h.TargetMember, id.MemberID)
	case replication.MemberID(h.Member).Pod() != h.Pod:
		return nil, refuse(handshake.WrongMember, "%s calls itself %s", h.Member, h.Pod)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	to := p.listeners[h.Kind]
	// Raft messages change terms: they need a proof of the cluster and of the disk.
	if h.Kind != handshake.Calls && (h.Cluster == "" || h.TargetMember == "" || id.Cluster() == "") {
		to = nil
	}
	if to == nil {
		return nil, refuse(handshake.NotStarted, "%s takes no part in the log yet", p.opts.Name)
	}
	return to, w
}

// DialMember connects to one incarnation of a pod.
func (p *Port) DialMember(id replication.MemberID, kind handshake.Kind, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return p.Dial(ctx, kind, id.Pod(), id)
}

// Dial is the calling side. member may be empty: any incarnation of the pod.
func (p *Port) Dial(ctx context.Context, kind handshake.Kind, pod string, member replication.MemberID) (net.Conn, error) {
	addr, missing := p.opts.Resolver(pod)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if seen := p.recentAddresses.instead(pod, addr); seen != "" {
		if conn, err := p.dialSecurely(ctx, kind, pod, member, seen); err == nil {
			return conn, nil
		}
		p.recentAddresses.forget(pod, seen)
	}
	if missing != nil {
		return nil, fmt.Errorf("resolve %s: %w", pod, missing)
	}
	return p.dialSecurely(ctx, kind, pod, member, addr)
}

func (p *Port) dialAt(ctx context.Context, plain bool, kind handshake.Kind, pod string, member replication.MemberID, addr string) (net.Conn, error) {
	connecting, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := p.opts.Dial(connecting, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s at %s: %w", pod, addr, err)
	}
	tracked := &Conn{Conn: conn, raw: conn, port: p, kind: kind, since: time.Now()}
	if !p.track(tracked) {
		conn.Close()
		return nil, replication.ErrClosed
	}
	if err := p.introduce(ctx, tracked, plain, kind, pod, member); err != nil {
		tracked.Close()
		return nil, fmt.Errorf("dial %s at %s: %w", pod, addr, err)
	}
	return tracked, nil
}

func (p *Port) introduce(ctx context.Context, conn *Conn, plain bool, kind handshake.Kind, pod string, member replication.MemberID) (err error) {
	deadline, _ := ctx.Deadline()
	conn.raw.SetDeadline(deadline)
	defer context.AfterFunc(ctx, func() { conn.raw.SetDeadline(time.Unix(1, 0)) })()
	defer func() { p.refusedCall(err, conn.raw) }()
	if !plain {
		if err := p.secure(ctx, conn, pod); err != nil {
			return err
		}
	}
	id := p.identity()
	if err := handshake.WriteHello(conn, handshake.Hello{
		Kind: kind, Cluster: id.Cluster(), Member: id.MemberID, Pod: p.opts.Name,
		TargetPod: pod, TargetMember: string(member),
	}); err != nil {
		return err
	}
	w, err := handshake.ReadWelcome(conn)
	switch {
	case err != nil:
		return err
	case w.Pod != pod:
		return &handshake.Refused{Reason: handshake.WrongPod, Message: "it calls itself " + w.Pod}
	case member != "" && w.Member != string(member):
		return &handshake.Refused{Reason: handshake.WrongMember, Message: "it calls itself " + w.Member}
	case id.Cluster() != "" && w.Cluster != "" && w.Cluster != id.Cluster():
		return &handshake.Refused{Reason: handshake.WrongCluster, Message: "it belongs to " + w.Cluster}
	}
	conn.raw.SetDeadline(time.Time{})
	keepAlive(conn.raw)
	return nil
}

func (p *Port) refused(side string, r handshake.Reason, message string, conn net.Conn) {
	p.refusals.count(side, r)
	message = message[:min(len(message), maxReason)]
	_, due := p.refusals.said.Due(r.String())
	if r == handshake.NotStarted {
		p.logger.Debug("a peer connection was refused", "side", side, "reason", r, "because", message)
	} else if due {
		p.logger.Warn("a peer connection was refused; if it goes on, look at "+suspect(r),
			"side", side, "reason", r, "because", message, "address", conn.RemoteAddr())
	}
}

func (p *Port) count(c *Conn, from replication.MemberID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.From = from
	p.callers[from]++
}

// Connected says whether a member has a Raft connection to this pod.
func (p *Port) Connected(m replication.MemberID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.callers[m] > 0
}

func (p *Port) track(c *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
		return false
	default:
	}
	p.conns[c] = struct{}{}
	return true
}

// Close ends all connections and makes no new ones: a pod whose disk hangs
// falls silent so that the others replace it.
func (p *Port) Close() {
	p.opts.Listener.Close()
	p.mu.Lock()
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	for _, a := range p.listeners {
		a.Close()
	}
	for c := range p.conns {
		c.raw.Close()
	}
	p.mu.Unlock()
}

// Wait returns when every handshake has ended, after Close.
func (p *Port) Wait() { p.wg.Wait() }
