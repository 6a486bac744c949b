package quota

import (
	"net"
	"net/netip"
)

// networkBits of IPv6 are what one machine, or one customer, is given: whoever has one
// address has 2^64.
const networkBits = 64

// ByAddress returns the name under which connections from an address are counted: the
// address without the port, which differs for each connection; for IPv6 its /64; for IPv4
// mapped into IPv6 the IPv4 address.
func ByAddress(address net.Addr) string {
	text := address.String()
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		if host, _, err := net.SplitHostPort(text); err == nil {
			return host
		}
		return text
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	network, _ := ip.Prefix(networkBits)
	return network.String()
}
