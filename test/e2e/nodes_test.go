//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/batondb/baton/client"
)

// Every node is drained in turn: never more than one pod is away.
func TestS24Drain(t *testing.T) {
	needNodes(t)
	c := install(t, "", 3)
	members := c.members()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var fewest atomic.Int32
	fewest.Store(3)
	go func() {
		for ; ctx.Err() == nil; sleep(ctx, poll) {
			if set, err := c.api.AppsV1().StatefulSets(c.namespace).Get(ctx, "kv", metav1.GetOptions{}); err == nil {
				fewest.Store(min(fewest.Load(), set.Status.ReadyReplicas))
			}
		}
	}()
	for _, node := range nodes(t) {
		c.measure("S24 drain "+node, Target{Took: 20 * time.Second, WriteGap: 300 * time.Millisecond}, func() {
			defer c.kubectl("uncordon", node)
			c.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
		})
	}
	if n := fewest.Load(); n < 2 {
		t.Errorf("only %d pods were ready at one time", n)
	}
	c.sameMembers(members)
}

func nodes(t *testing.T) []string {
	t.Helper()
	out, err := kubectl("", "", "get", "nodes", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(strings.ReplaceAll(out, "node/", ""))
}

// offNode0 moves the master to a node that can be broken: node-0 carries
// Kubernetes itself. It returns the master and its node.
func (c *Cluster) offNode0() (master, node string) {
	c.t.Helper()
	for i := range c.replicas {
		pod := fmt.Sprintf("kv-%d", i)
		if node := c.kube(pod).Spec.NodeName; node != "node-0" {
			c.handOver(pod)
			return pod, node
		}
	}
	c.t.Fatal("all pods are on node-0")
	return "", ""
}

// The machine that the master is on loses power.
func TestMasterNodeLosesPower(t *testing.T) {
	lab := needNodes(t)
	c := install(t, "", 3)
	members := c.members()
	_, node := c.offNode0()
	c.observe("the master's node loses power", Target{WriteGap: 1500 * time.Millisecond, Masters: 1}, func() {
		lab.node(node, "stop")
		time.Sleep(10 * time.Second)
	})
	c.measure("the node is back", Target{Took: 15 * time.Second, WriteGap: 300 * time.Millisecond}, func() { lab.node(node, "start") })
	c.sameMembers(members)
}

// The machine that the master is on loses its network, and comes back: meanwhile
// the old master acknowledges nothing.
func TestMasterNodeIsCutOff(t *testing.T) {
	lab := needNodes(t)
	c := install(t, "", 3)
	members := c.members()
	_, node := c.offNode0()
	c.observe("the master's node is cut off", Target{WriteGap: 1500 * time.Millisecond, Masters: 1}, func() {
		lab.node(node, "cut")
		time.Sleep(10 * time.Second)
	})
	c.measure("the node is healed", Target{Took: 15 * time.Second, WriteGap: 300 * time.Millisecond}, func() { lab.node(node, "heal") })
	c.sameMembers(members)
}

// A pod was deleted by force and its node cannot be reached, so it runs on: the
// one that replaces it waits for the volume's lock, and says so.
func TestS10ForceDeletedPodRunsOn(t *testing.T) {
	lab := needNodes(t)
	c := install(t, "", 3)
	master, node := c.offNode0()
	c.kubectl("cordon", node) // Kubernetes does not know yet that it cannot be reached.
	t.Cleanup(func() { c.kubectl("uncordon", node) })
	c.observe("S10 the master's node is cut off, and the pod replaced", Target{WriteGap: 1500 * time.Millisecond, Masters: 1}, func() {
		lab.node(node, "cut")
		c.kubectl("delete", "pod", master, "--force", "--grace-period=0")
		c.awaitLog(master, "another process has this data directory open", time.Minute)
		time.Sleep(10 * time.Second) // Until the others go on.
	})
	c.measure("S10 the node is healed", Target{Took: 60 * time.Second, WriteGap: 300 * time.Millisecond}, func() { lab.node(node, "heal") })
}

// All pods are deleted while the node of kv-0 is down: a quorum serves.
func TestS02WithoutTheFirstNode(t *testing.T) {
	lab := needNodes(t)
	c := install(t, "parallel", 3)
	node := c.kube("kv-0").Spec.NodeName
	if node == "node-0" {
		c.kubectl("cordon", node)
		c.kubectl("delete", "pod", "kv-0")
		c.settle()
		c.kubectl("uncordon", node)
		node = c.kube("kv-0").Spec.NodeName
	}
	c.observe("S02 kv-0's node is down, the others restart", Target{WriteGap: 30 * time.Second, MayFail: true}, func() {
		lab.node(node, "stop")
		c.kubectl("delete", "pod", "kv-1", "kv-2")
		c.await("a write is acknowledged", time.Minute, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, err := c.admin.Range(ctx, client.Key("any"))
			return err == nil
		})
	})
	c.measure("S02 the node is back", Target{Took: 15 * time.Second}, func() { lab.node(node, "start") })
}
