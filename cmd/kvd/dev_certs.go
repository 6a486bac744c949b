package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/batondb/baton/internal/pki"
)

const (
	// devLife is how long the certificates of a local cluster are valid; each start
	// makes new ones.
	devLife = 365 * 24 * time.Hour
	// devCALife is longer than anybody keeps a local cluster.
	devCALife = 10 * devLife
)

// certs is the directory with a pod's certificates.
func (c *devConfig) certs(i int) string { return filepath.Join(c.dataDir, "certs", c.pod(i)) }

// certify gives each pod a certificate. The CA is made by the first start.
func (c *devConfig) certify(now time.Time) error {
	ca, err := c.ca(now)
	if err != nil {
		return fmt.Errorf("certificates in %s: %w", c.dataDir, err)
	}
	for i := range c.nodes {
		pair, err := ca.Issue(pki.Request{
			CommonName: c.pod(i), Names: []string{c.pod(i), "localhost", "127.0.0.1"}, Now: now, Life: devLife, Server: true, Client: true,
		})
		if err != nil {
			return fmt.Errorf("certificates in %s: %w", c.dataDir, err)
		}
		if err := pki.WriteFiles(c.certs(i), pair, pki.EncodeCertificates(ca.Certificate)); err != nil {
			return err
		}
	}
	return nil
}

func (c *devConfig) ca(now time.Time) (*pki.CA, error) {
	dir := filepath.Join(c.dataDir, "certs")
	certificate, err := os.ReadFile(filepath.Join(dir, pki.FileCA))
	if err == nil {
		key, err := os.ReadFile(filepath.Join(dir, pki.FileCAKey))
		if err != nil {
			return nil, err
		}
		return pki.ParseCA(pki.Pair{Certificate: certificate, Key: key})
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ca, err := pki.NewCA("kvd dev", now, devCALife)
	if err != nil {
		return nil, err
	}
	return ca, ca.Write(dir)
}
