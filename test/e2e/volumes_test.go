//go:build e2e

package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// A claim and its pod are deleted: the pod is back as a new member.
func TestS18VolumeLost(t *testing.T) {
	c := install(t, "", 3)
	for round := range rounds(14, 2) {
		c.lose(fmt.Sprintf("kv-%d", 1+round%2), "S18")
	}
}

// The same of the lowest ordinal: it founds no second cluster.
func TestS19LowestVolumeLost(t *testing.T) {
	c := install(t, "", 3)
	for range rounds(6, 1) {
		c.lose("kv-0", "S19")
	}
}

func (c *Cluster) lose(pod, row string) {
	c.t.Helper()
	before := c.memberOf(pod)
	c.measure(row+" the volume of "+pod+" is lost", Target{Took: 30 * time.Second, WriteGap: 300 * time.Millisecond}, func() { c.wipe(pod) })
	if now := c.memberOf(pod); now == before || now == "" {
		c.t.Errorf("%s was the member %s, now it is %s", pod, before, now)
	}
}

// The lowest ordinal loses its volume while all the others restart.
func TestS19WhileOthersRestart(t *testing.T) {
	for _, overlay := range []string{"parallel", ""} {
		t.Run(policy(overlay), func(t *testing.T) {
			c := install(t, overlay, 3)
			c.measure("S19 kv-0 wiped, all restart, "+policy(overlay), Target{Took: 60 * time.Second, MayFail: true}, func() {
				c.kubectl("delete", "pvc", "data-kv-0", "--wait=false")
				c.kubectl("delete", "pods", "-l", "app.kubernetes.io/instance=kv")
			})
		})
	}
}

// The lowest ordinal loses its volume while DNS is down: it waits.
func TestS19WithoutDNS(t *testing.T) {
	lab := needLab(t)
	c := install(t, "", 3)
	if c.master() == "kv-0" {
		c.handOver("kv-1")
	}
	var back func()
	c.observe("S19 kv-0 wiped without DNS", Target{WriteGap: 1500 * time.Millisecond}, func() {
		back = lab.noDNS()
		c.wipe("kv-0")
		c.awaitRunning("kv-0")
		time.Sleep(20 * time.Second)
	})
	c.measure("S19 DNS is back", Target{Took: 15 * time.Second, Masters: -1}, back)
}

// The lowest ordinal loses its volume while it can reach no other pod.
func TestS19CutOff(t *testing.T) {
	lab := needLab(t)
	c := install(t, "", 3)
	var heal [2]func()
	c.observe("S19 kv-0 wiped and cut off", Target{MayFail: true}, func() {
		for i := range heal {
			heal[i] = lab.cutPeers(c.kube(fmt.Sprintf("kv-%d", i+1)))
		}
		c.wipe("kv-0")
		c.awaitLog("kv-0", "and waits", 30*time.Second)
		time.Sleep(10 * time.Second)
	})
	c.measure("S19 it is reached again", Target{Took: 15 * time.Second, MayFail: true}, func() {
		heal[0]()
		heal[1]()
	})
}

// A write that was acknowledged by kv-0 and kv-2, while kv-1 lagged, survives
// that kv-2 loses its volume and kv-0 is away: kv-1 and the new kv-2 must not
// choose a master, because neither has it. All pods start at once: in order, kv-2 would
// only come after kv-0 was ready again.
func TestS18NoElectionWithoutTheWrite(t *testing.T) {
	lab := needLab(t)
	c := install(t, "parallel", 3)
	c.handOver("kv-0")
	heal := lab.cutPeers(c.kube("kv-1"))
	time.Sleep(3 * time.Second) // Writes that kv-1 does not have.
	first := c.kube("kv-0")
	m := c.observe("S18 kv-2 wiped, kv-0 hangs, kv-1 lagged", Target{MayFail: true}, func() {
		lab.signal(first, syscall.SIGSTOP)
		// It must not lead kv-1 on its way out.
		lab.signal(c.kube("kv-2"), syscall.SIGSTOP)
		c.wipe("kv-2", "--force", "--grace-period=0")
		c.awaitRunning("kv-2")
		heal()
		time.Sleep(15 * time.Second)
	})
	if m.Masters > 0 {
		t.Error("kv-1 and an empty kv-2 chose a master: what kv-0 had acknowledged is lost")
	}
	c.measure("S18 kv-0 is back", Target{Took: 30 * time.Second, MayFail: true}, func() { lab.signal(first, syscall.SIGCONT) })
}

// A clone is cut at any moment: the pod that clones is killed, or the one that it
// clones from. Of five, for one that is wiped and one that is killed leave no
// majority of three.
func TestS28CloneCut(t *testing.T) {
	lab := needLab(t)
	c := install(t, "five", 5)
	c.handOver("kv-0")
	c.fill(rounds(512<<20, 128<<20))
	target := Target{Took: 30 * time.Second, WriteGap: 300 * time.Millisecond, Masters: -1}
	for range rounds(3, 1) {
		c.measure("S28 kv-4 clones, and is killed", target, func() {
			c.wipe("kv-4")
			c.awaitCloning("kv-4")
			lab.signal(c.kube("kv-4"), syscall.SIGKILL)
			time.Sleep(time.Second) // Until Kubernetes has seen it.
		})
		c.measure("S28 kv-4 clones, kv-3 is killed", target, func() {
			c.wipe("kv-4")
			c.awaitCloning("kv-4")
			c.kubectl("delete", "pod", "kv-3", "--force", "--grace-period=0")
		})
	}
}
