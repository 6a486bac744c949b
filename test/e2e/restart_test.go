//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/history"
)

// A pod comes back with another address.
func TestS07OneAddressChanges(t *testing.T) {
	c := install(t, "", 3)
	members := c.members()
	for _, pod := range c.followers() {
		before := c.kube(pod).Status.PodIP
		c.measure("S07 a follower's address changes", Target{Took: 15 * time.Second, WriteGap: 300 * time.Millisecond, Masters: -1}, func() {
			c.kubectl("delete", "pod", pod)
		})
		if now := c.kube(pod).Status.PodIP; now == before {
			t.Errorf("%s has the same address: this says nothing", pod)
		}
		c.sameMembers(members)
	}
}

// All pods come back with other addresses at one time, after a crash.
func TestS08AllAddressesChange(t *testing.T) {
	c := install(t, "", 3)
	members := c.members()
	c.measure("S08 all addresses change", Target{Took: 30 * time.Second, MayFail: true}, func() {
		c.kubectl("delete", "pods", "-l", "app.kubernetes.io/instance=kv", "--force", "--grace-period=0")
	})
	c.sameMembers(members)
}

// kubectl rollout restart under load, the master in each position.
func TestS22RollingUpdate(t *testing.T) {
	c := install(t, "", 3)
	members := c.members()
	for round := range rounds(10, 3) {
		master := fmt.Sprintf("kv-%d", round%3)
		// kv-2 is the first to go: whoever takes over from it has yet to go as well.
		masters := 1 + round%3/2
		c.handOver(master)
		c.measure("S22 rollout restart, master "+master, Target{WriteGap: 300 * time.Millisecond, Masters: masters}, func() {
			c.kubectl("rollout", "restart", "statefulset/kv")
		})
		c.sameMembers(members)
	}
}

// The master is told to stop, and is killed in every way there is.
func TestS23MasterStops(t *testing.T) {
	c := install(t, "", 3)
	for range rounds(3, 1) {
		c.measure("S23 delete the master", Target{Took: 15 * time.Second, WriteGap: 50 * time.Millisecond, Masters: 1}, func() {
			c.kubectl("delete", "pod", c.master())
		})
		c.measure("S23 the same, --force", Target{Took: 15 * time.Second, WriteGap: 50 * time.Millisecond, Masters: 1}, func() {
			c.kubectl("delete", "pod", c.master(), "--force", "--grace-period=0")
		})
	}
}

// A client that knows the Service kv-master alone writes through the master, and
// through the next one when that is killed.
func TestS23ServiceOfTheMaster(t *testing.T) {
	c := install(t, "", 3)
	first := c.master()
	c.await("a write through kv-master", 15*time.Second, func() bool { return c.putThroughMaster(first) })
	c.measure("S23 the master is killed; kv-master leads to the next one", Target{Took: 15 * time.Second, WriteGap: 700 * time.Millisecond, Masters: 1}, func() {
		c.kubectl("delete", "pod", first, "--force", "--grace-period=0")
		next := ""
		c.await("another master", 15*time.Second, func() bool { next = c.master(); return next != first })
		c.await("a write through kv-master, which is "+next, 15*time.Second, func() bool { return c.putThroughMaster(next) })
	})
}

// putThroughMaster writes over the connection that kv-master gives, and says
// whether it led to the pod that is the master.
func (c *Cluster) putThroughMaster(master string) bool {
	c.t.Helper()
	conn, err := c.conn(c.service("kv-master"))
	if err != nil {
		c.t.Fatal(err)
	}
	value := fmt.Sprint(c.load.recorder.Now())
	op := &history.Op{Client: writers + readers, Name: "put", Writes: []history.Write{{Key: "through kv-master", Value: value}}}
	err = c.load.recorder.Call(context.Background(), op, 2*time.Second, func(ctx context.Context) (history.Answer, error) {
		r, err := kvv1.NewKVServiceClient(conn).Put(ctx, &kvv1.PutRequest{Key: []byte("through kv-master"), Value: []byte(value)})
		return history.NewAnswer(r.GetHeader()), err
	})
	if err != nil {
		c.t.Logf("a write through kv-master: %v", err)
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	status, err := kvv1.NewClusterServiceClient(conn).Status(ctx, &kvv1.StatusRequest{ThisPodOnly: true})
	if err != nil || len(status.GetPods()) != 1 {
		c.t.Logf("the pod behind kv-master: %v, %v", status, err)
		return false
	}
	own := status.GetPods()[0]
	return own.GetName() == master && own.GetRole() == kvv1.PodStatus_ROLE_MASTER
}

// The master's process is killed, and hangs.
func TestS23MasterDies(t *testing.T) {
	lab := needLab(t)
	c := install(t, "", 3)
	for range rounds(3, 1) {
		c.measure("S23 kill -9 of the master", Target{WriteGap: 700 * time.Millisecond, Masters: 1}, func() {
			lab.signal(c.kube(c.master()), syscall.SIGKILL)
			time.Sleep(time.Second) // Until Kubernetes has seen it.
		})
	}
	c.measure("S23 the master hangs for 10 s", Target{WriteGap: 1500 * time.Millisecond, Masters: 1}, func() {
		pod := c.kube(c.master())
		lab.signal(pod, syscall.SIGSTOP)
		time.Sleep(10 * time.Second)
		lab.signal(pod, syscall.SIGCONT)
	})
}

// The master is told to stop while no other pod can be reached: it ends in time.
func TestS23HandOverFails(t *testing.T) {
	lab := needLab(t)
	c := install(t, "", 3)
	master := c.master()
	heal := lab.cutPeers(c.kube(master))
	m := c.measure("S23 the master cannot hand over", Target{Took: 30 * time.Second, WriteGap: 1500 * time.Millisecond, Masters: 1}, func() {
		c.kubectl("delete", "pod", master)
		heal()
	})
	if m.Took > 45*time.Second {
		t.Errorf("%s was killed, it did not end by itself", master)
	}
}

// Two processes with one volume: the second waits, says why, and ends.
func TestS10TwoProcessesOneVolume(t *testing.T) {
	c := install(t, "", 3)
	members := c.members()
	c.observe("S10 one volume opened twice", Target{WriteGap: 300 * time.Millisecond, Masters: -1}, func() {
		c.applyText(twin)
		c.awaitLog("twin", "another process has this data directory open", 30*time.Second)
		c.await("the second process ends", time.Minute, func() bool { return c.kube("twin").Status.Phase == "Failed" })
	})
	c.settle()
	c.sameMembers(members)
}

// twin is a pod that takes itself for kv-1.
const twin = `
apiVersion: v1
kind: Pod
metadata: {name: twin}
spec:
  hostname: kv-1
  subdomain: kv
  restartPolicy: Never
  serviceAccountName: kv
  securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532}
  containers:
    - {name: kvd, image: baton:latest, imagePullPolicy: IfNotPresent, args: [serve], volumeMounts: [{name: data, mountPath: /var/lib/baton}]}
  volumes: [{name: data, persistentVolumeClaim: {claimName: data-kv-1}}]
`
