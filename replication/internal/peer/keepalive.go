package peer

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// unackedLimit is how long what was sent may stay without the other kernel's
// acknowledgement: a host that is gone is noticed without a message of its own.
const unackedLimit = 10 * time.Second

func keepAlive(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 5})
	if raw, err := tcp.SyscallConn(); err == nil {
		// Best effort: without it the connection ends later.
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedLimit.Milliseconds()))
		})
	}
}
