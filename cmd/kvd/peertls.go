package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/replication"
)

// recordHandshake is the first byte that a TLS client sends.
const recordHandshake = 0x16

// peerTLS is TLS between pods. A nil one is none.
type peerTLS struct {
	files *pki.Files
	// migrate: a pod that knows no TLS is talked to without it.
	migrate bool
	// renew renews the certificates in files; nil: somebody else does.
	renew func(ctx context.Context)

	cancel context.CancelFunc
	loops  sync.WaitGroup
}

// security is p for the log; nil: there is none.
func (p *peerTLS) security() replication.Security {
	if p == nil {
		return nil
	}
	return p
}

// start begins what goes on until close.
func (p *peerTLS) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.loops.Go(func() { p.files.Run(ctx) })
	if p.renew != nil {
		p.loops.Go(func() { p.renew(ctx) })
	}
}

func (p *peerTLS) close() {
	if p != nil && p.cancel != nil {
		p.cancel()
		p.loops.Wait()
	}
}

// Accept implements replication.Security.
func (p *peerTLS) Accept(ctx context.Context, conn net.Conn) (replication.Secured, error) {
	if p.migrate {
		first := &peeked{Conn: conn, from: bufio.NewReaderSize(conn, 16)}
		begins, err := first.from.Peek(1)
		if err != nil {
			return replication.Secured{}, err
		}
		if begins[0] != recordHandshake {
			return replication.Secured{Conn: first}, nil
		}
		conn = first
	}
	secured := tls.Server(conn, p.files.Server(true))
	if err := secured.HandshakeContext(ctx); err != nil {
		var plain tls.RecordHeaderError
		if errors.As(err, &plain) {
			err = errors.New("it speaks no TLS; if it is a pod of an older version, roll out with BATON_CERTS_MIGRATE=true first")
		}
		return replication.Secured{}, err
	}
	return p.secured(secured, false)
}

// Call implements replication.Security.
func (p *peerTLS) Call(ctx context.Context, conn net.Conn, _ string) (replication.Secured, error) {
	secured := tls.Client(conn, p.files.Client())
	if err := secured.HandshakeContext(ctx); err != nil {
		if p.migrate && notTLS(err) {
			err = fmt.Errorf("%w: %w", replication.ErrPlainPeer, err)
		}
		return replication.Secured{}, err
	}
	return p.secured(secured, true)
}

// notTLS says that an error may come from a side that knows no TLS: it answers in its
// own words, or ends the connection.
func notTLS(err error) bool {
	var header tls.RecordHeaderError
	return errors.As(err, &header) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

func (p *peerTLS) secured(conn *tls.Conn, server bool) (replication.Secured, error) {
	chain := conn.ConnectionState().PeerCertificates
	pod, until, err := p.prove(chain, server)
	return replication.Secured{Conn: conn, Pod: pod, Until: until, Recheck: func() error {
		_, _, err := p.prove(chain, server)
		return err
	}}, err
}

func (p *peerTLS) prove(chain []*x509.Certificate, server bool) (pod string, until time.Time, err error) {
	if pod, until, err = p.files.Pod(chain, server); err != nil {
		return "", until, fmt.Errorf("%w: %w", replication.ErrUntrusted, err)
	}
	return pod, until, nil
}

// Changed implements replication.Security.
func (p *peerTLS) Changed() <-chan struct{} { return p.files.Changed() }

// notes are for /readyz?verbose.
func (p *peerTLS) notes() []string {
	if p == nil {
		return nil
	}
	status := p.files.Status()
	all := []string{fmt.Sprintf("peer certificate: ends %s, issued by %q; CAs trusted: %d, the first ends %s",
		status.Certificate.UTC().Format(time.RFC3339), status.Issuer, status.CAs, status.CA.UTC().Format(time.RFC3339))}
	if status.Problem != nil {
		all = append(all, "peer certificate: not renewed: "+status.Problem.Error())
	}
	if p.migrate {
		all = append(all, "peer connections: also without TLS, because of --certs-migrate")
	}
	return all
}

// peeked is a connection whose first bytes were looked at.
type peeked struct {
	net.Conn
	from *bufio.Reader
}

func (c *peeked) Read(b []byte) (int, error) { return c.from.Read(b) }

// secure returns when this pod has a certificate for the others, if it is to have
// one, and keeps it up to date from then on.
func (p *pod) secure(ctx context.Context, registry prometheus.Registerer) error {
	if p.peerTLS == nil && p.config.makesCertificates() {
		var err error
		if p.peerTLS, err = p.config.ownPeerTLS(ctx, p.kubernetes, p.logger, p.server.Wait); err != nil {
			return err
		}
	}
	if p.peerTLS == nil {
		return nil
	}
	registerCertificates(registry, "peer", p.peerTLS.files)
	p.server.Note(p.peerTLS.notes)
	p.peerTLS.start()
	return nil
}

// registerCertificates shows in metrics when certificates end. use says what they are
// for: "peer", or "client".
func registerCertificates(registry prometheus.Registerer, use string, files *pki.Files) {
	seconds := func(at time.Time) float64 {
		if at.IsZero() { // There is none, so it does not end.
			return math.Inf(1)
		}
		return float64(at.Unix())
	}
	ends := func(which string, value func(pki.Status) time.Time) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "baton_certificate_expiry_timestamp_seconds",
			Help:        "When the certificate, and the first of the CAs that are trusted, end.",
			ConstLabels: prometheus.Labels{"use": use, "which": which},
		}, func() float64 { return seconds(value(files.Status())) })
	}
	registry.MustRegister(
		ends("certificate", func(s pki.Status) time.Time { return s.Certificate }),
		ends("ca", func(s pki.Status) time.Time { return s.CA }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "baton_certificate_reload_failures_total",
			Help:        "Changed certificates that could not be used; those before them went on.",
			ConstLabels: prometheus.Labels{"use": use},
		}, func() float64 { return float64(files.Status().Failures) }),
	)
}
