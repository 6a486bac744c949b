package peer

import (
	"net"
	"sync"
	"time"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/handshake"
)

// Conn is a connection that the port can close.
type Conn struct {
	net.Conn          // what Security made of raw
	raw      net.Conn // never changes: the port closes it at any moment
	port     *Port
	From     replication.MemberID // of an accepted Raft connection; set before it is given out
	caller   Caller               // of an accepted one; as From
	once     sync.Once

	proved string       // the other side's pod; set before it is given out
	until  time.Time    // when what proves that ends, zero: never, or it has; under port.mu
	trust  func() error // set once, under port.mu; nil: nothing to check
	called bool         // this side has; as trust
	// What it is for, and since when, or since when calls were last to move away from it;
	// guarded by port.mu.
	kind  handshake.Kind
	since time.Time
}

// Close closes the connection. It may be called again.
func (c *Conn) Close() error {
	c.once.Do(func() {
		p := c.port
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
		if c.From == "" {
			return
		}
		if p.callers[c.From]--; p.callers[c.From] == 0 {
			delete(p.callers, c.From)
			select {
			case p.Left <- c.From:
			default:
			}
		}
	})
	return c.Conn.Close()
}
