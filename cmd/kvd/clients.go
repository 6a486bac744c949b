package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/pflag"

	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/server"
)

// clientConfig is how clients are served, and how they are told apart.
type clientConfig struct {
	certs      string
	commonName bool
}

func (c *clientConfig) register(f *pflag.FlagSet) {
	f.StringVar(&c.certs, "client-certs", "", "a directory with tls.crt, tls.key and ca.crt: the client port and the HTTP port speak TLS 1.3; "+
		"the files are read again when they change. A client may show a certificate of ca.crt (without that file: none counts), and need not (default: both ports are plain)")
	f.BoolVar(&c.commonName, "client-common-name", false, "a client certificate without a SAN URI names its caller by its common name, as with etcd")
}

// open reads what is configured.
func (c *clientConfig) open(logger *slog.Logger) (s server.Security, err error) {
	s.CommonName = c.commonName
	if c.certs == "" {
		return s, nil
	}
	if s.Certificates, err = pki.Open(c.certs, pki.Options{Logger: logger}); err != nil {
		return s, fmt.Errorf("--client-certs: %w", err)
	}
	return s, nil
}
