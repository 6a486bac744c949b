package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/pki"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const webPrincipal = "spiffe://example.org/ns/shop/sa/web"

// securedPod is a pod with TLS on real ports.
type securedPod struct {
	*Server
	dir         string
	files       *pki.Files
	client, web string // host:port
	log         *syncBuffer
	store       *testStore

	mu   sync.Mutex // guards seen
	seen caller.Caller
}

type syncBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

func newTestCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issueFor(t *testing.T, ca *pki.CA, r pki.Request) pki.Pair {
	t.Helper()
	if r.Now.IsZero() {
		r.Now, r.Life = time.Now(), time.Hour
	}
	pair, err := ca.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func bundle(cas ...*pki.CA) (all []byte) {
	for _, ca := range cas {
		all = append(all, pki.EncodeCertificates(ca.Certificate)...)
	}
	return all
}

// serve puts new certificates in place, and has them read.
func (p *securedPod) serve(t *testing.T, ca *pki.CA, trusted ...*pki.CA) {
	t.Helper()
	pair := issueFor(t, ca, pki.Request{Names: []string{"127.0.0.1"}, Server: true})
	if err := pki.WriteFiles(p.dir, pair, bundle(trusted...)); err != nil {
		t.Fatal(err)
	}
	if p.files != nil {
		if err := p.files.Reload(); err != nil {
			t.Fatal(err)
		}
	}
}

func newSecuredPod(t *testing.T, ca *pki.CA, change ...func(*Options)) *securedPod {
	t.Helper()
	p := &securedPod{dir: t.TempDir(), log: &syncBuffer{}}
	p.serve(t, ca, ca)
	var err error
	if p.files, err = pki.Open(p.dir, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	options := Options{
		Name: "kv-0", Logger: slog.New(slog.NewTextHandler(p.log, nil)), Security: Security{Certificates: p.files},
	}
	for _, c := range change {
		c(&options)
	}
	p.Server = New(options)
	p.store = newStore(t)
	log := &fakeLog{name: "kv-0", master: "kv-0", members: []string{"kv-0"}, peers: map[string]*grpc.ClientConn{}}
	log.propose = func(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen = caller.From(ctx)
		return p.store.apply(command), nil
	}
	var listeners [2]net.Listener
	for i := range listeners {
		if listeners[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	p.client, p.web = listeners[0].Addr().String(), listeners[1].Addr().String()
	p.Start(listeners[0], listeners[1])
	t.Cleanup(func() { p.Stop(within5s(t)) })
	p.UseLog(log)
	p.UseStore(p.store.Store)
	return p
}

// trusting is a client that believes some CAs, and shows what it has.
func trusting(t *testing.T, cas []*pki.CA, shown ...pki.Pair) *tls.Config {
	t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	for _, ca := range cas {
		config.RootCAs.AddCert(ca.Certificate)
	}
	for _, pair := range shown {
		c, err := tls.X509KeyPair(pair.Certificate, pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
	}
	return config
}

func (p *securedPod) dial(t *testing.T, config *tls.Config) kvv1.KVServiceClient {
	t.Helper()
	return kvv1.NewKVServiceClient(p.connect(t, config))
}

func (p *securedPod) connect(t *testing.T, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	transport := insecure.NewCredentials()
	if config != nil {
		transport = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient("passthrough:///"+p.client, grpc.WithTransportCredentials(transport), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// put returns as whom the client was seen.
func (p *securedPod) put(t *testing.T, kv kvv1.KVServiceClient) (caller.Caller, error) {
	t.Helper()
	_, err := kv.Put(within5s(t), &kvv1.PutRequest{Key: []byte("k")})
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen, err
}

// Whoever shows no certificate is served, as nobody; whoever shows one must show a
// good one, and is told what is wrong with it.
func TestTLS(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	p := newSecuredPod(t, ca)
	who, err := p.put(t, p.dial(t, trusting(t, []*pki.CA{ca})))
	if err != nil || who != (caller.Caller{}) {
		t.Errorf("without a certificate: %+v, %v", who, err)
	}
	good := pki.Request{Names: []string{webPrincipal}, Client: true}
	who, err = p.put(t, p.dial(t, trusting(t, []*pki.CA{ca}, issueFor(t, ca, good))))
	if err != nil || who.User != webPrincipal || who.By != caller.Certificate {
		t.Errorf("with a certificate: %+v, %v", who, err)
	}
	expired := good
	expired.Now, expired.Life = time.Now().Add(-time.Minute), 30*time.Second
	for name, pair := range map[string]pki.Pair{
		"of another CA": issueFor(t, other, good),
		"expired":       issueFor(t, ca, expired),
		"a server's":    issueFor(t, ca, pki.Request{Names: []string{webPrincipal}, Server: true}),
	} {
		_, err := p.put(t, p.dial(t, trusting(t, []*pki.CA{ca}, pair)))
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "bad certificate") {
			t.Errorf("a certificate %s: %v", name, err)
		}
	}
	if _, err := p.put(t, p.dial(t, nil)); status.Code(err) != codes.Unavailable {
		t.Errorf("a plain client: %v", err)
	}
	old := trusting(t, []*pki.CA{ca})
	old.MaxVersion = tls.VersionTLS12
	if _, err := p.put(t, p.dial(t, old)); status.Code(err) != codes.Unavailable {
		t.Errorf("TLS 1.2: %v", err)
	}
	if text := p.log.String(); strings.Count(text, "a client's connection was refused") != 1 {
		t.Errorf("strangers fill the log: %s", text)
	}
}

// The HTTP port speaks the same TLS; a probe needs no certificate.
func TestTLSOfHTTP(t *testing.T) {
	ca := newTestCA(t)
	p := newSecuredPod(t, ca)
	get := func(url string, config *tls.Config) (string, error) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		defer client.CloseIdleConnections()
		response, err := client.Get(url)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return string(text), err
	}
	if text, err := get("https://"+p.web+"/livez", trusting(t, []*pki.CA{ca})); err != nil || text != "ok\n" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := get("https://"+p.web+"/livez", &tls.Config{}); err == nil {
		t.Error("whoever does not know the CA believes the pod")
	}
	if text, err := get("http://"+p.web+"/livez", nil); err == nil && !strings.Contains(text, "HTTPS") {
		t.Errorf("without TLS: %q", text)
	}
}

// Certificates and CAs change under a pod that runs. A connection whose CA is taken
// out ends; the others go on.
func TestTLSRotation(t *testing.T) {
	old, young := newTestCA(t), newTestCA(t)
	both := []*pki.CA{old, young}
	p := newSecuredPod(t, old)
	shown := pki.Request{Names: []string{webPrincipal}, Client: true}
	oldClient := p.dial(t, trusting(t, both, issueFor(t, old, shown)))
	anonymous := p.dial(t, trusting(t, both))
	must := func(what string, kv kvv1.KVServiceClient) {
		t.Helper()
		if _, err := p.put(t, kv); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	must("at first", oldClient)
	must("at first", anonymous)
	p.serve(t, old, old, young)
	p.serve(t, young, old, young)
	youngClient := p.dial(t, trusting(t, []*pki.CA{young}, issueFor(t, young, shown)))
	must("while both CAs count", oldClient)
	must("while both CAs count", youngClient)
	p.serve(t, young, young)
	await(t, "the old CA's connection ends, and is refused again", func() bool {
		_, err := p.put(t, oldClient)
		return status.Code(err) == codes.Unavailable
	})
	must("after the old CA's end", youngClient)
	must("after the old CA's end", anonymous)
	p.transport.mu.Lock()
	defer p.transport.mu.Unlock()
	if n := len(p.transport.connections); n != 1 {
		t.Errorf("%d connections with certificates are kept", n)
	}
}

// A certificate that expires while its connection is open proves nothing from then on;
// a client that has got a new one goes on with it, and was told nothing worse than to
// repeat its call.
func TestTLSCertificateExpires(t *testing.T) {
	ca := newTestCA(t)
	p := newSecuredPod(t, ca)
	brief := pki.Request{Names: []string{webPrincipal}, Client: true, Now: time.Now(), Life: 2 * time.Second}
	var shown atomic.Pointer[tls.Certificate]
	use := func(pair pki.Pair) {
		c, err := tls.X509KeyPair(pair.Certificate, pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		shown.Store(&c)
	}
	use(issueFor(t, ca, brief))
	config := trusting(t, []*pki.CA{ca})
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return shown.Load(), nil }
	kv := p.dial(t, config)
	if who, err := p.put(t, kv); err != nil || who.User != webPrincipal {
		t.Fatalf("%+v, %v", who, err)
	}
	await(t, "the certificate expires", func() bool {
		_, err := p.put(t, kv)
		if err != nil && status.Code(err) != codes.Unavailable {
			t.Errorf("while it expires: %v", err)
		}
		return err != nil && strings.Contains(err.Error(), "bad certificate")
	})
	use(issueFor(t, ca, pki.Request{Names: []string{webPrincipal}, Client: true}))
	await(t, "the new certificate is used", func() bool {
		_, err := p.put(t, kv)
		if err != nil && status.Code(err) != codes.Unavailable {
			t.Errorf("with a new one: %v", err)
		}
		return err == nil
	})
}

// Handshakes that never end leave room for others, and end.
func TestTLSHandshakesAreBounded(t *testing.T) {
	ca := newTestCA(t)
	p := newSecuredPod(t, ca)
	for range maxHandshakes {
		conn, err := net.Dial("tcp", p.client)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	used := func() int64 { n, _ := p.core.bounds.handshakes.Used(); return n }
	await(t, "as many handshakes as one address may have", func() bool { return used() >= maxHandshakes/2 })
	if used() > maxHandshakes/2 {
		t.Errorf("%d handshakes of one address", used())
	}
	if err := p.core.bounds.handshakes.Take("192.0.2.1", 1); err != nil {
		t.Errorf("nothing is left for another address: %v", err)
	}
	p.core.bounds.handshakes.Give("192.0.2.1", 1)
	conn, err := net.Dial("tcp", p.client)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("one more of the same address: %v", err)
	}
}
