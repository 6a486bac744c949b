package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/replication"
)

// issuing are the flags of all that issue.
type issuing struct {
	ca, out string
	days    int
	trust   []string
}

func (i *issuing) register(cmd *cobra.Command, out, what string) {
	f := cmd.Flags()
	f.StringVar(&i.ca, "ca", "ca", "the directory with the CA's ca.crt and ca.key")
	f.StringVar(&i.out, "out", out, what)
	f.IntVar(&i.days, "days", 365, "how long it is valid, at most as long as the CA")
	f.StringSliceVar(&i.trust, "trust", nil, "files of CAs to trust as well, in ca.crt; while a CA is replaced")
}

// issue writes a directory with a certificate, its key, and the CAs to trust.
func (i *issuing) issue(cmd *cobra.Command, dir string, r pki.Request) error {
	if i.days < 1 {
		return usagef(cmd, "--days is %d; it must be at least 1", i.days)
	}
	certificate, err := os.ReadFile(filepath.Join(i.ca, pki.FileCA))
	if err != nil {
		return fmt.Errorf("%w; kvctl pki init makes a CA", err)
	}
	key, err := os.ReadFile(filepath.Join(i.ca, pki.FileCAKey))
	if err != nil {
		return err
	}
	ca, err := pki.ParseCA(pki.Pair{Certificate: certificate, Key: key})
	if err != nil {
		return fmt.Errorf("%s: %w", i.ca, err)
	}
	bundle := pki.EncodeCertificates(ca.Certificate)
	for _, path := range i.trust {
		text, err := os.ReadFile(path)
		if err == nil {
			_, err = pki.ParseCertificates(text)
		}
		if err != nil {
			return fmt.Errorf("--trust %s: %w", path, err)
		}
		if !bytes.Contains(bundle, bytes.TrimSpace(text)) {
			bundle = append(bundle, text...)
		}
	}
	r.Now, r.Life = time.Now(), time.Duration(i.days)*day
	pair, err := ca.Issue(r)
	if err != nil {
		return err
	}
	return pki.WriteFiles(dir, pair, bundle)
}

func newPKIPod(a *app) *cobra.Command {
	var i issuing
	var service, namespace string
	var spiffe string
	cmd := &cobra.Command{
		Use: "pod NAME...", Short: "Issue the certificates of pods, for kvd serve --certs",
		Long: `Issue the certificate of each pod, in OUT/NAME: tls.crt, tls.key, ca.crt.

Pods accept each other by the longest of the names in their certificates, with
another pod's name at its beginning: give all pods the same --service and
--namespace, and keep to them.`,
		Example: `  kvctl pki pod kv-0 kv-1 kv-2 --ca ca
  kvctl pki pod kv-0 kv-1 kv-2 --ca ca --service kv --namespace shop`,
		Args: usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, pods []string) error {
			var files []string
			for _, pod := range pods {
				if !replication.ValidPod(pod) {
					return usagef(cmd, "%q is not the name of a pod, as kv-0 is", pod)
				}
				names := pki.PodNames(pod, service, namespace)
				if spiffe != "" {
					names = append(names, strings.TrimSuffix(spiffe, "/")+"/"+pod)
				}
				dir := filepath.Join(i.out, pod)
				if err := i.issue(cmd, dir, pki.Request{CommonName: pod, Names: names, Server: true, Client: true}); err != nil {
					return err
				}
				files = append(files, filepath.Join(dir, pki.FileCertificate))
			}
			return a.showCertificates(files)
		},
	}
	i.register(cmd, "certs", "the directory that gets one for each pod")
	cmd.Flags().StringVar(&service, "service", "", "the governing Service, in Kubernetes")
	cmd.Flags().StringVar(&namespace, "namespace", "", "the namespace, in Kubernetes")
	cmd.Flags().StringVar(&spiffe, "spiffe", "", "the SPIFFE id without the pod's name, as in spiffe://example.org/ns/shop/pod")
	return cmd
}

func newPKIServer(a *app) *cobra.Command {
	var i issuing
	cmd := &cobra.Command{
		Use: "server NAME...", Short: "Issue what pods show to clients, for kvd serve --client-certs",
		Long: `Issue the certificate that pods show to clients, in OUT. The names, DNS names or IP
addresses, are those that clients connect to; the same certificate may be for all
pods. ca.crt are the CAs whose client certificates count.`,
		Example: "  kvctl pki server kv-client.shop.svc '*.kv.shop.svc.cluster.local' localhost --ca ca --out certs/server",
		Args:    usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := i.issue(cmd, i.out, pki.Request{CommonName: names[0], Names: names, Server: true}); err != nil {
				return err
			}
			return a.showCertificates([]string{filepath.Join(i.out, pki.FileCertificate)})
		},
	}
	i.register(cmd, "certs/server", "the directory to write it to")
	return cmd
}

func newPKIClient(a *app) *cobra.Command {
	var i issuing
	var uri string
	cmd := &cobra.Command{
		Use: "client USER", Short: "Issue the certificate of a client",
		Long: `Issue the certificate of a client, in OUT: tls.crt, tls.key, ca.crt.

Pods take a client for whom the URI in its certificate names (--uri). Without one
they take the common name, which is USER, if they were started with
--client-common-name.`,
		Example: `  kvctl pki client alice --ca ca --out certs/alice
  kvctl pki client web --uri spiffe://example.org/ns/shop/sa/web --ca ca --out certs/web`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := pki.Request{CommonName: args[0], Client: true}
			if uri != "" {
				if !strings.Contains(uri, "://") {
					return usagef(cmd, "--uri is %q; a URI has :// in it", uri)
				}
				r.Names = []string{uri}
			}
			if i.out == "" {
				i.out = filepath.Join("certs", args[0])
			}
			if !filepath.IsLocal(args[0]) && !cmd.Flags().Changed("out") {
				return errors.New("the name is no name of a directory: set --out")
			}
			if err := i.issue(cmd, i.out, r); err != nil {
				return err
			}
			return a.showCertificates([]string{filepath.Join(i.out, pki.FileCertificate)})
		},
	}
	i.register(cmd, "", "the directory to write it to (default certs/USER)")
	cmd.Flags().StringVar(&uri, "uri", "", "whom it names, as in spiffe://example.org/ns/shop/sa/web")
	return cmd
}
