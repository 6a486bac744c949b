package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// lab is what a test does to the machines, as root on the one that they all are.
type lab struct{ t *testing.T }

// needLab is the lab, or the end of a test that cannot do without it.
func needLab(t *testing.T) *lab {
	t.Helper()
	if *kubeDir == "" {
		t.Skip("breaks machines: run it on a test Kubernetes on this one, with -kube-dir")
	}
	return &lab{t: t}
}

// needNodes is the lab with at least four nodes: one for the control plane, and
// three that can break.
func needNodes(t *testing.T) *lab {
	t.Helper()
	l := needLab(t)
	out, err := kubectl("", "", "get", "nodes", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	if has := len(strings.Fields(out)); has < 4 {
		t.Skipf("needs four nodes, has %d", has)
	}
	return l
}

func (l *lab) run(name string, args ...string) {
	l.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// node stops, starts, cuts or heals a node; what was done is undone at the end.
func (l *lab) node(node, verb string) {
	l.t.Helper()
	number := node[strings.LastIndexByte(node, '-')+1:]
	l.run(filepath.Join(*kubeDir, "node"), number, verb)
	if back := map[string]string{"stop": "start", "cut": "heal"}[verb]; back != "" {
		l.t.Cleanup(func() {
			if l.t.Failed() { // Otherwise the test has done it.
				l.run(filepath.Join(*kubeDir, "node"), number, back)
			}
		})
	}
}

// noDNS takes the cluster's DNS server away; the function that it returns gives
// it back.
func (l *lab) noDNS() (back func()) {
	l.t.Helper()
	_, port, ok := strings.Cut(*dnsServer, ":")
	if !ok {
		l.t.Fatal("-dns is not host:port")
	}
	var undo [][]string
	for _, protocol := range []string{"udp", "tcp"} {
		rule := []string{"INPUT", "-p", protocol, "--dport", port, "-j", "DROP"}
		l.run("iptables", append([]string{"-I"}, rule...)...)
		undo = append(undo, append([]string{"-D"}, rule...))
	}
	return l.once(func() {
		for _, rule := range undo {
			l.run("iptables", rule...)
		}
	})
}

// once makes an undo that also happens when the test fails before it.
func (l *lab) once(undo func()) func() {
	undone := false
	do := func() {
		if !undone {
			undone = true
			undo()
		}
	}
	l.t.Cleanup(do)
	return do
}

// process is the process of a pod of Baton.
func (l *lab) process(pod *corev1.Pod) int {
	l.t.Helper()
	return l.processOf(pod, "kvd")
}

// processOf is the process of a pod that runs a program.
func (l *lab) processOf(pod *corev1.Pod, program string) int {
	l.t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/comm") // the pattern is good
	for _, file := range files {
		name, _ := os.ReadFile(file) // one that is gone is not it
		cgroup, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup"))
		uid := []byte(pod.UID)
		if string(name) == program+"\n" && (bytes.Contains(cgroup, uid) || bytes.Contains(cgroup, bytes.ReplaceAll(uid, []byte("-"), []byte("_")))) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err == nil {
				return pid
			}
		}
	}
	l.t.Fatalf("there is no %s of %s on this machine", program, pod.Name)
	return 0
}

// signal sends a signal to a pod's process, which Kubernetes does not know of.
func (l *lab) signal(pod *corev1.Pod, s syscall.Signal) {
	l.t.Helper()
	if err := syscall.Kill(l.process(pod), s); err != nil {
		l.t.Fatal(err)
	}
}

// cutPeers is the effect of a network policy that forgets the peer port: pods
// cannot reach this one, nor it them, but clients and probes can.
func (l *lab) cutPeers(pod *corev1.Pod) (heal func()) {
	l.t.Helper()
	in := []string{"--net=/proc/" + strconv.Itoa(l.process(pod)) + "/ns/net", "iptables"}
	for _, rule := range [][]string{{"INPUT", "--dport"}, {"INPUT", "--sport"}} {
		l.run("nsenter", append(in, "-I", rule[0], "-p", "tcp", rule[1], "7401", "-j", "DROP")...)
	}
	return l.once(func() {
		if out, err := exec.Command("nsenter", append(in, "-F", "INPUT")...).CombinedOutput(); err != nil {
			l.t.Logf("the pod is gone: %v %s", err, out)
		}
	})
}

// recycle empties the volumes that were released, and offers them again, as the
// storage of a cloud would make new ones. It returns when ctx ends.
func recycle(ctx context.Context, api kubernetes.Interface) error {
	for ctx.Err() == nil {
		volumes, err := api.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		if err != nil {
			sleep(ctx, time.Second)
			continue
		}
		for _, v := range volumes.Items {
			claim := v.Spec.ClaimRef
			if v.Status.Phase != corev1.VolumeReleased || v.Spec.HostPath == nil || !strings.HasPrefix(claim.Namespace, "e2e-") {
				continue
			}
			if err := empty(v.Spec.HostPath.Path); err != nil {
				return err
			}
			_, err := api.CoreV1().PersistentVolumes().Patch(ctx, v.Name, types.MergePatchType, []byte(`{"spec":{"claimRef":null}}`), metav1.PatchOptions{})
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("offer %s again: %w", v.Name, err)
			}
		}
		sleep(ctx, time.Second)
	}
	return nil
}

func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}
