package replication

import (
	"context"
	"errors"
	"net"
	"time"
)

// Security makes connections between pods safe, before anything else is said on them.
// Its methods may be called by any goroutine.
type Security interface {
	// Accept is the listening side's part.
	Accept(ctx context.Context, conn net.Conn) (Secured, error)
	// Call is the calling side's, with ErrPlainPeer when there is another way.
	Call(ctx context.Context, conn net.Conn, pod string) (Secured, error)
	// Changed is closed when other certificates count than before.
	Changed() <-chan struct{}
}

// Secured is a connection that was made safe.
type Secured struct {
	Conn net.Conn
	// Pod is whom the other side has proved to be; empty: nothing was proved, and it
	// need not be.
	Pod string
	// Until is when that ends by itself; zero: never.
	Until time.Time
	// Recheck says whether it still holds; nil: always.
	Recheck func() error
}

// ErrUntrusted is returned when the other side has shown no certificate that counts.
var ErrUntrusted = errors.New("no certificate to trust")

// ErrPlainPeer is returned by Security.Call when the other side does not know how to
// be safe, and may do without for now: a new connection can be used as it is.
var ErrPlainPeer = errors.New("the other side speaks no TLS")
