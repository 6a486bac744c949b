package main

import (
	"bufio"
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication"
)

// config is what a person sets for one pod.
type config struct {
	dataDir      string
	name         string
	service      string
	listenClient string
	listenPeer   string
	listenHTTP   string
	peerList     string
	logLevel     string
	// keepAge and keepRevisions: see server.Options.
	keepAge       time.Duration
	keepRevisions int64
	verifyRate    int64 // See server.Options.
	clients       clientConfig
	peerTLS       peerConfig

	// From peerList.
	peers     []string
	addresses map[string]string
	// kubernetes is set by tests only; see inKubernetes.
	kubernetes *kubernetes.Pod
	world      world
}

func (c *config) register(f *pflag.FlagSet) {
	f.StringVar(&c.dataDir, "data-dir", "/var/lib/baton", "where the data is; a volume of this pod's own")
	f.StringVar(&c.name, "name", "", "the pod's name, <set>-<ordinal> (default: the hostname)")
	f.StringVar(&c.service, "service", "", "the governing Service: pod kv-0 is found at kv-0.SERVICE (default: from /etc/hosts, as Kubernetes writes it)")
	f.StringVar(&c.listenClient, "listen-client", ":7400", "where clients are served")
	f.StringVar(&c.listenPeer, "listen-peer", ":7401", "where the other pods are served")
	f.StringVar(&c.listenHTTP, "listen-http", ":7402", "where probes, metrics and profiles are served")
	f.StringVar(&c.peerList, "peers", "", "outside Kubernetes: all pods and their peer ports, kv-0=host:port,kv-1=host:port")
	c.peerTLS.register(f)
	f.StringVar(&c.logLevel, "log-level", "info", "debug, info, warn or error")
	f.DurationVar(&c.keepAge, "keep-age", 0, "for how long replaced versions can be read; negative: age does not count (default 1h)")
	c.clients.register(f)
	f.Int64Var(&c.verifyRate, "verify-bytes-per-second", 0, "how fast the data at rest is read, checked and compared; negative: it is not (default 4194304)")
	f.Int64Var(&c.keepRevisions, "keep-revisions", 0, "how many revisions can be read; negative: their number does not count (default 5000000)")
}

// fromEnvironment sets the flags that were not given.
func fromEnvironment(flags *pflag.FlagSet) error {
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "BATON_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := os.LookupEnv(name)
		if !ok || f.Changed || failed != nil {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			failed = fmt.Errorf("%s=%q: %w", name, value, err)
		}
	})
	return failed
}

// complete fills in defaults and refuses what cannot work, before anything on
// the disk has changed. Each error says what to change.
func (c *config) complete() error {
	if c.name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("the hostname is not known (%w): set --name", err)
		}
		c.name, _, _ = strings.Cut(host, ".")
	}
	if !replication.ValidPod(c.name) {
		return fmt.Errorf("the pod's name is %q: set --name to <set>-<ordinal> in lower-case letters, digits and hyphens, for example kv-0", c.name)
	}
	if c.dataDir == "" {
		return fmt.Errorf("--data-dir is empty: set it to a directory of this pod's own")
	}
	if info, err := os.Stat(c.dataDir); err == nil && !info.IsDir() {
		return fmt.Errorf("--data-dir %s is not a directory: set it to one", c.dataDir)
	}
	for _, l := range []struct{ flag, address string }{
		{"--listen-client", c.listenClient}, {"--listen-peer", c.listenPeer}, {"--listen-http", c.listenHTTP},
	} {
		if _, err := portOf(l.address); err != nil {
			return fmt.Errorf("%s is %q: set it to host:port or :port", l.flag, l.address)
		}
	}
	if err := new(slog.Level).UnmarshalText([]byte(c.logLevel)); err != nil {
		return fmt.Errorf("--log-level is %q: set it to debug, info, warn or error", c.logLevel)
	}
	if err := c.clients.check(); err != nil {
		return err
	}
	return c.completePeers()
}

func (c *config) completePeers() error {
	if c.peerList == "" {
		c.service = cmp.Or(c.service, serviceFromHosts("/etc/hosts", c.name))
		if c.service == "" {
			return fmt.Errorf("where the other pods are is not known: set --service to the governing headless Service, " +
				"or --peers to kv-0=host:port,kv-1=host:port")
		}
		return nil
	}
	c.addresses = map[string]string{}
	for _, entry := range strings.Split(c.peerList, ",") {
		pod, address, _ := strings.Cut(strings.TrimSpace(entry), "=")
		if _, err := portOf(address); err != nil || !replication.ValidPod(pod) || strings.HasPrefix(address, ":") {
			return fmt.Errorf("--peers has the entry %q: write each as <set>-<ordinal>=host:port", entry)
		}
		if _, twice := c.addresses[pod]; twice {
			return fmt.Errorf("--peers names %s twice: remove one", pod)
		}
		c.peers = append(c.peers, pod)
		c.addresses[pod] = address
	}
	if !slices.Contains(c.peers, c.name) {
		return fmt.Errorf("--peers does not name this pod, %s: add it, or set --name", c.name)
	}
	return nil
}

func portOf(address string) (int, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return int(n), err
}

// host is the name that others reach this pod by.
func (c *config) host() string {
	if address, ok := c.addresses[c.name]; ok {
		host, _, _ := net.SplitHostPort(address)
		return host
	}
	return c.name + "." + c.service
}

// serviceFromHosts finds the governing Service in the line that Kubernetes
// writes for a pod of a StatefulSet: "10.1.2.3 kv-0.kv.ns.svc.cluster.local kv-0".
func serviceFromHosts(path, pod string) string {
	hosts, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer hosts.Close() //nolint:errcheck // It was only read.
	lines := bufio.NewScanner(hosts)
	for lines.Scan() {
		for _, name := range strings.Fields(lines.Text()) {
			if service, ok := strings.CutPrefix(name, pod+"."); ok {
				return service
			}
		}
	}
	return ""
}
