package pki

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// reread is how often the files are looked at. Kubernetes takes up to a minute and a
// half to bring a changed Secret into a pod.
const reread = 5 * time.Second

// Options of Files. The zero value will do.
type Options struct {
	// Pod is whom the certificate must be for; empty: it is a client's, or one for
	// clients to see.
	Pod    string
	Logger *slog.Logger     // nil: none
	Now    func() time.Time // nil: time.Now
}

// Files is a directory with tls.crt, tls.key and ca.crt. Where clients are served
// ca.crt may be missing: then none is asked for a certificate. What was read last,
// and was sound, counts. Its methods may be called by several goroutines.
type Files struct {
	dir  string
	opts Options

	mu       sync.Mutex // guards the fields below
	material *Material
	scope    Scope
	read     [3][]byte // what material was made of, or what failed last
	failed   error     // why what is on disk does not count; nil: it does
	failures uint64
	changed  chan struct{} // closed when material changes
	warned   [2]int        // see warn
}

// Open reads the directory. What cannot be used is an error, which says what to change.
func Open(dir string, o Options) (*Files, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	f := &Files{dir: dir, opts: o, changed: make(chan struct{})}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Run reads the files again when they change, and warns when a certificate is about
// to end, until ctx ends.
func (f *Files) Run(ctx context.Context) {
	ticks := time.NewTicker(reread)
	defer ticks.Stop()
	for {
		f.warn()
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		_ = f.Reload() // It was logged, and is in Status.
	}
}

// Reload looks at the files now. With an error nothing has changed.
func (f *Files) Reload() error {
	texts, err := f.readAll()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && same(texts, f.read) {
		return f.failed
	}
	if err == nil {
		f.read = texts
		err = f.use(texts)
	}
	if err == nil {
		f.failed = nil
		return nil
	}
	err = fmt.Errorf("the certificates in %s cannot be used: %w", f.dir, err)
	if f.material != nil && (f.failed == nil || f.failed.Error() != err.Error()) {
		f.failures++
		f.opts.Logger.Error("changed certificates cannot be used; those before them go on", "error", err)
	}
	f.failed = err
	return err
}

func same(a, b [3][]byte) bool {
	return bytes.Equal(a[0], b[0]) && bytes.Equal(a[1], b[1]) && bytes.Equal(a[2], b[2])
}

func (f *Files) readAll() (texts [3][]byte, err error) {
	for i, name := range []string{FileCertificate, FileKey, FileCA} {
		texts[i], err = readFile(filepath.Join(f.dir, name))
		if f.opts.Pod == "" && name == FileCA && errors.Is(err, fs.ErrNotExist) {
			texts[i], err = nil, nil
		}
		if err != nil {
			return texts, err
		}
	}
	return texts, nil
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // It was only read.
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return text, err
}

// use makes texts what counts, if they are sound. f.mu is held.
func (f *Files) use(texts [3][]byte) error {
	m, err := ParseMaterial(Pair{Certificate: texts[0], Key: texts[1]}, texts[2])
	if err != nil {
		return err
	}
	if f.opts.Pod != "" {
		if f.scope, err = f.check(m); err != nil {
			return err
		}
	}
	again := f.material != nil
	f.material = m
	close(f.changed)
	f.changed = make(chan struct{})
	f.warned = [2]int{}
	certificate, ca := m.Expiry()
	say := f.opts.Logger.Info
	if !again {
		say = f.opts.Logger.Debug
	}
	say("new certificates are in use", "directory", f.dir, "for", describe(m.Certificate.Leaf),
		"certificate_ends", certificate.UTC().Format(time.RFC3339), "ca_ends", ca.UTC().Format(time.RFC3339), "cas", len(m.CAs))
	return nil
}

// check refuses a certificate that no other pod would accept: to use it would cut
// this one off.
func (f *Files) check(m *Material) (Scope, error) {
	scope, err := ScopeOf(m.Certificate.Leaf, f.opts.Pod)
	if err != nil {
		return f.scope, err
	}
	chain := []*x509.Certificate{m.Certificate.Leaf}
	for _, der := range m.Certificate.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return f.scope, fmt.Errorf("%w: %s: %w", ErrMalformed, FileCertificate, err)
		}
		chain = append(chain, c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if err := m.Verify(chain, usage, "", f.opts.Now()); err != nil {
			return f.scope, fmt.Errorf("%s is not one that the CAs of %s let a pod use as a server and as a client: %w", FileCertificate, FileCA, err)
		}
	}
	return scope, nil
}

// Material is what counts now.
func (f *Files) Material() *Material {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.material
}

// Changed is closed when something else counts.
func (f *Files) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Status is for metrics and for people.
type Status struct {
	Certificate, CA time.Time // when the certificate, and the first of the CAs, end
	Issuer          string    // the name of the CA that the certificate is of
	CAs             int       // how many are trusted
	Failures        uint64    // how often changed files could not be used
	Problem         error     // why those on disk do not count; nil: they do
}

// Status says how the certificates are.
func (f *Files) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Status{Failures: f.failures, Problem: f.failed, Issuer: f.material.Certificate.Leaf.Issuer.CommonName, CAs: len(f.material.CAs)}
	s.Certificate, s.CA = f.material.Expiry()
	return s
}

func (f *Files) config() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		SessionTicketsDisabled:      true, // what is resumed would not be checked
		DynamicRecordSizingDisabled: true, // nobody looks at half of a message
		Time:                        f.opts.Now,
	}
}

// Server is the configuration of a listening side. A client's certificate is checked
// if it has one; with required it must. Whoever has one is the first of the
// connection's PeerCertificates.
func (f *Files) Server(required bool) *tls.Config {
	c := f.config()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &f.Material().Certificate, nil }
	c.ClientAuth = tls.RequestClientCert
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if required || f.Material().CAs != nil {
			return nil, nil //nolint:nilnil // The configuration stays as it is.
		}
		unasked := c.Clone()
		unasked.ClientAuth = tls.NoClientCert
		return unasked, nil
	}
	if required {
		c.ClientAuth = tls.RequireAnyClientCert // checked below, by what counts at that moment
	}
	c.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 && !required {
			return nil
		}
		return f.Material().Verify(state.PeerCertificates, x509.ExtKeyUsageClientAuth, "", f.opts.Now())
	}
	return c
}

// Client is the configuration of a calling side. The server's certificate must be for
// the configuration's ServerName; without one its name is the caller's to check.
func (f *Files) Client() *tls.Config {
	c := f.config()
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &f.Material().Certificate, nil
	}
	c.InsecureSkipVerify = true // checked below, by what counts at that moment
	c.VerifyConnection = func(state tls.ConnectionState) error {
		return f.Material().Verify(state.PeerCertificates, x509.ExtKeyUsageServerAuth, state.ServerName, f.opts.Now())
	}
	return c
}

// Pod is the pod of this one's scope that certificates, which a connection was
// opened with, prove, and until when; with an error if what counts now does not trust
// them. server says that they are the listening side's.
func (f *Files) Pod(chain []*x509.Certificate, server bool) (pod string, until time.Time, err error) {
	f.mu.Lock()
	material, scope := f.material, f.scope
	f.mu.Unlock()
	if scope.places == nil {
		return "", until, errors.New("these certificates are not a pod's")
	}
	usage := x509.ExtKeyUsageClientAuth
	if server {
		usage = x509.ExtKeyUsageServerAuth
	}
	if until, err = material.Until(chain, usage, "", f.opts.Now()); err != nil {
		return "", until, err
	}
	pod, err = scope.Pod(chain[0])
	return pod, until, err
}
