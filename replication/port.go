package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/volume"
)

const (
	handshakeTimeout = 3 * time.Second
	// connectTimeout is short: an address that DNS still gives for a pod that has
	// moved answers nothing, and the next attempt may have the right one.
	connectTimeout = time.Second
	// maxGreeting bounds the connections that have not said who they are.
	maxGreeting = 256
	// refusalLogEvery keeps a stranger that knocks all the time out of the log.
	refusalLogEvery = 10 * time.Second
)

// port is the peer port: one listener whose connections begin with a
// handshake, and go to Raft or to gRPC after it.
type port struct {
	opts     *Options
	identity func() volume.Identity
	refusals func(side string, reason handshake.Reason)
	logger   *slog.Logger

	recentAddresses *recentAddresses
	greeting        chan struct{}
	// left gets a member when its last Raft connection has ended.
	left chan MemberID
	wg   sync.WaitGroup

	mu        sync.Mutex                   // guards the fields below
	listeners map[handshake.Kind]*acceptor // those of Raft are there once it runs
	conns     map[*trackedConn]struct{}
	callers   map[MemberID]int // Raft connections of each member
	closed    bool
	lastSaid  map[handshake.Reason]time.Time
}

func newPort(o *Options, identity func() volume.Identity, refusals func(string, handshake.Reason)) *port {
	p := &port{
		opts: o, identity: identity, refusals: refusals, logger: o.Logger,
		recentAddresses: &recentAddresses{ips: map[string]string{}}, greeting: make(chan struct{}, maxGreeting),
		listeners: map[handshake.Kind]*acceptor{}, conns: map[*trackedConn]struct{}{},
		callers: map[MemberID]int{}, left: make(chan MemberID, 16),
		lastSaid: map[handshake.Reason]time.Time{},
	}
	p.wg.Go(p.accept)
	return p
}

// acceptor is the net.Listener of one kind of connections.
type acceptor struct {
	addr  net.Addr
	conns chan *trackedConn
	done  chan struct{}
	once  sync.Once
}

func newAcceptor(addr net.Addr) *acceptor {
	return &acceptor{addr: addr, conns: make(chan *trackedConn), done: make(chan struct{})}
}

func (a *acceptor) next() (*trackedConn, error) {
	select {
	case c := <-a.conns:
		return c, nil
	case <-a.done:
		return nil, net.ErrClosed
	}
}

func (a *acceptor) Accept() (net.Conn, error) {
	c, err := a.next()
	if err != nil {
		return nil, err // not a nil *trackedConn
	}
	return c, nil
}

func (a *acceptor) Close() error   { a.once.Do(func() { close(a.done) }); return nil }
func (a *acceptor) Addr() net.Addr { return a.addr }

// memberAddr is the address that Raft knows a member by.
type memberAddr MemberID

func (memberAddr) Network() string  { return "baton" }
func (m memberAddr) String() string { return string(m) }

// listen opens the port for one kind; calls can be opened again: the newer
// listener gets what comes.
func (p *port) listen(kind handshake.Kind) *acceptor {
	a := newAcceptor(memberAddr(p.identity().MemberID))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listeners[kind] = a
	return a
}

func (p *port) accept() {
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
		select {
		case p.greeting <- struct{}{}:
			p.wg.Go(func() {
				defer func() { <-p.greeting }()
				p.greet(conn)
			})
		default:
			conn.Close()
		}
	}
}

