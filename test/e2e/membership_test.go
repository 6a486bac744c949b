//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// From one pod to seven at once: each of the new ones clones the pod before it.
func TestS12ScaleUp(t *testing.T) {
	c := install(t, "single", 1)
	c.measure("S12 scale 1 to 7", Target{Took: 60 * time.Second, WriteGap: 300 * time.Millisecond, Masters: -1}, func() { c.scale(7) })
	for i := 1; i < 7; i++ {
		c.wantCloned(fmt.Sprintf("kv-%d", i), fmt.Sprintf("kv-%d", i-1))
	}
}

// One of the new pods never starts: the others join, and it never counts.
func TestS12OnePodNeverStarts(t *testing.T) {
	c := install(t, "parallel", 3)
	c.applyText(stuckClaim)
	c.observe("S12 one of the new pods never starts", Target{WriteGap: 300 * time.Millisecond, Masters: -1}, func() {
		c.kubectl("scale", "statefulset/kv", "--replicas=5")
		c.await("four voters", settlePatience, func() bool { return len(strings.Fields(c.members())) == 4 })
		time.Sleep(3 * time.Second)
		if n := len(strings.Fields(c.members())); n != 4 {
			t.Errorf("%d members, with one pod that never started", n)
		}
	})
	c.replicas = 5
	c.measure("S12 it starts after all", Target{Took: 30 * time.Second, Masters: -1}, func() { c.wipe("kv-3") })
}

// stuckClaim is one that no volume will ever be found for.
const stuckClaim = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data-kv-3}
spec: {storageClassName: none, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

// Down in steps, and at once, and with pods that had no time to leave.
func TestS13ScaleDown(t *testing.T) {
	c := install(t, "five", 5)
	step := func(to int) {
		c.measure(fmt.Sprintf("S13 scale %d to %d", c.replicas, to), Target{Took: 30 * time.Second, WriteGap: 300 * time.Millisecond}, func() { c.scale(to) })
	}
	step(3)
	step(2)
	step(1)
	step(5)
	step(1)
	step(3)
}

// The pods that go are killed, and may have no time to leave: those who remain
// remove them, as long as they are a majority. Otherwise nothing is decided, for
// those who are gone may have what the rest has not, until they are back.
func TestS13ScaleDownKilled(t *testing.T) {
	c := install(t, "five", 5)
	kill := func(to int, pods ...string) {
		c.scale(to)
		c.kubectl(append([]string{"delete", "pod", "--force", "--grace-period=0", "--ignore-not-found"}, pods...)...)
	}
	c.measure("S13 scale 5 to 3, killed", Target{Took: 30 * time.Second, WriteGap: 10 * time.Second}, func() { kill(3, "kv-3", "kv-4") })
	c.observe("S13 scale 3 to 1, killed", Target{MayFail: true}, func() {
		kill(1, "kv-1", "kv-2")
		time.Sleep(5 * time.Second)
	})
	c.measure("S13 scaled to 3 again", Target{Took: 30 * time.Second, MayFail: true}, func() { c.scale(3) })
	c.measure("S13 scale 3 to 1, in peace", Target{Took: 30 * time.Second, WriteGap: 300 * time.Millisecond}, func() { c.scale(1) })
}

// The same with the master on the pod that goes.
func TestS13MasterGoes(t *testing.T) {
	c := install(t, "", 3)
	c.handOver("kv-2")
	c.measure("S13 scale 3 to 2, kv-2 the master", Target{Took: 15 * time.Second, WriteGap: 300 * time.Millisecond, Masters: 1}, func() { c.scale(2) })
	c.handOver("kv-1")
	c.measure("S13 scale 2 to 1, kv-1 the master", Target{Took: 15 * time.Second, WriteGap: 300 * time.Millisecond, Masters: 1}, func() { c.scale(1) })
	c.measure("S13 scale 1 to 3", Target{Took: 30 * time.Second, WriteGap: 300 * time.Millisecond}, func() { c.scale(3) })
}

// The removed pods come back to their old volumes: as new members.
func TestS14OldVolumes(t *testing.T) {
	c := install(t, "", 3)
	for range rounds(3, 1) {
		before := strings.Fields(c.members())
		c.measure("S14 scale 3-1-3", Target{Took: 45 * time.Second, WriteGap: 300 * time.Millisecond}, func() {
			c.scale(1)
			c.settle()
			c.scale(3)
		})
		now := strings.Fields(c.members())
		if now[0] != before[0] || now[1] == before[1] || now[2] == before[2] {
			t.Errorf("the members were %v, now they are %v", before, now)
		}
	}
}

// With a gigabyte to clone.
func TestS12ScaleUpWithData(t *testing.T) {
	c := install(t, "", 3)
	c.fill(rounds(1<<30, 128<<20))
	c.measure("S12 scale 3 to 5 with data", Target{Took: 60 * time.Second, WriteGap: 300 * time.Millisecond, Masters: -1}, func() { c.scale(5) })
}
