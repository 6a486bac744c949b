package main

import (
	"context"
	"net"
	"strconv"
	"sync"
	"time"
)

const (
	// lookupTimeout: DNS that is slower counts as absent for now.
	lookupTimeout = time.Second
	// lookupReuse lets dials at one moment share a question to the DNS server; a pod
	// that moves is found this much later.
	lookupReuse = 500 * time.Millisecond
)

// resolver says where a pod's peer port is. Its answer is a name, so that the
// address of a pod that moves is never remembered; it looks the name up to
// tell whether there is one.
type resolver struct {
	// address says where a pod should be, as host:port.
	address func(pod string) string
	lookup  func(ctx context.Context, host string) ([]string, error)

	mu     sync.Mutex // guards recent
	recent map[string]looked
}

type looked struct {
	at  time.Time
	err error
}

func newResolver(c *config) *resolver {
	port := 0
	if c.peers == nil {
		port, _ = portOf(c.listenPeer) // complete has checked it
	}
	return &resolver{
		lookup: c.world.complete().lookup,
		recent: map[string]looked{},
		address: func(pod string) string {
			if address, ok := c.addresses[pod]; ok {
				return address
			}
			return net.JoinHostPort(pod+"."+c.service, strconv.Itoa(port))
		},
	}
}

// resolve fails with a *net.DNSError when the name does not exist.
func (r *resolver) resolve(pod string) (string, error) {
	address := r.address(pod)
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if net.ParseIP(host) != nil {
		return address, nil
	}
	r.mu.Lock()
	last, ok := r.recent[pod]
	r.mu.Unlock()
	if !ok || time.Since(last.at) > lookupReuse {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		defer cancel()
		_, err = r.lookup(ctx, host)
		last = looked{at: time.Now(), err: err}
		r.mu.Lock()
		r.recent[pod] = last
		r.mu.Unlock()
	}
	return address, last.err
}
