package simulate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/batondb/baton/test/workload"
)

// Network carries connections between the hosts of one simulation, in virtual
// time. Nothing but its hosts' Listen and Dial is a substitute: what runs over
// it is what ships. A connection is a stream as TCP's: bytes are never lost,
// repeated or reordered within one, but they can be late, be held back, and the
// connection can end at any byte. All methods may be called by any goroutine.
type Network struct {
	mu    sync.Mutex // Guards the fields below, and those of hosts and links.
	hosts map[string]*Host
	links map[[2]string]*link
	dials uint64
	// recordings are of earlier connections: see again.
	recordings []*recording
}

// NewNetwork makes one without hosts.
func NewNetwork() *Network {
	return &Network{hosts: map[string]*Host{}, links: map[[2]string]*link{}}
}

// Host is one process's side of the network: the incarnation of a pod, or a
// client. An address is its name and a port.
type Host struct {
	name    string
	ip      string
	network *Network

	listeners map[string]*listener // By port.
	conns     map[*conn]struct{}
	gone      bool // Its process has ended.
	off       bool // Nobody answers at its address.
	// hung is closed when its process goes on; nil: it runs.
	hung chan struct{}
}

// link is one direction between two hosts.
type link struct {
	latency time.Duration
	cut     bool // Nothing arrives until it is healed.
	refuse  bool // New connections fail at once.
	changed chan struct{}
}

// normalLatency is what a message takes within a zone.
const normalLatency = 200 * time.Microsecond

// Host adds a host; one of the same name must be gone.
func (n *Network) Host(name, ip string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.hosts[name]; old != nil && !old.gone {
		panic("simulate: host " + name + " is there already")
	}
	h := &Host{name: name, ip: ip, network: n, listeners: map[string]*listener{}, conns: map[*conn]struct{}{}}
	n.hosts[name] = h
	return h
}

// link finds a direction. The lock is held.
func (n *Network) link(from, to string) *link {
	l := n.links[[2]string{from, to}]
	if l == nil {
		l = &link{latency: normalLatency, changed: make(chan struct{})}
		n.links[[2]string{from, to}] = l
	}
	return l
}

// change changes one direction, and tells those who wait for it.
func (n *Network) change(from, to string, f func(*link)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(from, to)
	f(l)
	close(l.changed)
	l.changed = make(chan struct{})
}

// Cut holds back what goes from one host to another until Heal.
func (n *Network) Cut(from, to string) { n.change(from, to, func(l *link) { l.cut = true }) }

// Refuse makes new connections from one host to another fail at once, as a
// firewall does that answers.
func (n *Network) Refuse(from, to string) { n.change(from, to, func(l *link) { l.refuse = true }) }

// Slow sets how long a message takes from one host to another.
func (n *Network) Slow(from, to string, latency time.Duration) {
	n.change(from, to, func(l *link) { l.latency = latency })
}

// Mend makes both directions between two hosts normal again.
func (n *Network) Mend(a, b string) {
	for _, pair := range [][2]string{{a, b}, {b, a}} {
		n.change(pair[0], pair[1], func(l *link) { *l = link{latency: normalLatency, changed: l.changed} })
	}
}

// Heal makes every direction normal again. What was held back arrives.
func (n *Network) Heal() {
	n.mu.Lock()
	var all [][2]string
	for pair := range n.links {
		all = append(all, pair)
	}
	n.mu.Unlock()
	for _, pair := range all {
		n.change(pair[0], pair[1], func(l *link) { *l = link{latency: normalLatency, changed: l.changed} })
	}
}

// Break ends every connection between two hosts at once, both sides seeing a
// reset.
func (n *Network) Break(a, b string) {
	n.mu.Lock()
	var ended []*conn
	for _, pair := range [][2]string{{a, b}, {b, a}} {
		if h := n.hosts[pair[0]]; h != nil {
			for c := range h.conns {
				if c.peer.host.name == pair[1] {
					ended = append(ended, c)
				}
			}
		}
	}
	n.mu.Unlock()
	for _, c := range ended {
		c.breakBoth(syscall.ECONNRESET)
	}
}

// Vanish ends a host as a process that is killed ends: its kernel resets its
// connections and refuses new ones. With silent it is the whole machine, which
// says nothing.
func (h *Host) Vanish(silent bool) {
	h.network.mu.Lock()
	h.gone, h.off = true, h.off || silent
	hung := h.hung
	var conns []*conn
	for c := range h.conns {
		conns = append(conns, c)
	}
	for _, l := range h.listeners {
		l.end()
	}
	h.network.mu.Unlock()
	for _, c := range conns {
		c.vanish(silent)
	}
	if hung != nil {
		h.resume(nil)
	}
}

