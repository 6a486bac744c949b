package server

import (
	"net"
	"sync"

	"github.com/batondb/baton/internal/quota"
)

// boundedListener closes connections at once that are more than an address may have.
type boundedListener struct {
	net.Listener
	connections *quota.Quota
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who := host(conn.RemoteAddr())
		if l.connections.Take(who, 1) == nil {
			give := sync.OnceFunc(func() { l.connections.Give(who, 1) })
			return &boundedConn{conn, give}, nil
		}
		_ = conn.Close() // It was not used.
	}
}

type boundedConn struct {
	net.Conn
	give func()
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	c.give()
	return c.Conn.Close()
}
