package pki

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const day = 24 * time.Hour

var epoch = time.Now()

func newCA(t testing.TB, name string) *CA {
	t.Helper()
	ca, err := NewCA(name, epoch, 3650*day)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t testing.TB, ca *CA, names ...string) Pair {
	t.Helper()
	p, err := ca.Issue(Request{CommonName: names[0], Names: names, Now: epoch, Life: 365 * day, Server: true, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func leaf(t testing.TB, names ...string) *x509.Certificate {
	t.Helper()
	all, err := ParseCertificates(issue(t, newCA(t, "ca"), names...).Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

func write(t testing.TB, dir string, p Pair, cas ...*CA) {
	t.Helper()
	var bundle []byte
	for _, ca := range cas {
		bundle = append(bundle, EncodeCertificates(ca.Certificate)...)
	}
	if err := WriteFiles(dir, p, bundle); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, pod string, p Pair, cas ...*CA) *Files {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, p, cas...)
	f, err := Open(dir, Options{Pod: pod})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCAIsReadAgain(t *testing.T) {
	pair, err := newCA(t, "one").Pair()
	if err != nil {
		t.Fatal(err)
	}
	ca, err := ParseCA(pair)
	if err != nil {
		t.Fatal(err)
	}
	open(t, "kv-0", issue(t, ca, "kv-0"), ca)
	other, _ := newCA(t, "two").Pair()
	if _, err := ParseCA(Pair{Certificate: pair.Certificate, Key: other.Key}); !errors.Is(err, ErrMalformed) {
		t.Errorf("another CA's key: %v", err)
	}
	if _, err := ParseCA(issue(t, ca, "kv-0")); !errors.Is(err, ErrMalformed) {
		t.Errorf("a pod's pair as a CA: %v", err)
	}
	if _, err := ca.Issue(Request{Now: epoch.Add(4000 * day), Life: day}); err == nil {
		t.Error("a CA that has ended issues")
	}
}

// A certificate proves a pod only to the pods of the same place.
func TestScope(t *testing.T) {
	for _, tc := range []struct {
		own, other []string
		want       string // the pod; otherwise a part of the error
	}{
		{[]string{"kv-0"}, []string{"kv-1"}, "kv-1"},
		{PodNames("kv-0", "kv", "shop"), PodNames("kv-1", "kv", "shop"), "kv-1"},
		{PodNames("kv-0", "kv", "shop"), []string{"kv-10.kv.shop.svc.cluster.local"}, "kv-10"},
		{PodNames("kv-0", "kv", "shop"), []string{"kv-1.kv.shop.svc.example.com"}, "for no pod"},
		{PodNames("kv-0", "kv", "shop"), []string{"kv-1.kv.shop.svc.cluster.local.example.com"}, "for no pod"},
		{PodNames("kv-0", "kv", "shop"), []string{"kv-1.kv.shop.svc.example.com", "kv-1.kv.shop.svc"}, "kv-1"},
		{[]string{"kv-0.kv.shop.svc.east.example"}, []string{"kv-1.kv.shop.svc.east.example"}, "kv-1"},
		{[]string{"kv-0.kv.shop.svc.east.example"}, []string{"kv-1.kv.shop.svc"}, "kv-1"},
		{[]string{"kv-0.kv.shop.svc.east.example"}, []string{"kv-1.kv.shop.svc.west.example"}, "for no pod"},
		{[]string{"kv-0.kv.shop.svc.east.example"}, []string{"kv-1.kv.shop.svc.cluster.local"}, "for no pod"},
		{append(PodNames("kv-0", "kv", "shop"), "kv-0.kv.shop.svc.east.example"), []string{"kv-1.kv.shop.svc.east.example"}, "kv-1"},
		{PodNames("kv-0", "kv", "shop"), []string{"KV-1.kv.shop.svc."}, "kv-1"},
		{PodNames("kv-0", "kv", "shop"), []string{"kv-1.kv.shop.svc", "localhost", "ip-10-0-0-5.internal"}, "kv-1"},
		{PodNames("kv-0", "kv", "shop"), PodNames("kv-1", "kv", "bank"), "for no pod of kv-N.kv.shop.svc"},
		{PodNames("kv-0", "kv", "shop"), PodNames("kv-1", "other", "shop"), "for no pod"},
		{PodNames("kv-0", "kv", "shop"), PodNames("web-1", "kv", "shop"), "for no pod"},
		{PodNames("kv-0", "kv", "shop"), []string{"kv-1", "kv-1.kv"}, "for no pod"},
		{PodNames("kv-0", "kv", "shop"), []string{"*.kv.shop.svc"}, "for no pod"},
		{PodNames("kv-0", "kv", "shop"), []string{"kv-01.kv.shop.svc"}, "for no pod"},
		{PodNames("kv-0", "kv", "shop"), []string{"alice"}, "for no pod"},
		{PodNames("kv-0", "kv", "shop"), []string{"kv-1.kv.shop.svc", "kv-2.kv.shop.svc"}, "each pod needs its own"},
		{[]string{"spiffe://c/ns/shop/pod/kv-0"}, []string{"spiffe://c/ns/shop/pod/kv-1"}, "kv-1"},
		{[]string{"spiffe://c/ns/shop/pod/kv-0"}, []string{"spiffe://c/ns/bank/pod/kv-1"}, "for no pod of spiffe://c/ns/shop/pod/kv-N"},
		{[]string{"spiffe://c/ns/shop/pod/kv-0"}, []string{"https://c/ns/shop/pod/kv-1"}, "for no pod"},
		{[]string{"spiffe://c/p/kv-0", "kv-0.kv.shop.svc"}, []string{"spiffe://c/p/kv-1"}, "kv-1"},
		{[]string{"spiffe://c/p/kv-0", "kv-0.kv.shop.svc"}, []string{"spiffe://c/p/kv-1", "kv-2.kv.shop.svc"}, "each pod needs its own"},
		{[]string{"kv-1"}, []string{"kv-0"}, "not for kv-0"},
	} {
		scope, err := ScopeOf(leaf(t, tc.own...), "kv-0")
		pod := ""
		if err == nil {
			pod, err = scope.Pod(leaf(t, tc.other...))
		}
		if err != nil {
			pod = err.Error()
		}
		if pod != tc.want && (err == nil || !strings.Contains(pod, tc.want)) {
			t.Errorf("%v sees %v as %q, want %q", tc.own, tc.other, pod, tc.want)
		}
	}
}

// Whatever is half written, or does not fit together, changes nothing.
func TestFilesChange(t *testing.T) {
	one, two := newCA(t, "one"), newCA(t, "two")
	first, second := issue(t, one, "kv-0"), issue(t, two, "kv-0")
	dir := t.TempDir()
	write(t, dir, first, one)
	var log bytes.Buffer
	f, err := Open(dir, Options{Pod: "kv-0", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	used := f.Material()
	half := issue(t, one, "kv-0")
	for name, p := range map[string]Pair{
		"a key that is another's": {Certificate: half.Certificate, Key: first.Key},
		"a certificate cut off":   {Certificate: first.Certificate[:len(first.Certificate)/2], Key: first.Key},
		"an empty key":            {Certificate: first.Certificate},
		"another CA's":            second,
		"another pod's":           issue(t, one, "kv-1"),
	} {
		write(t, dir, p, one)
		log.Reset()
		before := f.Status().Failures
		for range 3 {
			if err := f.Reload(); err == nil {
				t.Errorf("%s is used", name)
			}
		}
		if f.Material() != used || f.Status().Failures != before+1 || f.Status().Problem == nil {
			t.Errorf("%s: %+v", name, f.Status())
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%s: %d lines in the log: %s", name, n, log.String())
		}
	}
	if err := os.WriteFile(filepath.Join(dir, FileCA), append(EncodeCertificates(one.Certificate), "-----BEGIN CERTIFICATE-----\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Reload(); !errors.Is(err, ErrMalformed) {
		t.Errorf("a bundle that is cut off: %v", err)
	}
	changed := f.Changed()
	write(t, dir, second, one, two)
	if err := f.Reload(); err != nil || f.Material() == used || len(f.Material().CAs) != 2 || f.Status().CAs != 2 || f.Status().Problem != nil {
		t.Errorf("a sound change: %v, %+v", err, f.Status())
	}
	select {
	case <-changed:
	default:
		t.Error("nobody is told of the change")
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := f.Reload(); err == nil || f.Material() == nil {
		t.Errorf("files that are gone: %v", err)
	}
}

// Kubernetes changes a link to a directory, and the files are links through it.
func TestFilesOfKubernetes(t *testing.T) {
	ca := newCA(t, "ca")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "..1"), issue(t, ca, "kv-0"), ca)
	write(t, filepath.Join(dir, "..2"), issue(t, ca, "kv-0"), ca)
	link := func(to, name string) {
		if err := errors.Join(os.Symlink(to, filepath.Join(dir, "new")), os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	for _, name := range []string{FileCertificate, FileKey, FileCA} {
		link("..data/"+name, name)
	}
	synctest.Test(t, func(t *testing.T) {
		f, err := Open(dir, Options{Pod: "kv-0", Now: func() time.Time { return epoch }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); f.Run(ctx) }()
		used, changed := f.Material(), f.Changed()
		link("..2", "..data")
		<-changed
		if f.Material() == used {
			t.Error("the old certificate counts")
		}
		cancel()
		<-ended
	})
}

func TestWarnings(t *testing.T) {
	ca := newCA(t, "ca")
	dir := t.TempDir()
	write(t, dir, issue(t, ca, "kv-0"), ca)
	now := epoch
	var log bytes.Buffer
	f, err := Open(dir, Options{Pod: "kv-0", Logger: slog.New(slog.NewTextHandler(&log, nil)), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		left time.Duration
		want string
	}{
		{31 * day, ""},
		{30 * day, "ends soon"}, {29 * day, ""}, {8 * day, ""},
		{7 * day, "ends soon"}, {time.Hour, ""},
		{-time.Second, "has ended"}, {-day, ""},
	} {
		now = epoch.Add(365*day - tc.left)
		log.Reset()
		f.warn()
		if text := log.String(); (text == "") != (tc.want == "") || !strings.Contains(text, tc.want) {
			t.Errorf("%v before the end: %q, want %q", tc.left, text, tc.want)
		}
	}
	for _, tc := range []struct {
		life, left time.Duration
		want       int
	}{{time.Hour, 20 * time.Minute, 0}, {time.Hour, 15 * time.Minute, 1}, {time.Hour, 5 * time.Minute, 2}, {90 * day, 23 * day, 0}} {
		if got := stageOf(epoch.Add(tc.life-tc.left), epoch, epoch.Add(tc.life)); got != tc.want {
			t.Errorf("%v of %v left: %d, want %d", tc.left, tc.life, got, tc.want)
		}
	}
}

// connect is one handshake. The error is the listening side's, unless only the
// calling one has any.
func connect(t *testing.T, server, client *tls.Config) (*tls.Conn, error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	b, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	listening, calling := tls.Server(a, server), tls.Client(b, client)
	called := make(chan error, 1)
	go func() {
		err := calling.HandshakeContext(t.Context())
		if err != nil {
			b.Close()
		} else {
			_, err = calling.Read(make([]byte, 1)) // a refusal comes after the caller's half
		}
		called <- err
	}()
	if err = listening.HandshakeContext(t.Context()); err == nil {
		_, err = listening.Write([]byte{1})
	} else {
		a.Close()
	}
	if other := <-called; err == nil {
		err = other
	}
	return listening, err
}

func TestConnections(t *testing.T) {
	one, two := newCA(t, "one"), newCA(t, "two")
	server := open(t, "kv-0", issue(t, one, "kv-0"), one)
	client := open(t, "kv-1", issue(t, one, "kv-1"), one)
	conn, err := connect(t, server.Server(true), client.Client())
	if err != nil {
		t.Fatal(err)
	}
	if state := conn.ConnectionState(); state.Version != tls.VersionTLS13 {
		t.Errorf("TLS version %x", state.Version)
	}
	chain := conn.ConnectionState().PeerCertificates
	if pod, _, err := server.Pod(chain, false); pod != "kv-1" || err != nil {
		t.Errorf("the caller is %q, %v", pod, err)
	}
	with := func(c *tls.Config, change func(*tls.Config)) *tls.Config { change(c); return c }
	clientOnly, err := one.Issue(Request{Names: []string{"kv-1"}, Now: epoch, Life: day, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*tls.Config{
		"another CA":     open(t, "kv-1", issue(t, two, "kv-1"), two, one).Client(),
		"no certificate": with(client.Client(), func(c *tls.Config) { c.GetClientCertificate = nil }),
		"TLS 1.2":        with(client.Client(), func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }),
		"another name":   with(client.Client(), func(c *tls.Config) { c.ServerName = "kv-2" }),
		"a later century": {
			MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, GetClientCertificate: client.Client().GetClientCertificate,
			VerifyConnection: func(state tls.ConnectionState) error {
				return client.Material().Verify(state.PeerCertificates, x509.ExtKeyUsageServerAuth, "", epoch.Add(400*day))
			},
		},
	} {
		if _, err := connect(t, server.Server(true), c); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if _, err := connect(t, open(t, "", clientOnly, one).Server(false), client.Client()); err == nil {
		t.Error("a client's certificate is accepted as a server's")
	}
	// Clients need no certificate where it is not required.
	if _, err := connect(t, server.Server(false), &tls.Config{RootCAs: server.Material().Roots, ServerName: "kv-0"}); err != nil {
		t.Errorf("without a certificate: %v", err)
	}
	// Without a ca.crt nobody is asked, so that what a client has does no harm.
	alone := open(t, "", issue(t, two, "kv-0"), two)
	if err := errors.Join(os.Remove(filepath.Join(alone.dir, FileCA)), alone.Reload()); err != nil {
		t.Fatal(err)
	}
	alone.warn()
	believing := client.Client()
	believing.VerifyConnection, believing.InsecureSkipVerify, believing.RootCAs, believing.ServerName = nil, false, open(t, "kv-1", issue(t, two, "kv-1"), two).Material().Roots, "kv-0"
	if conn, err := connect(t, alone.Server(false), believing); err != nil || len(conn.ConnectionState().PeerCertificates) != 0 {
		t.Errorf("without a ca.crt: %v", err)
	}
	// A connection that was accepted is no longer trusted when its CA is not.
	write(t, server.dir, issue(t, two, "kv-0"), two)
	if err := server.Reload(); err != nil {
		t.Fatal(err)
	}
	if pod, _, err := server.Pod(chain, false); err == nil {
		t.Errorf("the old CA still proves %s", pod)
	}
}

// What a certificate proves ends with the first certificate on the way to its CA, by the
// way that lasts longest.
func TestUntil(t *testing.T) {
	ca := newCA(t, "ca")
	chain, err := ParseCertificates(issue(t, ca, "kv-0").Certificate)
	if err != nil {
		t.Fatal(err)
	}
	again := func(life time.Duration) *x509.Certificate { // The same key, for another time.
		template := *ca.Certificate
		template.NotAfter = epoch.Add(life)
		der, err := x509.CreateCertificate(rand.Reader, &template, &template, ca.key.Public(), ca.key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	brief, briefer := again(20*day), again(10*day)
	for _, test := range []struct {
		cas  []*x509.Certificate
		want time.Time
	}{
		{[]*x509.Certificate{ca.Certificate}, chain[0].NotAfter},
		{[]*x509.Certificate{brief}, brief.NotAfter},
		{[]*x509.Certificate{briefer, brief}, brief.NotAfter},
	} {
		m := &Material{CAs: test.cas, Roots: x509.NewCertPool()}
		for _, c := range test.cas {
			m.Roots.AddCert(c)
		}
		if until, err := m.Until(chain, x509.ExtKeyUsageServerAuth, "", epoch); err != nil || !until.Equal(test.want) {
			t.Errorf("with %d CAs until %s: %s, %v", len(test.cas), test.want, until, err)
		}
	}
}