// Listen opens a port of the host.
func (h *Host) Listen(address string) (net.Listener, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	if h.gone {
		return nil, opError("listen", syscall.ENETDOWN)
	}
	if old := h.listeners[port]; old != nil && !old.ended() {
		return nil, opError("listen", syscall.EADDRINUSE)
	}
	l := &listener{host: h, address: endpoint(h.ip, port), backlog: make(chan *conn, 128), done: make(chan struct{})}
	h.listeners[port] = l
	return l, nil
}

// Dial connects to a port of the host that has an ip. To a host that is not
// there a dial waits until its context ends; to a port that nobody listens on
// it is refused.
func (h *Host) Dial(ctx context.Context, ip, port string) (net.Conn, error) {
	n := h.network
	n.mu.Lock()
	n.dials++
	number := n.dials
	n.mu.Unlock()
	for _, way := range []bool{true, false} { // There, and back.
		if err := h.cross(ctx, ip, way); err != nil {
			return nil, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.at(ip)
	if to == nil || h.gone {
		return nil, opError("dial", syscall.EHOSTUNREACH)
	}
	l := to.listeners[port]
	if l == nil || l.ended() {
		return nil, opError("dial", syscall.ECONNREFUSED)
	}
	near, far := connect(h, to, number, port)
	select {
	case l.backlog <- far:
		return near, nil
	default:
		delete(h.conns, near)
		delete(to.conns, far)
		return nil, opError("dial", syscall.ECONNREFUSED)
	}
}

// Remove takes the address of a host away whose process has ended.
func (h *Host) Remove() {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	h.off = true
}

// dialer is what a process calls with a name and a port.
func (h *Host) dialer(lookup func(ctx context.Context, host string) ([]string, error)) func(ctx context.Context, hostport string) (net.Conn, error) {
	return func(ctx context.Context, hostport string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(hostport)
		if err != nil {
			return nil, err
		}
		if err := h.awake(ctx); err != nil {
			return nil, opError("dial", err)
		}
		ips, err := lookup(ctx, host)
		if err != nil {
			return nil, opError("dial", err)
		}
		return h.Dial(ctx, ips[0], port)
	}
}

// at is the host that answers at an ip. The lock is held.
func (n *Network) at(ip string) *Host {
	for _, h := range n.hosts {
		if h.ip == ip && !h.off {
			return h
		}
	}
	return nil
}

// cross waits until a message of a dial has gone one way.
func (h *Host) cross(ctx context.Context, ip string, there bool) error {
	n := h.network
	for {
		n.mu.Lock()
		to := n.at(ip)
		if to == nil { // Nobody answers.
			n.mu.Unlock()
			<-ctx.Done()
			return opError("dial", context.Cause(ctx))
		}
		pair := [2]string{h.name, to.name}
		if !there {
			pair = [2]string{to.name, h.name}
		}
		l := n.link(pair[0], pair[1])
		cut, changed, latency, refuse := l.cut, l.changed, l.latency, l.refuse
		n.mu.Unlock()
		if refuse && there {
			return opError("dial", syscall.ECONNREFUSED)
		}
		if !cut {
			return workload.Pause(ctx, latency)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return opError("dial", context.Cause(ctx))
		}
	}
}

func opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Err: err}
}

// endpoint is an address that looks like one of TCP.
func endpoint(ip, port string) net.Addr {
	number, err := strconv.Atoi(port)
	if err != nil {
		panic(fmt.Sprintf("simulate: port %q", port))
	}
	return &net.TCPAddr{IP: net.ParseIP(ip), Port: number}
}

// listener is a port that is open.
type listener struct {
	host    *Host
	address net.Addr
	backlog chan *conn
	done    chan struct{}
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	case c := <-l.backlog:
		return c, nil
	}
}

func (l *listener) end() { l.once.Do(func() { close(l.done) }) }

func (l *listener) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// Close resets what was not accepted, as a kernel does.
func (l *listener) Close() error {
	l.end()
	for {
		select {
		case c := <-l.backlog:
			c.breakBoth(syscall.ECONNRESET)
		default:
			return nil
		}
	}
}

func (l *listener) Addr() net.Addr { return l.address }

// source is a stream of random numbers for one thing of the simulation: what
// other things draw does not move it.
func source(seed uint64, thing string) *rand.Rand {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(thing) {
		h = (h ^ uint64(thing[i])) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, h))
}

// free says that no host has an ip.
func (n *Network) free(ip string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.at(ip) == nil
}
