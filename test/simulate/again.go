package simulate

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/batondb/baton/test/workload"
)

// A connection of TCP repeats nothing and reorders nothing; Raft is to bear both,
// and messages that come after any time. So the network keeps what the dialing
// side of some connections between pods wrote, and writes it again, from the same
// address, to whoever has the pod's name by then: the same process, or one that
// was started over the same volume, or over another one.

const (
	// peerPort is where pods talk to each other.
	peerPort = "7401"
	// One of so many connections is kept, at most so many of its first bytes, and so
	// many connections.
	oneRecorded   = 4
	recordedBytes = 256 << 10
	maxRecordings = 48
	newest        = 6
)

// A connection begins with a handshake, whose head ends with the size of the rest,
// of which the first byte is the kind. Calls are not kept: a write without a
// request id may come once only, and TCP sees to that.
const (
	headBytes = 11
	kindCalls = 2
)

// recording is what one connection's dialing side wrote. A nil one keeps nothing.
type recording struct {
	network      *Network
	from, ip, to string

	mu   sync.Mutex // Guards data.
	data []byte
}

func (r *recording) write(p []byte) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.data) > headBytes && r.data[headBytes] == kindCalls {
		return
	}
	before := r.speaks()
	r.data = append(r.data, p[:min(len(p), recordedBytes-len(r.data))]...)
	if !before && r.speaks() {
		r.network.keep(r)
	}
}

// speaks says that there is more than a handshake.
func (r *recording) speaks() bool {
	return len(r.data) > headBytes && r.data[headBytes] != kindCalls &&
		len(r.data) > headBytes+int(binary.BigEndian.Uint16(r.data[headBytes-2:]))
}

// bytes is what there is so far.
func (r *recording) bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.data)
}

// record says what is to be kept of a new connection.
func (n *Network) record(from, to *Host, number uint64, port string) *recording {
	if port != peerPort || number%oneRecorded != 0 {
		return nil
	}
	return &recording{network: n, from: from.name, ip: from.ip, to: to.name}
}

func (n *Network) keep(r *recording) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.recordings) == maxRecordings { // An old one may stay for long.
		at := int(n.dials * 7 % maxRecordings)
		n.recordings = slices.Delete(n.recordings, at, at+1)
	}
	n.recordings = append(n.recordings, r)
}

// recorded draws some of what was kept: as often one of the newest as any.
func (n *Network) recorded(rng *rand.Rand, most int) (drawn []*recording) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for range most {
		from := n.recordings
		if rng.IntN(2) == 0 {
			from = from[max(0, len(from)-newest):]
		}
		if len(from) > 0 {
			drawn = append(drawn, from[rng.IntN(len(from))])
		}
	}
	return drawn
}

// redial opens a connection as if the recorded host did, which may be gone.
func (n *Network) redial(r *recording) *conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.hosts[r.to]
	if to == nil || to.gone {
		return nil
	}
	l := to.listeners[peerPort]
	if l == nil || l.ended() {
		return nil
	}
	n.dials++
	ghost := &Host{name: r.from, ip: r.ip, network: n, conns: map[*conn]struct{}{}}
	near, far := connect(ghost, to, n.dials, peerPort)
	select {
	case l.backlog <- far:
		return near
	default:
		delete(to.conns, far)
		return nil
	}
}

// again has old connections come again, whole or cut at any byte, several at once.
func again(ctx context.Context, n *nemesis) {
	for _, r := range n.network.recorded(n.rng, 1+n.rng.IntN(4)) {
		data, lasts, odds := r.bytes(), n.between(0, 20*time.Second), n.rng.IntN(4)
		cut, broken := len(data), odds == 0
		if odds > 1 {
			cut = n.rng.IntN(len(data) + 1)
		}
		c := n.network.redial(r)
		if c == nil {
			continue
		}
		n.log("%d of %d bytes of %s to %s come again", cut, len(data), r.from, r.to)
		_, _ = c.Write(data[:cut])
		n.zombies.Go(func() {
			_ = workload.Pause(ctx, lasts)
			c.in.set(func() { n.log("%d bytes of %s are answered with %d", cut, r.from, c.in.bytes) })
			if broken {
				c.breakBoth(syscall.ECONNRESET)
			}
			_ = c.Close()
		})
	}
	_ = workload.Pause(ctx, n.between(0, time.Second))
}
