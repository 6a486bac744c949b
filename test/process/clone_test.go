package process

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/batondb/baton/test/cluster"
)

// sourceLine is what a pod that has cloned prints.
var sourceLine = regexp.MustCompile(`msg="the database was cloned" pod=(kv-\d+) .*source=(kv-\d+)`)

// wantSources checks that each pod but the first has cloned the pod before it,
// by what all of them printed.
func wantSources(t *testing.T, printed string, pods int) {
	t.Helper()
	sources := map[string]string{}
	for _, found := range sourceLine.FindAllStringSubmatch(printed, -1) {
		sources[found[1]] = found[2]
	}
	if len(sources) != pods-1 {
		t.Errorf("%d pods cloned, and %d should have: %v", len(sources), pods-1, sources)
	}
	for i := 1; i < pods; i++ {
		if pod, before := fmt.Sprintf("kv-%d", i), fmt.Sprintf("kv-%d", i-1); sources[pod] != before {
			t.Errorf("%s cloned %q, not %s", pod, sources[pod], before)
		}
	}
}

// TestEachClonesThePodBefore: pods that start at one time clone one another, and
// so does one whose volume is lost.
//
// Scenario: S12, S18
func TestEachClonesThePodBefore(t *testing.T) {
	const count = 4
	c := cluster.Run(t, count)
	var printed string
	for _, p := range c.Pods {
		printed += p.Printed()
	}
	wantSources(t, printed, count)

	last := c.Pods[count-1]
	cluster.Kill(last)
	if err := last.Wipe(); err != nil {
		t.Fatal(err)
	}
	before := len(last.Printed())
	start(t, last)
	whole(t, c)
	if found := sourceLine.FindStringSubmatch(last.Printed()[before:]); found == nil || found[2] != "kv-2" {
		t.Errorf("after it has lost its volume kv-3 cloned %v", found)
	}
}

// TestDevClonesThePodBefore: the same with kvd dev.
func TestDevClonesThePodBefore(t *testing.T) {
	port, err := cluster.Block()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	dev := &cluster.Pod{Name: "dev", Log: filepath.Join(dir, "log")}
	dev.Command = []string{
		cluster.Program(t, cluster.Kvd), "dev", "--nodes", fmt.Sprint(pods),
		"--data-dir", filepath.Join(dir, "data"), "--base-port", fmt.Sprint(port),
	}
	all := &cluster.Cluster{Pods: []*cluster.Pod{dev}}
	all.EndWith(t)
	start(t, dev)
	cluster.Eventually(t, "kvd dev says that it is ready", cluster.Patience, func(context.Context) error {
		if !strings.Contains(dev.Printed(), "the cluster is ready") {
			return errors.New("it does not")
		}
		return nil
	})
	if err := cluster.Stop(dev); err != nil {
		t.Error(err)
	}
	wantSources(t, dev.Printed(), pods)
}