// greet is the listening side of the handshake.
func (p *port) greet(conn net.Conn) {
	tracked := &trackedConn{Conn: conn, raw: conn, port: p}
	if !p.track(tracked) {
		conn.Close()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	conn.SetDeadline(time.Now().Add(handshakeTimeout))
	if p.opts.Secure != nil {
		secured, err := p.opts.Secure(ctx, conn, true)
		if err != nil {
			p.refused("in", handshake.Malformed, err.Error(), conn)
			tracked.Close()
			return
		}
		tracked.Conn = secured
	}
	hello, err := handshake.ReadHello(tracked.Conn)
	to, answer := p.judge(hello, err)
	if answer.Reason != handshake.Accepted {
		p.refused("in", answer.Reason, answer.Message, conn)
	}
	sent := handshake.WriteWelcome(tracked.Conn, answer)
	if answer.Reason != handshake.Accepted || sent != nil {
		tracked.Close()
		return
	}
	conn.SetDeadline(time.Time{})
	keepAlive(conn)
	if hello.Cluster != "" && hello.Cluster == answer.Cluster {
		p.recentAddresses.note(hello.Pod, conn.RemoteAddr())
	}
	if hello.Kind != handshake.Calls {
		p.count(tracked, MemberID(hello.Member))
	}
	select {
	case to.conns <- tracked:
	case <-to.done:
		tracked.Close()
	}
}

// judge decides about a caller.
func (p *port) judge(h handshake.Hello, err error) (*acceptor, handshake.Welcome) {
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
	case h.TargetPod != p.opts.Name:
		return nil, refuse(handshake.WrongPod, "%s asks for %s, this is %s", h.Pod, h.TargetPod, p.opts.Name)
	case h.Cluster != "" && id.Cluster() != "" && h.Cluster != id.Cluster():
		return nil, refuse(handshake.WrongCluster, "%s is of cluster %s, %s of %s", h.Pod, h.Cluster, p.opts.Name, id.Cluster())
	case h.TargetMember != "" && h.TargetMember != id.MemberID:
		return nil, refuse(handshake.WrongMember, "%s asks for %s, this is %s", h.Pod, h.TargetMember, id.MemberID)
	case MemberID(h.Member).Pod() != h.Pod:
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

// dialMember connects to one incarnation of a pod.
func (p *port) dialMember(id MemberID, kind handshake.Kind, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return p.dial(ctx, kind, id.Pod(), id)
}

// dial is the calling side. member may be empty: any incarnation of the pod.
func (p *port) dial(ctx context.Context, kind handshake.Kind, pod string, member MemberID) (net.Conn, error) {
	addr, missing := p.opts.Resolver(pod)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if seen := p.recentAddresses.instead(pod, addr); seen != "" {
		if conn, err := p.dialAt(ctx, kind, pod, member, seen); err == nil {
			return conn, nil
		}
		p.recentAddresses.forget(pod, seen)
	}
	if missing != nil {
		return nil, fmt.Errorf("resolve %s: %w", pod, missing)
	}
	return p.dialAt(ctx, kind, pod, member, addr)
}

func (p *port) dialAt(ctx context.Context, kind handshake.Kind, pod string, member MemberID, addr string) (net.Conn, error) {
	connecting, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := p.opts.Dial(connecting, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s at %s: %w", pod, addr, err)
	}
	tracked := &trackedConn{Conn: conn, raw: conn, port: p}
	if !p.track(tracked) {
		conn.Close()
		return nil, ErrClosed
	}
	tracked.Conn, err = p.introduce(ctx, conn, kind, pod, member)
	if err != nil {
		tracked.Conn = conn
		tracked.Close()
		return nil, fmt.Errorf("dial %s at %s: %w", pod, addr, err)
	}
	return tracked, nil
}

func (p *port) introduce(ctx context.Context, conn net.Conn, kind handshake.Kind, pod string, member MemberID) (_ net.Conn, err error) {
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	raw := conn
	if p.opts.Secure != nil {
		if conn, err = p.opts.Secure(ctx, conn, false); err != nil {
			return nil, err
		}
	}
	id := p.identity()
	if err := handshake.WriteHello(conn, handshake.Hello{
		Kind: kind, Cluster: id.Cluster(), Member: id.MemberID, Pod: p.opts.Name,
		TargetPod: pod, TargetMember: string(member),
	}); err != nil {
		return nil, err
	}
	w, err := handshake.ReadWelcome(conn)
	switch {
	case err != nil:
	case w.Pod != pod:
		err = &handshake.Refused{Reason: handshake.WrongPod, Message: "it calls itself " + w.Pod}
	case member != "" && w.Member != string(member):
		err = &handshake.Refused{Reason: handshake.WrongMember, Message: "it calls itself " + w.Member}
	case id.Cluster() != "" && w.Cluster != "" && w.Cluster != id.Cluster():
		err = &handshake.Refused{Reason: handshake.WrongCluster, Message: "it belongs to " + w.Cluster}
	}
	if err != nil {
		var r *handshake.Refused
		if errors.As(err, &r) {
			p.refused("out", r.Reason, r.Message, raw)
		}
		return nil, err
	}
	raw.SetDeadline(time.Time{})
	keepAlive(raw)
	return conn, nil
}

func (p *port) refused(side string, r handshake.Reason, message string, conn net.Conn) {
	p.refusals(side, r)
	p.mu.Lock()
	quiet := time.Since(p.lastSaid[r]) < refusalLogEvery
	if !quiet {
		p.lastSaid[r] = time.Now()
	}
	p.mu.Unlock()
	if r == handshake.NotStarted {
		p.logger.Debug("a peer connection was refused", "side", side, "reason", r, "because", message)
	} else if !quiet {
		p.logger.Warn("a peer connection was refused; if it goes on, look at what the pods' names resolve to",
			"side", side, "reason", r, "because", message, "address", conn.RemoteAddr())
	}
}

// trackedConn is a connection that the port can close.
type trackedConn struct {
	net.Conn          // what Secure made of raw
	raw      net.Conn // never changes: the port closes it at any moment
	port     *port
	from     MemberID // of an accepted Raft connection; set before it is given out
	once     sync.Once
}

func (c *trackedConn) Close() error {
	c.once.Do(func() {
		p := c.port
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
		if c.from == "" {
			return
		}
		if p.callers[c.from]--; p.callers[c.from] == 0 {
			delete(p.callers, c.from)
			select {
			case p.left <- c.from:
			default:
			}
		}
	})
	return c.Conn.Close()
}

func (p *port) count(c *trackedConn, from MemberID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.from = from
	p.callers[from]++
}

// connected says whether a member has a Raft connection to this pod.
func (p *port) connected(m MemberID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.callers[m] > 0
}

func (p *port) track(c *trackedConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.conns[c] = struct{}{}
	}
	return !p.closed
}

// close ends all connections and makes no new ones: a pod whose disk hangs
// falls silent so that the others replace it.
func (p *port) close() {
	p.opts.Listener.Close()
	p.mu.Lock()
	p.closed = true
	for _, a := range p.listeners {
		a.Close()
	}
	for c := range p.conns {
		c.raw.Close()
	}
	p.mu.Unlock()
}

// wait returns when every handshake has ended.
func (p *port) wait() { p.wg.Wait() }
