package quota

import (
	"net"
	"testing"
)

type textAddress string

func (textAddress) Network() string  { return "test" }
func (a textAddress) String() string { return string(a) }

// A machine with a network of IPv6 is one caller, whichever of its addresses it comes from.
func TestByAddress(t *testing.T) {
	for _, test := range []struct{ address, want string }{
		{"192.0.2.1:1024", "192.0.2.1"},
		{"[::ffff:192.0.2.1]:1024", "192.0.2.1"},
		{"[2001:db8::1]:1024", "2001:db8::/64"},
		{"[2001:db8::ffff:ffff:ffff:ffff]:2048", "2001:db8::/64"},
		{"[2001:db8:0:1::1]:1024", "2001:db8:0:1::/64"},
		{"[fe80::1%eth0]:1024", "fe80::/64"},
		{"[::1]:1024", "::/64"},
		{"pod.example:1024", "pod.example"},
		{"bufconn", "bufconn"},
	} {
		if got := ByAddress(textAddress(test.address)); got != test.want {
			t.Errorf("%s counts as %s, want %s", test.address, got, test.want)
		}
	}
	tcp := &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 1024} // In 16 bytes.
	if got := ByAddress(tcp); got != "192.0.2.1" {
		t.Errorf("%s counts as %s", tcp, got)
	}
}

// So many addresses of one network hold no more than one does, and leave the rest to others.
func TestANetworkIsOneCaller(t *testing.T) {
	q := New("watches", 100)
	taken := 0
	for i := range 100 {
		ip := net.ParseIP("2001:db8::")
		ip[15] = byte(i)
		if q.Take(ByAddress(&net.TCPAddr{IP: ip, Port: 1000 + i}), 1) == nil {
			taken++
		}
	}
	if taken != 50 {
		t.Errorf("a network holds %d of 100", taken)
	}
}
