package simulate

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/batondb/baton/test/workload"
)

// Service is the governing Service of the pods.
const Service = "kv"

// Names is the DNS: a record for each pod that exists, which may come late. All
// methods may be called by any goroutine.
type Names struct {
	mu      sync.Mutex // Guards the fields below.
	records map[string]record
	late    time.Duration // How long a change takes to be seen.
	down    bool          // Nothing is answered.
	failing bool          // Everything is answered with SERVFAIL.
}

// record is a pod's address, and the one that is still given until a moment.
type record struct {
	ip, before string
	until      time.Time
}

func newNames() *Names { return &Names{records: map[string]record{}} }

func (n *Names) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

// heal makes all names answer as they are, those that were late, too.
func (n *Names) heal() {
	n.set(func() {
		n.late, n.down, n.failing = 0, false, false
		for pod, r := range n.records {
			n.records[pod] = record{ip: r.ip}
		}
	})
}

// point makes a name lead to an address; empty: it does not exist any more.
func (n *Names) point(pod, ip string) {
	n.set(func() {
		n.records[pod] = record{ip: ip, before: n.records[pod].ip, until: time.Now().Add(n.late)}
	})
}

const lookupLatency = 300 * time.Microsecond

// lookup is a resolver's question, by one pod, whose own name is in its
// /etc/hosts.
func (n *Names) lookup(ctx context.Context, own, ownIP, host string) ([]string, error) {
	if net.ParseIP(host) != nil {
		return []string{host}, nil
	}
	pod, _, _ := strings.Cut(host, ".")
	if pod == own {
		return []string{ownIP}, nil
	}
	if err := workload.Pause(ctx, lookupLatency); err != nil {
		return nil, &net.DNSError{Err: err.Error(), Name: host, IsTimeout: true, IsTemporary: true}
	}
	n.mu.Lock()
	down, failing, r := n.down, n.failing, n.records[pod]
	n.mu.Unlock()
	if down {
		<-ctx.Done()
		return nil, &net.DNSError{Err: context.Cause(ctx).Error(), Name: host, IsTimeout: true, IsTemporary: true}
	}
	ip := r.ip
	if time.Now().Before(r.until) {
		ip = r.before
	}
	switch {
	case failing:
		return nil, &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
	case ip == "":
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []string{ip}, nil
}
