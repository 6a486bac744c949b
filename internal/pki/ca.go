package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/batondb/baton/internal/wholefile"
)

// Backdated is how long ago what is issued became valid. A machine whose clock is
// slow is not to be cut off, and nothing is gained by a narrow beginning.
const Backdated = 24 * time.Hour

// Types of PEM blocks.
const (
	blockCertificate = "CERTIFICATE"
	blockKey         = "PRIVATE KEY"
)

// ErrMalformed is returned for bytes that are no certificate, no key, or not a pair.
var ErrMalformed = errors.New("not a certificate or key in PEM")

// Pair is a certificate, perhaps followed by those between it and its CA, and its
// key, both in PEM.
type Pair struct {
	Certificate, Key []byte
}

// CA issues certificates. It may be used by several goroutines.
type CA struct {
	Certificate *x509.Certificate
	key         crypto.Signer
}

// NewCA makes a certificate authority that is valid from now on for as long as life.
func NewCA(name string, now time.Time, life time.Duration) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-Backdated),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &CA{Certificate: certificate, key: key}, nil
}

// ParseCA reads what Pair gave. Of several certificates the first is the CA's.
func ParseCA(p Pair) (*CA, error) {
	certificates, err := ParseCertificates(p.Certificate)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(p.Key)
	if block == nil {
		return nil, fmt.Errorf("%w: the CA's key", ErrMalformed)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: the CA's key: %w", ErrMalformed, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: the CA's key is a %T, which cannot sign", ErrMalformed, parsed)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !public.Equal(certificates[0].PublicKey):
		return nil, fmt.Errorf("%w: the CA's key is not its certificate's", ErrMalformed)
	case !certificates[0].IsCA:
		return nil, fmt.Errorf("%w: %s is not a CA", ErrMalformed, certificates[0].Subject)
	}
	return &CA{Certificate: certificates[0], key: key}, nil
}

// Pair is the CA's certificate and key.
func (c *CA) Pair() (Pair, error) {
	key, err := encodeKey(c.key)
	return Pair{Certificate: EncodeCertificates(c.Certificate), Key: key}, err
}

// Write puts the CA into a directory, which only its owner may read. The certificate comes
// last: where it is, the key is as well.
func (c *CA) Write(dir string) error {
	pair, err := c.Pair()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := wholefile.Write(filepath.Join(dir, FileCAKey), pair.Key); err != nil {
		return err
	}
	return wholefile.Write(filepath.Join(dir, FileCA), pair.Certificate)
}

// Request says what a certificate is to be for.
type Request struct {
	// CommonName is what people see, and a client's name.
	CommonName string
	// Names are DNS names, IP addresses, and URIs (they have "://" in them).
	Names []string
	// Now is when it begins; Life how long it is valid, at most as long as the CA.
	Now  time.Time
	Life time.Duration
	// Server and Client say what it may be used as; a pod's is both.
	Server, Client bool
}

// Issue makes a key, and a certificate for it.
func (c *CA) Issue(r Request) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	template, err := r.template()
	if err != nil {
		return Pair{}, err
	}
	if template.NotAfter.After(c.Certificate.NotAfter) {
		template.NotAfter = c.Certificate.NotAfter
	}
	if !template.NotAfter.After(r.Now) {
		return Pair{}, fmt.Errorf("the certificate would have ended at %s already: the CA is valid until %s",
			template.NotAfter.Format(time.RFC3339), c.Certificate.NotAfter.Format(time.RFC3339))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.Certificate, key.Public(), c.key)
	if err != nil {
		return Pair{}, err
	}
	encoded, err := encodeKey(key)
	return Pair{Certificate: pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: der}), Key: encoded}, err
}

func (r Request) template() (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: r.CommonName},
		NotBefore:             r.Now.Add(-Backdated),
		NotAfter:              r.Now.Add(r.Life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	if r.Server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	for _, name := range r.Names {
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
			continue
		}
		if !strings.Contains(name, "://") {
			t.DNSNames = append(t.DNSNames, name)
			continue
		}
		uri, err := url.Parse(name)
		if err != nil {
			return nil, fmt.Errorf("the name %q: %w", name, err)
		}
		t.URIs = append(t.URIs, uri)
	}
	return t, nil
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der}), nil
}

// EncodeCertificates writes certificates in PEM, one after the other.
func EncodeCertificates(certificates ...*x509.Certificate) []byte {
	var all []byte
	for _, c := range certificates {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: c.Raw})...)
	}
	return all
}

// ParseCertificates reads at least one certificate in PEM. Whatever else is there is
// an error: half of a file must not count as a shorter one.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != blockCertificate {
			return nil, fmt.Errorf("%w: a block %q among certificates", ErrMalformed, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		all = append(all, c)
	}
	if bytes.Contains(text, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("%w: a certificate is cut off", ErrMalformed)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: no certificate", ErrMalformed)
	}
	return all, nil
}
