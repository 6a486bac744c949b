package peer

import (
	"net"
	"sync"
)

// recentAddresses remembers from which address a pod of this cluster last came. A pod
// that restarts in Kubernetes has a new address, and DNS gives the old one for
// some seconds more; the pod itself asks the others at once, and so they find it
// at once. It is a hint, never on disk: the handshake refuses a wrong address,
// and then DNS has the word.
type recentAddresses struct {
	mu  sync.Mutex // guards ips
	ips map[string]string
}

func (o *recentAddresses) note(pod string, from net.Addr) {
	tcp, ok := from.(*net.TCPAddr)
	if !ok || tcp.IP.IsLoopback() {
		return // Pods on one machine share its address.
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ips[pod] = tcp.IP.String()
}

// instead is the address to try before addr, the one that the name gives; empty:
// none. An addr that is no name is not to be doubted.
func (o *recentAddresses) instead(pod, addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || net.ParseIP(host) != nil {
		return ""
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ips[pod] == "" {
		return ""
	}
	return net.JoinHostPort(o.ips[pod], port)
}

func (o *recentAddresses) forget(pod, addr string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if host, _, err := net.SplitHostPort(addr); err == nil && o.ips[pod] == host {
		delete(o.ips, pod)
	}
}
