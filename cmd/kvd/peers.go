package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/kubernetes/issuer"
)

// peerConfig is how the connections between pods are made safe.
type peerConfig struct {
	certs             string
	migrate, insecure bool
}

func (c *peerConfig) register(f *pflag.FlagSet) {
	f.StringVar(&c.certs, "certs", "", "a directory with this pod's tls.crt and tls.key, and the CAs to trust in ca.crt, for the connections between pods; "+
		"the files are read again when they change (default: in Kubernetes the pods make their own; elsewhere see kvctl pki)")
	f.BoolVar(&c.migrate, "certs-migrate", false, "talk without TLS to pods that do not know it yet: for one roll-out from a version or a configuration without TLS, then roll out again without this")
	f.BoolVar(&c.insecure, "insecure-peers", false, "no TLS between pods; only where all of them are on loopback")
}

// checkPeers refuses what cannot work. Each error says what to change.
func (c *config) checkPeers() error {
	p := c.peerTLS
	switch {
	case p.insecure && (p.certs != "" || p.migrate):
		return errors.New("--insecure-peers is the opposite of --certs and --certs-migrate: give one of them")
	case p.insecure:
		return c.checkLoopback()
	case p.certs == "" && !c.expectsKubernetes():
		return errors.New("the connections between pods need certificates: make them with `kvctl pki`, and set --certs to the directory of this pod's; " +
			"or, for pods that are all on loopback, set --insecure-peers")
	}
	return nil
}

// checkLoopback: whoever reaches a peer port without TLS owns the cluster.
func (c *config) checkLoopback() error {
	if c.addresses == nil {
		return errors.New("--insecure-peers needs --peers, with addresses on loopback: set --certs instead")
	}
	addresses := map[string]string{"--listen-peer": c.listenPeer}
	for pod, address := range c.addresses {
		addresses["--peers: "+pod] = address
	}
	for what, address := range addresses {
		host, _, err := net.SplitHostPort(address)
		if ip := net.ParseIP(host); err != nil || host != "localhost" && !ip.IsLoopback() {
			return fmt.Errorf("--insecure-peers is refused, because %s is %s, and that is not on loopback: set --certs instead", what, address)
		}
	}
	return nil
}

// expectsKubernetes says that this process was started by Kubernetes, as far as its
// environment tells.
func (c *config) expectsKubernetes() bool {
	return c.kubernetes != nil || c.peers == nil && os.Getenv("KUBERNETES_SERVICE_HOST") != ""
}

// makesCertificates says that this pod is to make its own certificate.
func (c *config) makesCertificates() bool {
	return c.peerTLS.certs == "" && c.expectsKubernetes() && !c.world.plainPeers
}

// ownCerts is where a pod keeps the certificate that it makes.
const ownCerts = "peer-certs"

// ownPeerTLS returns when the pod has the certificate that it makes for itself; say is
// told why it waits. Without access to the API, o is nil, it goes on with the one on
// its volume.
func (c *config) ownPeerTLS(ctx context.Context, o *kubernetesPod, logger *slog.Logger, say func(because string)) (*peerTLS, error) {
	tls := &peerTLS{migrate: c.peerTLS.migrate}
	dir := filepath.Join(c.dataDir, ownCerts)
	if o != nil {
		service, _, _ := strings.Cut(c.service, ".")
		own := &issuer.Issuer{Pod: o.Pod, Names: pki.PodNames(c.name, service, o.Namespace()), Dir: dir, Logger: logger}
		if err := own.Obtain(ctx, say); err != nil {
			return nil, err
		}
		tls.renew = func(ctx context.Context) {
			own.Run(ctx, func() { _ = tls.files.Reload() }) // An error was logged.
		}
	}
	var err error
	tls.files, err = pki.Open(dir, pki.Options{Pod: c.name, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("%w: let the pod mount its service account's token, so that it can make a certificate, or set --certs", err)
	}
	return tls, nil
}

// askOwn bounds how long a command waits for a certificate.
const askOwn = 10 * time.Second

// commandTLS is what a command needs to talk to the other pods; nil: they use no TLS.
func (c *config) commandTLS(ctx context.Context, o *kubernetesPod, logger *slog.Logger) (*peerTLS, error) {
	if !c.makesCertificates() {
		if err := c.checkPeers(); err != nil && !c.world.plainPeers {
			return nil, err
		}
		return c.openPeerTLS(logger)
	}
	ctx, cancel := context.WithTimeout(ctx, askOwn)
	defer cancel()
	because := ""
	tls, err := c.ownPeerTLS(ctx, o, logger, func(why string) { because = cmp.Or(why, because) })
	if err != nil && because != "" {
		err = fmt.Errorf("%w: %s", err, because)
	}
	return tls, err
}

// openPeerTLS reads the certificates that are configured; nil: there are none.
func (c *config) openPeerTLS(logger *slog.Logger) (*peerTLS, error) {
	p := c.peerTLS
	if p.migrate {
		logger.Warn("pods that know no TLS are talked to without it, and so is whoever claims to be one: roll out once more without --certs-migrate")
	}
	if p.certs == "" {
		return nil, nil //nolint:nilnil // No certificates are no error.
	}
	files, err := pki.Open(p.certs, pki.Options{Pod: c.name, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("--certs: %w", err)
	}
	return &peerTLS{files: files, migrate: p.migrate}, nil
}
