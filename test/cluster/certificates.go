package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/batondb/baton/internal/pki"
)

// certificateLife is longer than any test or measurement takes.
const certificateLife = 7 * 24 * time.Hour

// Certify makes a CA, and gives each pod a directory of certificates under dir. Call
// it before Serve.
func Certify(dir string, pods ...*Pod) error {
	ca, err := pki.NewCA("test", time.Now(), certificateLife)
	if err != nil {
		return err
	}
	for _, p := range pods {
		p.Certs = filepath.Join(dir, "certs", p.Name)
		if err := p.Certify(ca, ca); err != nil {
			return err
		}
	}
	return nil
}

// Certify puts a new certificate of a CA into the pod's directory, and trusts CAs. A
// pod that runs reads them soon.
func (p *Pod) Certify(from *pki.CA, trusted ...*pki.CA) error {
	pair, err := from.Issue(pki.Request{
		CommonName: p.Name, Names: []string{p.Name}, Now: time.Now(), Life: certificateLife, Server: true, Client: true,
	})
	if err != nil {
		return err
	}
	var bundle []byte
	for _, ca := range trusted {
		bundle = append(bundle, pki.EncodeCertificates(ca.Certificate)...)
	}
	return pki.WriteFiles(p.Certs, pair, bundle)
}

// Knock makes a TLS connection to a peer port over conn, which it closes, as whoever
// has a certificate, and returns which certificate the pod has shown; or why the pod
// refuses, or is not of the CA that the caller trusts.
func Knock(conn net.Conn, as pki.Pair, trusted *pki.CA) (*x509.Certificate, error) {
	defer conn.Close() //nolint:errcheck // Nothing was written.
	own, err := tls.X509KeyPair(as.Certificate, as.Key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(trusted.Certificate)
	secured := tls.Client(conn, &tls.Config{
		Certificates: []tls.Certificate{own}, InsecureSkipVerify: true, //nolint:gosec // Verified below, without a name.
	})
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return nil, err
	}
	if err := secured.Handshake(); err != nil {
		return nil, err
	}
	shown := secured.ConnectionState().PeerCertificates[0]
	if _, err := shown.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return shown, err
	}
	// The other side waits for a greeting, or has refused already.
	if err := conn.SetReadDeadline(time.Now().Add(time.Second / 2)); err != nil {
		return shown, err
	}
	_, err = secured.Read(make([]byte, 1))
	var refused *tls.AlertError
	if errors.As(err, &refused) || err != nil && strings.Contains(err.Error(), "remote error") {
		return shown, err
	}
	return shown, nil
}
