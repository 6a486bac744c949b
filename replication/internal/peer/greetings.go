package peer

import (
	"net"
	"slices"
	"sync"

	"github.com/batondb/baton/internal/quota"
)

const (
	// maxGreetings bounds the connections that have not said who they are, and
	// maxAddressGreetings those from one address.
	//
	// Pods on one machine share an address, and so may a pod and a stranger: a share
	// that is used up must not lock anybody out. So the newest connection is always
	// taken, and the oldest that still greets makes room: of its address, or, when
	// there are too many in all, of any. A pod has greeted within some milliseconds;
	// whoever wants to push it out in that time has to open as many connections as the
	// share. One that only keeps its own half-open pushes out those.
	maxGreetings        = 256
	maxAddressGreetings = 64
)

// greetings are the connections that have not said who they are.
type greetings struct {
	mu   sync.Mutex // guards open
	open []greeting // The oldest first.
}

type greeting struct {
	conn    net.Conn
	address string
}

// enter takes a connection in, and closes the one that makes room for it. The
// connection has greeted, or failed to, when done is called.
func (g *greetings) enter(conn net.Conn) (done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := greeting{conn, quota.ByAddress(conn.RemoteAddr())}
	g.open = append(g.open, one)
	same := 0
	for _, other := range g.open {
		if other.address == one.address {
			same++
		}
	}
	if same > maxAddressGreetings {
		g.evict(slices.IndexFunc(g.open, func(other greeting) bool { return other.address == one.address }))
	} else if len(g.open) > maxGreetings {
		g.evict(0)
	}
	return func() { g.leave(conn) }
}

func (g *greetings) evict(i int) {
	g.open[i].conn.Close()
	g.open = slices.Delete(g.open, i, i+1)
}

func (g *greetings) leave(conn net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = slices.DeleteFunc(g.open, func(other greeting) bool { return other.conn == conn })
}
