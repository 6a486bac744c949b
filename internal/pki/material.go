package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/batondb/baton/internal/wholefile"
)

// The files of a directory of certificates, named as in a Secret of the type
// kubernetes.io/tls.
const (
	FileCertificate = "tls.crt"
	FileKey         = "tls.key"
	FileCA          = "ca.crt"
	FileCAKey       = "ca.key" // where people keep their CA; no pod reads it
)

// maxFile bounds what is read of one file: a bundle of CAs is some kilobytes.
const maxFile = 1 << 20

// Material is a certificate with its key, and the CAs to trust. It does not change.
type Material struct {
	Certificate tls.Certificate // its Leaf is set
	CAs         []*x509.Certificate
	Roots       *x509.CertPool // the same CAs
}

// ParseMaterial reads the three files. The key must be the certificate's. Without a
// bundle, nil, no CA is trusted.
func ParseMaterial(p Pair, bundle []byte) (*Material, error) {
	certificate, err := tls.X509KeyPair(p.Certificate, p.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: %s and %s: %w", ErrMalformed, FileCertificate, FileKey, err)
	}
	if certificate.Leaf == nil {
		if certificate.Leaf, err = x509.ParseCertificate(certificate.Certificate[0]); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, FileCertificate, err)
		}
	}
	m := &Material{Certificate: certificate, Roots: x509.NewCertPool()}
	if bundle == nil {
		return m, nil
	}
	if m.CAs, err = ParseCertificates(bundle); err != nil {
		return nil, fmt.Errorf("%s: %w", FileCA, err)
	}
	for _, ca := range m.CAs {
		m.Roots.AddCert(ca)
	}
	return m, nil
}

// Verify checks that the first of these certificates, which follow each other to
// their CA, is one to trust for a usage, at a time. hostname may be empty.
func (m *Material) Verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, hostname string, now time.Time) error {
	_, err := m.Until(chain, usage, hostname, now)
	return err
}

// Until is Verify, and says when that ends by itself: with the first of the certificates
// up to the CA, on whichever way lasts longest.
func (m *Material) Until(chain []*x509.Certificate, usage x509.ExtKeyUsage, hostname string, now time.Time) (until time.Time, err error) {
	if len(chain) == 0 {
		return until, errors.New("it has shown no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	ways, err := chain[0].Verify(x509.VerifyOptions{
		DNSName: hostname, Roots: m.Roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return until, &tls.CertificateVerificationError{UnverifiedCertificates: chain, Err: err}
	}
	for _, way := range ways {
		if first := firstOf(way).NotAfter; first.After(until) {
			until = first
		}
	}
	return until, nil
}

// Expiry is when the certificate, and the first of the CAs, end. Without a CA its time
// is the zero one.
func (m *Material) Expiry() (certificate, ca time.Time) {
	if first := firstOf(m.CAs); first != nil {
		ca = first.NotAfter
	}
	return m.Certificate.Leaf.NotAfter, ca
}

// firstOf is the certificate that ends first; nil: there is none.
func firstOf(all []*x509.Certificate) (first *x509.Certificate) {
	for _, c := range all {
		if first == nil || c.NotAfter.Before(first.NotAfter) {
			first = c
		}
	}
	return first
}

// WriteFiles writes a directory of certificates, which only its owner may read. Each
// file is replaced as a whole; whoever reads in between finds that key and
// certificate are no pair, and tries again.
func WriteFiles(dir string, p Pair, bundle []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
	}{{FileCA, bundle}, {FileKey, p.Key}, {FileCertificate, p.Certificate}} {
		if err := wholefile.Write(filepath.Join(dir, f.name), f.text); err != nil {
			return err
		}
	}
	return nil
}
