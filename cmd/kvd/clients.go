package main

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/kubernetes/tokens"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/server/audit"
)

// clientConfig is how clients are served, and how they are told apart.
type clientConfig struct {
	certs      string
	commonName bool
	// tokens is "offline", "review" or "off".
	tokens string
	// audit is a rule, and auditFile where its trail goes; empty: to standard output.
	audit, auditFile string
	auditRule        audit.Rule // From audit.
}

// tokenAudience is what a ServiceAccount's token must be for.
const tokenAudience = "baton"

func (c *clientConfig) register(f *pflag.FlagSet) {
	f.StringVar(&c.certs, "client-certs", "", "a directory with tls.crt, tls.key and ca.crt: the client port and the HTTP port speak TLS 1.3; "+
		"the files are read again when they change. A client may show a certificate of ca.crt (without that file: none counts), and need not (default: both ports are plain)")
	f.BoolVar(&c.commonName, "client-common-name", false, "a client certificate without a SAN URI names its caller by its common name, as with etcd")
	f.StringVar(&c.tokens, "service-account-tokens", "offline", "in Kubernetes, with --client-certs: how tokens of ServiceAccounts for the audience baton are checked: "+
		"offline, with the API server's keys; review, which also asks the API server (once a minute for each) whether they still count; off")
	f.StringVar(&c.audit, "audit", "off", "which calls of clients to write down, one line of JSON each, with who, from where, method, keys, outcome and revision, but no value: "+
		"writes; all; prefix:KEYS, all that touch a key that begins so; off. With each of them also the calls that are refused for who makes them")
	f.StringVar(&c.auditFile, "audit-file", "", "where --audit writes to: a file, which is followed by four older ones of 64 MiB, FILE.1 to FILE.4 (default: standard output)")
}

func (c *clientConfig) check() (err error) {
	if c.auditRule, err = audit.ParseRule(c.audit); err != nil {
		return fmt.Errorf("--audit: %w", err)
	}
	if !slices.Contains([]string{"offline", "review", "off"}, c.tokens) {
		return fmt.Errorf("--service-account-tokens is %q: set it to offline, review or off", c.tokens)
	}
	return nil
}

// open reads what is configured. k is nil outside Kubernetes. A token is taken only
// over TLS: on a plain port it is everybody's who sees it.
func (c *clientConfig) open(k *kubernetesPod, logger *slog.Logger) (s server.Security, err error) {
	s.CommonName = c.commonName
	if c.certs == "" {
		return s, nil
	}
	if s.Certificates, err = pki.Open(c.certs, pki.Options{Logger: logger}); err != nil {
		return s, fmt.Errorf("--client-certs: %w", err)
	}
	if k != nil && c.tokens != "off" {
		k.tokens = c.verifier(k.Pod, logger)
		s.Token = k.tokens.Verify
	}
	return s, nil
}

// trail begins what --audit asks for.
func (c *config) trail(logger *slog.Logger, registry prometheus.Registerer) (*audit.Trail, error) {
	return audit.Open(audit.Options{
		Rule: c.clients.auditRule, File: c.clients.auditFile, Out: os.Stdout, Pod: c.name, Logger: logger, Registerer: registry,
	})
}

func (c *clientConfig) verifier(pod *kubernetes.Pod, logger *slog.Logger) *tokens.Verifier {
	o := tokens.Options{Audience: tokenAudience, Fetch: pod.Read, Logger: logger}
	if c.tokens == "review" {
		o.Review = pod.Review
	}
	return tokens.New(o)
}

// showClientTLS shows how the certificates for clients are; nil: there are none.
func (p *pod) showClientTLS(registry prometheus.Registerer, files *pki.Files) {
	if files == nil {
		return
	}
	registerCertificates(registry, "client", files)
	p.server.Note(func() []string {
		status := files.Status()
		note := "client certificate: ends " + status.Certificate.UTC().Format(time.RFC3339)
		if status.CA.IsZero() {
			note += "; no client is asked for one"
		} else {
			note += "; the first of the CAs of clients ends " + status.CA.UTC().Format(time.RFC3339)
		}
		all := []string{note}
		if status.Problem != nil {
			all = append(all, "client certificate: not renewed: "+status.Problem.Error())
		}
		return all
	})
}
