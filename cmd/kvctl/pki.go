package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/internal/pki"
)

const pkiLong = `Make certificates for pods and clients, where nothing else issues them.

In Kubernetes there is nothing to do for the connections between pods: they make
their own certificates. Outside of it each pod needs one that says which pod it is:

  kvctl pki init --ca ca                      a CA: ca/ca.crt and ca/ca.key
  kvctl pki pod kv-0 kv-1 kv-2 --ca ca        certs/kv-0/{tls.crt,tls.key,ca.crt}, ...
  kvd serve --name kv-0 --certs certs/kv-0    with what it needs besides

For clients, and for programs that prove who they are:

  kvctl pki server kv.example.com '*.kv.example.com' --ca ca --out certs/server
  kvd serve --client-certs certs/server ...
  kvctl pki client alice --ca ca --out certs/alice
  kvctl --cacert certs/alice/ca.crt --cert certs/alice/tls.crt --key certs/alice/tls.key status

Keep ca.key away from the pods: whoever has it can be any of them. Take one CA for
the pods, and another one for clients.

To replace certificates, write new ones to the same place; kvd reads them within
seconds. To replace the CA without a failed call: append the new ca.crt to every
pod's ca.crt; issue all certificates by the new CA, with --trust for both; then
leave the old one out. kvctl pki show says what ends when.`

func newPKI(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "pki", Short: "Make certificates", Long: pkiLong, Example: "  kvctl pki init --ca ca\n  kvctl pki pod kv-0 kv-1 kv-2 --ca ca\n  kvctl pki client alice --ca ca --out certs/alice"},
		newPKIInit(a), newPKIPod(a), newPKIServer(a), newPKIClient(a), newPKIShow(a))
}

// day is what people count the life of a certificate in.
const day = 24 * time.Hour

func newPKIInit(a *app) *cobra.Command {
	var dir, name string
	var days int
	cmd := &cobra.Command{
		Use: "init", Short: "Make a CA",
		Long:    "Make a CA, in DIR/ca.crt and DIR/ca.key. It is refused if there is one.",
		Example: "  kvctl pki init --ca ca --name 'kv in production'",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if days < 1 {
				return usagef(cmd, "--days is %d; it must be at least 1", days)
			}
			for _, file := range []string{pki.FileCA, pki.FileCAKey} {
				if _, err := os.Lstat(filepath.Join(dir, file)); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s is there already: choose another --ca, or remove it if nothing trusts it any more", filepath.Join(dir, file))
				}
			}
			ca, err := pki.NewCA(name, time.Now(), time.Duration(days)*day)
			if err != nil {
				return err
			}
			if err := ca.Write(dir); err != nil {
				return err
			}
			return a.showCertificates([]string{filepath.Join(dir, pki.FileCA)})
		},
	}
	cmd.Flags().StringVar(&dir, "ca", "ca", "the directory to make it in")
	cmd.Flags().StringVar(&name, "name", "baton", "what people are to see as its name")
	cmd.Flags().IntVar(&days, "days", 3650, "how long it is valid")
	return cmd
}

func newPKIShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show PATH...", Short: "Show what certificates are for, and when they end",
		Long:    "Show the certificates in files, and in the tls.crt and ca.crt of directories.",
		Example: "  kvctl pki show certs/*",
		Args:    usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, paths []string) error {
			var files []string
			for _, path := range paths {
				info, err := os.Stat(path)
				if err != nil {
					return err
				}
				if !info.IsDir() {
					files = append(files, path)
					continue
				}
				before := len(files)
				for _, name := range []string{pki.FileCertificate, pki.FileCA} {
					if _, err := os.Stat(filepath.Join(path, name)); err == nil {
						files = append(files, filepath.Join(path, name))
					}
				}
				if len(files) == before {
					return fmt.Errorf("%s has neither %s nor %s", path, pki.FileCertificate, pki.FileCA)
				}
			}
			return a.showCertificates(files)
		},
	}
}

// shownCertificate is one in JSON.
type shownCertificate struct {
	File    string    `json:"file"`
	Subject string    `json:"subject"`
	Names   []string  `json:"names"`
	Issuer  string    `json:"issuer"`
	CA      bool      `json:"ca"`
	Ends    time.Time `json:"ends"`
}

func (a *app) showCertificates(files []string) error {
	all := []shownCertificate{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		certificates, err := pki.ParseCertificates(text)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, c := range certificates {
			names := append([]string{}, c.DNSNames...)
			for _, ip := range c.IPAddresses {
				names = append(names, ip.String())
			}
			for _, uri := range c.URIs {
				names = append(names, uri.String())
			}
			all = append(all, shownCertificate{
				File: file, Subject: c.Subject.CommonName, Names: names, Issuer: c.Issuer.CommonName, CA: c.IsCA, Ends: c.NotAfter,
			})
		}
	}
	return a.printCertificates(all)
}

func (a *app) printCertificates(all []shownCertificate) error {
	if a.json() {
		return a.printJSON(map[string]any{"certificates": all})
	}
	rows := lineTable{app: a, header: []string{"FILE", "FOR", "ISSUER", "ENDS", "DAYS LEFT"}}
	for _, c := range all {
		what := c.Subject
		if c.CA {
			what = "CA " + c.Subject
		} else if len(c.Names) > 0 {
			what = strings.Join(c.Names, ",")
		}
		left := time.Until(c.Ends)
		days := strconv.Itoa(int(left / day))
		if left <= 0 {
			days = "ended"
		}
		rows.row(c.File, text([]byte(what)), text([]byte(c.Issuer)), c.Ends.UTC().Format(time.RFC3339), days)
	}
	rows.flush()
	return nil
}
