//go:build linux

package scenarios

import (
	"net"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// mood is how the nameServer answers.
type mood int

const (
	// healthy: what it knows, and that there is nothing else.
	healthy mood = iota
	// failing: SERVFAIL.
	failing
	// silent: nothing at all.
	silent
	// slow: the right answer, after slowness.
	slow
)

// slowness is more than kvd waits for a look-up.
const slowness = 1500 * time.Millisecond

// nameServer is DNS.
type nameServer struct {
	mu      sync.Mutex        // guards the fields below
	moods   map[string]mood   // of each Service; none: healthy
	records map[string]string // a name, without the last dot, and its address
}

func newNameServer(address string) (*nameServer, error) {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil, err
	}
	s := &nameServer{moods: map[string]mood{}, records: map[string]string{}}
	go (&dns.Server{PacketConn: conn, Handler: s}).ActivateAndServe() //nolint:errcheck // It ends with the process.
	return s, nil
}

// ServeDNS implements dns.Handler.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	s.mu.Lock()
	mood := s.moodLocked(question.Question[0].Name)
	answer := s.answerLocked(question)
	s.mu.Unlock()
	switch mood {
	case silent:
		return
	case failing:
		answer.Answer, answer.Rcode = nil, dns.RcodeServerFailure
	case slow:
		time.Sleep(slowness)
	case healthy:
	}
	w.WriteMsg(answer) //nolint:errcheck // Who asks asks again.
}

// moodLocked is how a question for a name in one of the Services is answered.
func (s *nameServer) moodLocked(name string) mood {
	for service, m := range s.moods {
		if strings.Contains("."+name, "."+service+".") {
			return m
		}
	}
	return healthy
}

func (s *nameServer) answerLocked(question *dns.Msg) *dns.Msg {
	answer := new(dns.Msg)
	answer.SetReply(question)
	asked := question.Question[0]
	address, ok := s.records[asked.Name[:len(asked.Name)-1]]
	switch {
	case !ok:
		answer.Rcode = dns.RcodeNameError
	case asked.Qtype == dns.TypeA:
		answer.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: asked.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5},
			A:   net.ParseIP(address),
		}}
	}
	return answer
}

// set makes a name lead to an address; none removes it.
func (s *nameServer) set(name, address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if address == "" {
		delete(s.records, name)
	} else {
		s.records[name] = address
	}
}

// become changes how the names of a Service are answered.
func (s *nameServer) become(service string, m mood) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moods[service] = m
}
