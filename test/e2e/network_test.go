//go:build e2e

package e2e

import (
	"testing"
	"time"
)

// DNS is away while nothing moves, and then while a pod does.
func TestS05WithoutDNS(t *testing.T) {
	lab := needLab(t)
	c := install(t, "", 3)
	away := time.Duration(rounds(10*60, 30)) * time.Second
	back := lab.noDNS()
	c.observe("S05 without DNS, nothing moves", Target{WriteGap: 300 * time.Millisecond, Masters: -1}, func() { time.Sleep(away) })
	follower := c.followers()[0]
	c.observe("S05 without DNS, a follower moves", Target{WriteGap: 300 * time.Millisecond, Masters: -1}, func() {
		c.kubectl("delete", "pod", follower)
		c.awaitRunning(follower)
		time.Sleep(5 * time.Second)
	})
	c.measure("S05 DNS is back", Target{Took: 10 * time.Second, WriteGap: 300 * time.Millisecond, Masters: -1}, back)
}

// The master's peer port is cut: another one takes over, and what the old one
// is asked meanwhile it does not acknowledge.
func TestS10MasterCutOffFromPeers(t *testing.T) {
	lab := needLab(t)
	c := install(t, "", 3)
	var heal func()
	c.observe("S10 the master's peer port is cut", Target{WriteGap: 1500 * time.Millisecond, Masters: 1}, func() {
		heal = lab.cutPeers(c.kube(c.master()))
		time.Sleep(10 * time.Second)
	})
	c.measure("S10 it is open again", Target{Took: 15 * time.Second, WriteGap: 300 * time.Millisecond}, func() { heal() })
}
