package etcd

import (
	"bytes"
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/etcd/servers"
)

// TestEtcdctlOperations: what an operator types, where the answer is Baton's own.
func TestEtcdctlOperations(t *testing.T) {
	pods := servers.Baton(t, 3)
	c := etcdctl(t, pods)
	c.must("put a 1")
	member := strings.Fields(c.must("member list"))[0]
	member = strings.TrimSuffix(member, ",")
	for _, op := range []struct {
		line string
		want string // A regular expression for all that is printed; without one of it, an error.
		ok   bool
	}{
		{"member list", `^(ID, started, kv-\d, http://ADDRESS, http://ADDRESS, false\n){3}$`, true},
		{"member list -w table", `(?s)kv-0.*kv-1.*kv-2`, true},
		{"member list --consistency s -w json", `"name":"kv-2"`, true},
		{"endpoint status --cluster", `^(http://ADDRESS, ID, 3\.7\.\d+, 3\.7\.0, .*\n){3}$`, true},
		{"endpoint status -w table", `(?s)IS LEADER.*│ +true │`, true},
		{"endpoint status -w json", `"leader":\d+`, true},
		{"endpoint health --cluster", `^(http://ADDRESS is healthy: .*\n){3}$`, true},
		{"endpoint hashkv --cluster", `^(http://ADDRESS, HASH, 2\n){3}$`, true},
		{"endpoint hashkv --rev 2", `^(ADDRESS, HASH, 2\n){3}$`, true},
		{"endpoint hashkv --rev 99", `required revision is a future revision`, false},
		{"defrag --cluster", `^(Finished defragmenting etcd member\[http://ADDRESS\]\. took T\n){3}$`, true},
		{"member add kv-3 --peer-urls http://kv-3:2380", `scale the StatefulSet up`, false},
		{"member add kv-3 --learner --peer-urls http://kv-3:2380", `scale the StatefulSet up`, false},
		{"member remove " + member, `scale the StatefulSet down`, false},
		{"member update " + member + " --peer-urls http://x:1", `found by its name`, false},
		{"member promote " + member, `can only promote a learner member`, false},
		{"downgrade enable 3.6", `roll the StatefulSet back`, false},
		{"downgrade validate 3.6", `roll the StatefulSet back`, false},
		{"move-leader 1234", `bad leader transferee`, false},
	} {
		got, ok := c.run(op.line, "")
		if got = normal(got); ok != op.ok || !regexp.MustCompile(op.want).MatchString(got) {
			t.Errorf("etcdctl %s (%v)\n%s", op.line, ok, got)
		}
	}
	hashes := regexp.MustCompile(`, (\d+), 2`).FindAllStringSubmatch(c.must("endpoint hashkv"), -1)
	if len(hashes) != 3 || hashes[0][1] != hashes[1][1] || hashes[1][1] != hashes[2][1] {
		t.Errorf("the pods' hashes are %v", hashes)
	}
}

func TestEtcdctlMoveLeader(t *testing.T) {
	pods := servers.Baton(t, 3)
	c := etcdctl(t, pods)
	for range 3 {
		master := pods.AwaitMaster(t)
		for line := range strings.Lines(c.must("member list")) {
			fields := strings.Split(line, ", ")
			if fields[2] == master.Name {
				continue
			}
			c.must("move-leader " + fields[0])
			if now := pods.AwaitMaster(t); now.Name != fields[2] {
				t.Fatalf("%s leads after the move to %s", now.Name, fields[2])
			}
			break
		}
	}
}

// TestEtcdctlBackup: a backup made with etcdctl is one of Baton's.
func TestEtcdctlBackup(t *testing.T) {
	pods := servers.Baton(t, 3)
	c := etcdctl(t, pods)
	c.must("put a kept")
	file := filepath.Join(t.TempDir(), "backup.db")
	if out := c.at(pods.Pods[1]).must("snapshot save " + file); !strings.Contains(out, "Snapshot saved at") {
		t.Errorf("snapshot save printed %s", out)
	}
	if out := servers.Kvctl(t, "snapshot", "verify", file); !strings.Contains(out, "is whole: revisions 1 to 2") {
		t.Errorf("verify printed %s", out)
	}
	dir := filepath.Join(t.TempDir(), "kv-0")
	servers.Kvctl(t, "snapshot", "restore", file, "--data-dir", dir)
	restored := servers.Baton(t, 1, "--data-dir", dir)
	if got := etcdctl(t, restored).must("get a --print-value-only"); got != "kept\n" {
		t.Errorf("restored a = %q", got)
	}
}

// TestEtcdctlStreams: commands that go on until they are interrupted, through
// the death of the master.
func TestEtcdctlStreams(t *testing.T) {
	pods := servers.Baton(t, 3)
	c := etcdctl(t, pods)
	watch := c.start("watch a --prefix --prev-kv")
	elect := c.start("elect presidency me")
	lock := c.start("lock mutex")
	lease := regexp.MustCompile(`lease ([0-9a-f]+) granted`).FindStringSubmatch(c.must("lease grant 5"))[1]
	alive := c.start("lease keep-alive " + lease)
	elect.await("me\n")
	lock.await("mutex/")
	alive.await("keepalived")
	watch.settle(func() { c.must("put a0 before") }, "before\n")

	cluster.Kill(pods.AwaitMaster(t))
	c.must("--command-timeout 30s put leased x --lease " + lease)
	c.must("--command-timeout 30s put a1 after")
	watch.await("PUT\na1\nafter\n")
	time.Sleep(8 * time.Second) // Longer than the lease without keep-alives.
	if got := c.must("get leased --print-value-only"); got != "x\n" {
		t.Errorf("the lease that is kept alive ended: leased = %q", got)
	}
	if got := c.must("get mutex/ --prefix --count-only -w fields"); !strings.Contains(got, `"Count" : 1`) {
		t.Errorf("the lock's key: %s", got)
	}
	lock.interrupt()
	elect.interrupt()
	if got := c.must("lock mutex echo held"); got != "held\n" {
		t.Errorf("lock after its release printed %q", got)
	}
}

// output takes what a running process prints, and can be read meanwhile.
type output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// stream is an etcdctl that runs until it is interrupted.
type stream struct {
	c         ctl
	line      string
	output    *output
	interrupt func()
}

func (c ctl) start(line string) *stream {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	command, _ := c.command(ctx, line, "")
	s := &stream{c: c, line: line, output: &output{}}
	command.Stdin = nil
	command.Stdout, command.Stderr = s.output, s.output
	if err := command.Start(); err != nil {
		cancel()
		c.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	s.interrupt = func() {
		_ = command.Process.Signal(syscall.SIGINT)
		select {
		case <-ended:
			ended <- nil
		case <-time.After(10 * time.Second):
			c.t.Errorf("etcdctl %s does not end when it is interrupted", line)
		}
	}
	c.t.Cleanup(func() { cancel(); <-ended })
	return s
}

// await returns when the text was printed.
func (s *stream) await(text string) {
	s.c.t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !strings.Contains(s.output.String(), text); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.c.t.Fatalf("etcdctl %s printed no %q in %s", s.line, text, s.output)
		}
	}
}

// settle repeats what makes it print the text, for it may not listen yet.
func (s *stream) settle(cause func(), text string) {
	s.c.t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !strings.Contains(s.output.String(), text); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.c.t.Fatalf("etcdctl %s printed no %q in %s", s.line, text, s.output)
		}
		cause()
	}
}
