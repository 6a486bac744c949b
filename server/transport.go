package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/internal/seldom"
)

// transport is TLS on the client port, with what gRPC's own lacks: a bound on the
// handshakes that are under way, words for those whose certificates are refused, and
// an end for connections whose certificates are no longer trusted.
type transport struct {
	credentials.TransportCredentials
	core *core
	// failed: whoever can connect can fail, as often as it likes.
	failed seldom.Events

	mu          sync.Mutex             // guards connections
	connections map[*trusted]time.Time // When their certificates end; zero: it is being looked at.
}

// trusted is a connection whose client showed a certificate.
type trusted struct {
	net.Conn
	raw   net.Conn // What TLS is spoken on.
	chain []*x509.Certificate
	of    *transport
}

// Close implements net.Conn.
func (t *trusted) Close() error {
	t.of.mu.Lock()
	delete(t.of.connections, t)
	t.of.mu.Unlock()
	return t.Conn.Close()
}

func newTransport(c *core) *transport {
	config := serverTLS(c.options.Security.Certificates, "h2")
	return &transport{
		TransportCredentials: credentials.NewTLS(config), core: c,
		connections: map[*trusted]time.Time{},
	}
}

// serverTLS is TLS 1.3 for one of the two ports. Every client library that is
// maintained has it, as have kubelet's probes and Prometheus; with it, nothing about
// ciphers is left to configure, and certificates do not go over the wire in clear.
func serverTLS(files *pki.Files, protocols ...string) *tls.Config {
	config := files.Server(false)
	config.NextProtos = protocols
	return config
}

// ServerHandshake implements credentials.TransportCredentials. gRPC has set the
// deadline, greetingTimeout.
func (t *transport) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	from := host(conn.RemoteAddr())
	handshakes := t.core.bounds.handshakes
	if err := handshakes.Take(from, 1); err != nil {
		return nil, nil, err
	}
	defer handshakes.Give(from, 1)
	kept := &kept{Conn: conn}
	secured, info, err := t.TransportCredentials.ServerHandshake(kept)
	if err != nil {
		t.refused(from, err)
		linger(conn)
		return nil, nil, err // gRPC closes conn.
	}
	kept.established = true
	shown, ok := info.(credentials.TLSInfo)
	if !ok || len(shown.State.PeerCertificates) == 0 {
		return secured, info, nil
	}
	connection := &trusted{Conn: secured, raw: conn, chain: shown.State.PeerCertificates, of: t}
	t.mu.Lock()
	t.connections[connection] = time.Time{}
	t.mu.Unlock()
	// By what counts now: the sweep after a change may have missed this one.
	until, err := t.core.options.Security.Certificates.Material().Until(connection.chain, x509.ExtKeyUsageClientAuth, "", time.Now())
	if err != nil {
		_ = connection.Close() // It was not used.
		return nil, nil, err
	}
	t.mu.Lock()
	t.connections[connection] = until
	t.mu.Unlock()
	return connection, t.core.options.Security.certify(shown, until), nil
}

// Clone implements credentials.TransportCredentials; servers do not clone.
func (t *transport) Clone() credentials.TransportCredentials { return t }

func (t *transport) refused(from string, err error) {
	t.core.metrics.tlsFailures.Inc()
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return // It went away by itself: a probe of the port, for example.
	}
	if unsaid, ok := t.failed.Due(""); ok {
		t.core.options.Logger.Warn("a client's connection was refused", slog.String("from", from), slog.Any("error", err), slog.Int("and_others", unsaid))
	}
}

// kept is a connection that a handshake that fails leaves open.
type kept struct {
	net.Conn
	established bool
}

// Close implements net.Conn.
func (k *kept) Close() error {
	if !k.established {
		return nil
	}
	return k.Conn.Close()
}

// linger lets the client read why it was refused. If the connection were closed while
// something of the client's is unread, its system would drop what it was sent.
func linger(conn net.Conn) {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(lingerTimeout))
	_, _ = io.CopyN(io.Discard, conn, lingerBytes) // Nobody needs it.
}

// sweep ends the connections whose certificates are trusted no more: they have
// expired, or their CA was taken out of the bundle. To look at CAs takes a tenth of a
// millisecond for each, and is only needed after a change.
func (t *transport) sweep(changed bool) {
	t.mu.Lock()
	all := maps.Clone(t.connections)
	t.mu.Unlock()
	material, now, ended := t.core.options.Security.Certificates.Material(), time.Now(), 0
	for c, until := range all {
		trusted := until.IsZero() || now.Before(until)
		if trusted && changed {
			trusted = material.Verify(c.chain, x509.ExtKeyUsageClientAuth, "", now) == nil
		}
		if !trusted {
			// Not with a word of TLS, for which a client that reads nothing lets wait.
			_ = c.raw.Close()
			ended++
		}
	}
	if ended > 0 {
		t.core.options.Logger.Info("connections were ended whose client certificates have expired or are no longer of a CA in ca.crt",
			slog.Int("connections", ended))
	}
}

// run sweeps until ctx ends.
func (t *transport) run(ctx context.Context) {
	tick := time.NewTicker(trustInterval)
	defer tick.Stop()
	files := t.core.options.Security.Certificates
	for changed := files.Changed(); ; {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			changed = files.Changed()
			t.sweep(true)
		case <-tick.C:
			t.sweep(false)
		}
	}
}
