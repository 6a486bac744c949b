//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// Three pods from nothing: one founds the cluster, the others join it. The API
// server takes every overlay.
func TestS01FirstBoot(t *testing.T) {
	for _, overlay := range []string{"single", "five", "parallel", "secure"} {
		if _, err := kubectl("", readManifest(t, overlay), "apply", "--dry-run=server", "-f", "-"); err != nil {
			t.Errorf("the API server refuses the overlay %s: %v", overlay, err)
		}
	}
	for _, overlay := range []string{"", "parallel"} {
		t.Run(policy(overlay), func(t *testing.T) {
			c := prepare(t, 3)
			c.timed("S01 kubectl apply, "+policy(overlay), 15*time.Second, func() { c.apply(overlay) })
			c.begin()
			c.observe("S01 load alone", Target{Masters: -1}, func() { time.Sleep(3 * time.Second) })
		})
	}
}

func policy(overlay string) string {
	if overlay == "parallel" {
		return "Parallel"
	}
	return "OrderedReady"
}

// All pods are deleted at one time: no readiness deadlock, and the same cluster.
func TestS02AllPodsDeleted(t *testing.T) {
	for _, overlay := range []string{"", "parallel"} {
		t.Run(policy(overlay), func(t *testing.T) {
			c := install(t, overlay, 3)
			members := c.members()
			c.measure("S02 all pods deleted, "+policy(overlay), Target{Took: 15 * time.Second, MayFail: true}, func() {
				c.kubectl("delete", "pods", "-l", "app.kubernetes.io/instance=kv")
			})
			c.sameMembers(members)
		})
	}
}

func (c *Cluster) sameMembers(before string) {
	c.t.Helper()
	if now := c.members(); now != before {
		c.t.Errorf("the members were %s, now they are %s", before, now)
	}
}

// The governing Service does not publish pods that are not ready: a pod says so,
// and all is well once it is mended.
func TestS03UnpublishedAddresses(t *testing.T) {
	c := prepare(t, 3)
	c.apply("")
	c.kubectl("patch", "service", "kv", "-p", `{"spec":{"publishNotReadyAddresses":false}}`)
	c.kubectl("delete", "pods", "-l", "app.kubernetes.io/instance=kv")
	c.awaitAnyLog("publishNotReadyAddresses", 45*time.Second)
	c.timed("S03 publishNotReadyAddresses mended", 15*time.Second, func() {
		c.kubectl("patch", "service", "kv", "-p", `{"spec":{"publishNotReadyAddresses":true}}`)
	})
	c.begin()
}

// Scaled to nothing, and deleted and applied again: a stop, not a departure.
func TestS15StopAndStart(t *testing.T) {
	c := install(t, "", 3)
	members := c.members()
	for round := range rounds(20, 3) {
		if round%2 == 0 {
			c.measure(fmt.Sprintf("S15 3-0-3, round %d", round+1), Target{Took: 30 * time.Second, MayFail: true}, func() {
				c.kubectl("scale", "statefulset/kv", "--replicas=0")
				c.awaitNoPods()
				c.kubectl("scale", "statefulset/kv", "--replicas=3")
			})
		} else {
			c.measure(fmt.Sprintf("S15 deleted and applied, round %d", round+1), Target{Took: 30 * time.Second, MayFail: true}, func() {
				c.kubectl("delete", "statefulset", "kv")
				c.awaitNoPods()
				c.apply("")
			})
		}
		c.sameMembers(members)
	}
}

// Restarts of every kind leave the membership as it is.
func TestS16RestartIsNoDeparture(t *testing.T) {
	c := install(t, "", 3)
	members := c.members()
	for i := 2; i >= 0; i-- {
		pod := fmt.Sprintf("kv-%d", i)
		c.measure("S16 kubectl delete pod "+pod, Target{Took: 15 * time.Second}, func() { c.kubectl("delete", "pod", pod) })
		c.sameMembers(members)
		c.measure("S16 the same, --force", Target{Took: 15 * time.Second}, func() {
			c.kubectl("delete", "pod", pod, "--force", "--grace-period=0")
		})
		c.sameMembers(members)
	}
}

// A broken image stops the roll-out at its first pod; the others serve.
func TestS25BrokenImage(t *testing.T) {
	c := install(t, "", 3)
	members := c.members()
	c.measure("S25 a broken image, and back", Target{Masters: 1}, func() {
		c.kubectl("set", "image", "statefulset/kv", "kvd=baton.invalid/none:none")
		c.awaitPod("kv-2", "waits for its image", func(reason string) bool { return reason == "ErrImagePull" || reason == "ImagePullBackOff" })
		c.kubectl("rollout", "undo", "statefulset/kv")
		// Kubernetes does not replace a pod that never was ready by itself.
		c.kubectl("delete", "pod", "kv-2")
	})
	c.sameMembers(members)
}
