package e2e

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var (
	manifests = flag.String("manifests", "", "the folder deploy (default: the one above the working directory)")
	image     = flag.String("image", defaultImage, "the image to test; the nodes must have it or be able to pull it")
	version   = flag.String("version", "", "what the pods must say their version is: the nodes may have an older image of the same name")
	dnsServer = flag.String("dns", "", "host:port of the cluster's DNS server (default: the machine's own)")
	domain    = flag.String("domain", "cluster.local", "the cluster's DNS domain")
	kubeDir   = flag.String("kube-dir", "", "the scripts of a test Kubernetes on this machine, for the tests that break nodes, networks and processes")
	policies  = flag.String("policies", "", "the program bin/policies, which enforces network policies where the test Kubernetes does not")
	quick     = flag.Bool("quick", false, "fewer rounds of what is repeated")
	keep      = flag.String("keep", "", "keep logs and histories in this folder, also of tests that pass")
)

const defaultImage = "baton:latest"

const (
	// patience is how long one call is repeated by the client before it fails.
	patience = 10 * time.Second
	// settlePatience is how long a cluster may take to be whole again.
	settlePatience = 2 * time.Minute
	// poll is how often a state is looked at that a test waits for.
	poll = 100 * time.Millisecond
)

// rounds is how often a test repeats what it does.
func rounds(full, few int) int {
	if *quick {
		return few
	}
	return full
}

// manifest is a file or folder of deploy/.
func manifest(t *testing.T, path string) string {
	t.Helper()
	if *manifests != "" {
		return filepath.Join(*manifests, path)
	}
	for _, dir := range []string{"deploy", "../deploy", "../../deploy"} {
		if _, err := os.Stat(filepath.Join(dir, path)); err == nil {
			return filepath.Join(dir, path)
		}
	}
	t.Fatalf("deploy/%s is not found from here: set -manifests", path)
	return ""
}
