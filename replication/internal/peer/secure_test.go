package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/volume"
)

// filesSecurity is TLS by certificates, as kvd has it.
type filesSecurity struct{ files *pki.Files }

func (s filesSecurity) Accept(ctx context.Context, conn net.Conn) (replication.Secured, error) {
	return s.handshake(ctx, tls.Server(conn, s.files.Server(true)), false)
}

func (s filesSecurity) Call(ctx context.Context, conn net.Conn, _ string) (replication.Secured, error) {
	return s.handshake(ctx, tls.Client(conn, s.files.Client()), true)
}

func (s filesSecurity) Changed() <-chan struct{} { return s.files.Changed() }

func (s filesSecurity) handshake(ctx context.Context, conn *tls.Conn, server bool) (replication.Secured, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return replication.Secured{}, err
	}
	chain := conn.ConnectionState().PeerCertificates
	pod, until, err := s.files.Pod(chain, server)
	if err != nil {
		return replication.Secured{}, fmt.Errorf("%w: %w", replication.ErrUntrusted, err)
	}
	return replication.Secured{Conn: conn, Pod: pod, Until: until, Recheck: func() error { _, _, err := s.files.Pod(chain, server); return err }}, nil
}

// pods are ports on loopback, with certificates in directories.
type pods struct {
	t         *testing.T
	ca, other *pki.CA
	dirs      map[string]string
	addresses map[string]string
	log       lockedLog
	life      time.Duration // of the certificates to come
	network   network

	mu       sync.Mutex // guards refusals
	refusals map[string]int
}

// network is what ports are on.
type network interface {
	listen() (net.Listener, error)
	dial(ctx context.Context, address string) (net.Conn, error)
}

type loopback struct{}

func (loopback) listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

