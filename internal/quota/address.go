package quota

import (
	"net"
	"net/netip"
)

// networkBits of IPv6 are what one machine, or one customer, is given: whoever has one
// address has 2^64.
const networkBits = 64

// ByAddress is whom to count for who comes from an address: the address, without the
// port, which is another one for each connection; of IPv6 its /64; of IPv4 in the form of
// IPv6 the one of IPv4.
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
