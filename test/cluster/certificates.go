package cluster

import (
	"path/filepath"
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