func (loopback) dial(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

type lockedLog struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// lines is how many warnings have a text in them.
func (l *lockedLog) lines(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, "level=WARN") && strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func newPods(t *testing.T) *pods {
	p := &pods{t: t, dirs: map[string]string{}, addresses: map[string]string{}, refusals: map[string]int{}, life: time.Hour, network: loopback{}}
	for _, ca := range []**pki.CA{&p.ca, &p.other} {
		var err error
		if *ca, err = pki.NewCA("ca", time.Now(), 100*time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// certify gives a directory the certificate of a pod, and trusts CAs in it.
func (p *pods) certify(dir string, from *pki.CA, pod string, trusted ...*pki.CA) {
	p.t.Helper()
	pair, err := from.Issue(pki.Request{Names: []string{pod}, Now: time.Now(), Life: p.life, Server: true, Client: true})
	if err != nil {
		p.t.Fatal(err)
	}
	var bundle []byte
	for _, ca := range trusted {
		bundle = append(bundle, pki.EncodeCertificates(ca.Certificate)...)
	}
	if err := pki.WriteFiles(dir, pair, bundle); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pods) files(certificateOf string, from *pki.CA) *pki.Files {
	p.t.Helper()
	dir := p.t.TempDir()
	p.certify(dir, from, certificateOf, p.ca, p.other)
	files, err := pki.Open(dir, pki.Options{Pod: certificateOf})
	if err != nil {
		p.t.Fatal(err)
	}
	p.dirs[certificateOf] = dir
	return files
}

// open opens the port of a pod with certificates, which may be another's.
func (p *pods) open(pod string, files *pki.Files) *Port {
	p.t.Helper()
	listener, err := p.network.listen()
	if err != nil {
		p.t.Fatal(err)
	}
	p.addresses[pod] = listener.Addr().String()
	o := &replication.Options{
		Name: pod, Listener: listener, Logger: slog.New(slog.NewTextHandler(&p.log, nil)),
		Resolver: func(pod string) (string, error) { return p.addresses[pod], nil },
		Dial:     p.network.dial, Dir: p.t.TempDir(), Receive: nil,
	}
	if files != nil {
		o.Security = filesSecurity{files}
	}
	id := volume.Identity{MemberID: pod + "/" + uuid.NewString(), ClusterID: "c"}
	port := NewPort(o, func() volume.Identity { return id }, func(side string, r handshake.Reason) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.refusals[pod+" "+side+" "+r.String()]++
	})
	p.t.Cleanup(func() { port.Close(); port.Wait() })
	return port
}

func (p *pods) refused(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refusals[what]
}

func (p *pods) eventually(what string, check func() bool) {
	p.t.Helper()
	for begun := time.Now(); !check(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > 10*time.Second {
			p.t.Fatalf("not within 10 s: %s", what)
		}
	}
}

var kinds = []handshake.Kind{handshake.Raft, handshake.Calls, handshake.Append}

// Whoever has the certificate of one pod is no other, on either side, for any kind
// of connection.
func TestCertificateOfAnotherPod(t *testing.T) {
	p := newPods(t)
	called := p.open("kv-0", p.files("kv-0", p.ca))
	impostor := p.open("kv-2", p.files("kv-1", p.ca)) // kv-1 claims to be kv-2
	honest := p.open("kv-1", p.files("kv-1", p.ca))
	for i, kind := range kinds {
		called.Listen(kind)
		impostor.Listen(kind)
		var refused *handshake.Refused
		if _, err := impostor.Dial(t.Context(), kind, "kv-0", replication.MemberID(called.identity().MemberID)); !errors.As(err, &refused) || refused.Reason != handshake.WrongCertificate {
			t.Errorf("kind %d: kv-1's certificate as kv-2's: %v", kind, err)
		}
		if _, err := honest.Dial(t.Context(), kind, "kv-2", replication.MemberID(impostor.identity().MemberID)); !errors.As(err, &refused) || refused.Reason != handshake.WrongCertificate {
			t.Errorf("kind %d: kv-2 was called, and kv-1 answered: %v", kind, err)
		}
		if n := p.refused("kv-0 in wrong_certificate"); n != i+1 {
			t.Errorf("kind %d: counted %d", kind, n)
		}
	}
	// A line for each side, and no more for the second and third of a kind.
	if n := p.log.lines("wrong_certificate"); n != 3 {
		t.Errorf("%d lines in the log:\n%s", n, p.log.text.String())
	}
}

// What is no TLS 1.3 with a certificate that counts is refused before the handshake,
// for any kind, and leaves nothing behind.
func TestStrangers(t *testing.T) {
	p := newPods(t)
	server := p.files("kv-0", p.ca)
	called := p.open("kv-0", server)
	for _, kind := range kinds {
		called.Listen(kind)
	}
	p.certify(p.dirs["kv-0"], p.ca, "kv-0", p.ca)
	if err := server.Reload(); err != nil {
		t.Fatal(err)
	}
	good := p.files("kv-1", p.ca)
	with := func(change func(*tls.Config)) *tls.Config { c := good.Client(); change(c); return c }
	expired, err := p.ca.Issue(pki.Request{Names: []string{"kv-1"}, Now: time.Now().Add(-20 * time.Minute), Life: 10 * time.Minute, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	old, err := tls.X509KeyPair(expired.Certificate, expired.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, reason string
		config       *tls.Config // nil: plain bytes
	}{
		{"plain bytes", "not_secured", nil},
		{"TLS 1.2", "not_secured", with(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 })},
		{"no certificate", "not_secured", with(func(c *tls.Config) { c.GetClientCertificate = nil })},
		{"another CA", "untrusted", p.files("kv-1", p.other).Client()},
		{"expired", "untrusted", with(func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &old, nil }
		})},
		{"a client, not a pod", "untrusted", func() *tls.Config {
			dir := t.TempDir()
			p.certify(dir, p.ca, "alice", p.ca)
			f, err := pki.Open(dir, pki.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return f.Client()
		}()},
	} {
		before := p.refused("kv-0 in " + tc.reason)
		for i, kind := range kinds {
			raw, err := net.Dial("tcp", p.addresses["kv-0"])
			if err != nil {
				t.Fatal(err)
			}
			conn := raw
			if tc.config != nil {
				conn = tls.Client(raw, tc.config)
			}
			raw.SetDeadline(time.Now().Add(10 * time.Second))
			member := "kv-1/" + uuid.NewString()
			handshake.WriteHello(conn, handshake.Hello{
				Kind: kind, Cluster: "c", Member: member, Pod: "kv-1", TargetPod: "kv-0", TargetMember: called.identity().MemberID,
			})
			if w, err := handshake.ReadWelcome(conn); err == nil || w.Cluster != "" || w.Member != "" {
				t.Errorf("%s, kind %d: %+v, %v", tc.name, kind, w, err)
			}
			raw.Close()
			p.eventually(tc.name+" is counted", func() bool { return p.refused("kv-0 in "+tc.reason) == before+i+1 })
		}
	}
	if n := p.log.lines(""); n != 2 {
		t.Errorf("%d lines in the log, want one for each reason:\n%s", n, p.log.text.String())
	}
	p.eventually("nothing is left", func() bool {
		called.mu.Lock()
		defer called.mu.Unlock()
		return len(called.conns) == 0 && len(called.callers) == 0
	})
}

// Connections go on through a change of certificates that trusts theirs, and end with
// one that does not, on both sides.
func TestTrustThatEnds(t *testing.T) {
	p := newPods(t)
	files := map[string]*pki.Files{"kv-0": p.files("kv-0", p.ca), "kv-1": p.files("kv-1", p.ca)}
	called, calling := p.open("kv-0", files["kv-0"]), p.open("kv-1", files["kv-1"])
	answers := called.Listen(handshake.Calls)
	accepted := make(chan *Conn, 4)
	go func() {
		for conn, err := answers.Next(); err == nil; conn, err = answers.Next() {
			accepted <- conn
		}
	}()
	dial := func() (net.Conn, *Conn) {
		t.Helper()
		conn, err := calling.Dial(t.Context(), handshake.Calls, "kv-0", "")
		if err != nil {
			t.Fatal(err)
		}
		return conn, <-accepted
	}
	conn, end := dial()
	if end.caller != (Caller{Member: replication.MemberID(calling.identity().MemberID), Proven: true, SameCluster: true}) {
		t.Errorf("the caller is %+v", end.caller)
	}
	change := func(pod string, from *pki.CA, trusted ...*pki.CA) {
		t.Helper()
		p.certify(p.dirs[pod], from, pod, trusted...)
		if err := files[pod].Reload(); err != nil {
			t.Fatal(err)
		}
	}
	change("kv-0", p.other, p.ca, p.other)
	change("kv-1", p.other, p.ca, p.other)
	second, _ := dial()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Errorf("a connection of the old CA, which is still trusted: %v", err)
	}
	if n, err := end.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Errorf("a connection of the old CA, which is still trusted: %v", err)
	}
	change("kv-0", p.other, p.other)
	if _, err := end.Read(make([]byte, 1)); err == nil {
		t.Error("a connection that is no longer trusted is read from")
	}
	change("kv-1", p.other, p.other)
	if _, err := second.Write([]byte("x")); err != nil {
		t.Errorf("a connection of the new CA: %v", err)
	}
	if p.refused("kv-0 in untrusted") == 0 {
		t.Error("the end of trust is not counted")
	}
}

// A handshake that never comes does not outlast the greeting.
func TestSilentHandshake(t *testing.T) {
	p := newPods(t)
	called := p.open("kv-0", p.files("kv-0", p.ca))
	raw, err := net.Dial("tcp", p.addresses["kv-0"])
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.Write([]byte{0x16, 3, 1, 2, 0}) // a ClientHello of 512 bytes that does not follow
	raw.SetDeadline(time.Now().Add(3 * handshakeTimeout))
	for err == nil {
		_, err = raw.Read(make([]byte, 64))
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Error("the connection stays")
	}
	p.eventually("its place is free", func() bool { return called.greetings.count() == 0 })
}

// Handshakes of TLS that do not go on lock no pod out.
func TestHalfOpenHandshakes(t *testing.T) {
	p := newPods(t)
	called, calling := p.open("kv-0", p.files("kv-0", p.ca)), p.open("kv-1", p.files("kv-1", p.ca))
	for _, kind := range kinds {
		called.Listen(kind)
	}
	for range 256 {
		raw, err := net.Dial("tcp", p.addresses["kv-0"])
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		raw.Write([]byte{0x16, 3, 1, 2, 0})
	}
	for _, kind := range kinds {
		conn, err := calling.Dial(t.Context(), kind, "kv-0", replication.MemberID(called.identity().MemberID))
		if err != nil {
			t.Fatalf("kind %d: %v", kind, err)
		}
		conn.Close()
	}
}
