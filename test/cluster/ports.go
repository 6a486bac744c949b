package cluster

import (
	"fmt"
	"net"
	"sync"
)

// The ports of all pods lie below those that outgoing connections get (from
// 32768 on): one of these could take the port of a pod that is down, even
// connect to itself.
const (
	firstPort = 25600
	lastPort  = 29999
	// portBlock is how many ports a program claims at a time.
	portBlock = 40
)

// ports gives out the addresses of a block that no other program has: the port
// of a pod that is down looks free, and a pod of another program must not take it.
var ports struct {
	mu     sync.Mutex // guards the fields below
	next   int
	end    int            // of the block
	claims []net.Listener // on each block's first port, as long as the program runs
}

// Address is a free one on loopback, given out once.
func Address() (string, error) {
	listener, err := Listen()
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// Listen listens on such an address.
func Listen() (net.Listener, error) {
	ports.mu.Lock()
	defer ports.mu.Unlock()
	for {
		if ports.next == ports.end {
			if err := claim(); err != nil {
				return nil, err
			}
		}
		listener, err := listenOn(ports.next)
		ports.next++
		if err == nil {
			return listener, nil
		}
	}
}

// Block claims a block of its own, for a program that is told a first port and
// takes more in a row: up to portBlock-1 from the one that is returned on.
func Block() (first int, err error) {
	ports.mu.Lock()
	defer ports.mu.Unlock()
	next, end := ports.next, ports.end
	defer func() { ports.next, ports.end = next, end }()
	err = claim()
	return ports.next, err
}

// claim takes the next block; ports.mu is held.
func claim() error {
	for first := firstPort; first+portBlock <= lastPort; first += portBlock {
		listener, err := listenOn(first)
		if err == nil {
			ports.claims = append(ports.claims, listener)
			ports.next, ports.end = first+1, first+portBlock
			return nil
		}
	}
	return fmt.Errorf("every block of ports from %d to %d is taken", firstPort, lastPort)
}

func listenOn(port int) (net.Listener, error) {
	return net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
}
