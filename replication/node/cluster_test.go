package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/machinetest"
	"github.com/batondb/baton/test/oracle"
)

// patient is how long a test waits for a state.
const patient = 20 * time.Second

// cluster is pods in this process, over a network with faults.
type cluster struct {
	t    testing.TB
	net  *network
	pods map[string]*pod
	list []string
	// applied compares what the pods apply.
	applied *oracle.Log
	// adjust changes a pod's options before it starts.
	adjust func(*replication.Options)
	// idle pods apply nothing.
	idle bool
}

type pod struct {
	c       *cluster
	name    string
	dir     string
	node    *Node
	machine *machinetest.Machine
	cancel  context.CancelFunc
	started chan error
}

func newCluster(t testing.TB, size int) *cluster {
	c := &cluster{t: t, net: newNetwork(), pods: map[string]*pod{}}
	c.newHistory()
	base := t.TempDir()
	for i := range size {
		name := fmt.Sprintf("kv-%d", i)
		c.list = append(c.list, name)
		c.pods[name] = &pod{c: c, name: name, dir: filepath.Join(base, name)}
	}
	t.Cleanup(func() {
		c.net.heal()
		for _, p := range c.pods {
			p.kill()
		}
	})
	return c
}

// newHistory says that the pods that start from now on know nothing of before.
func (c *cluster) newHistory() { c.applied = oracle.New(func(err error) { c.t.Error(err) }) }

func logger(t testing.TB, name string) *slog.Logger {
	if os.Getenv("BATON_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("pod", name)
}

func (p *pod) options() replication.Options {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.c.t.Fatal(err)
	}
	p.c.net.change(func() { p.c.net.addrs[p.name] = l.Addr().String() })
	o := replication.Options{
		Dir: p.dir, Name: p.name, Peers: p.c.list, Listener: l,
		Resolver: p.c.net.resolve, Dial: p.c.net.dialer(p.name),
		Receive: machinetest.Receive(p.dir),
		Logger:  logger(p.c.t, p.name),
		Timing:  replication.Timing{Retry: 50 * time.Millisecond},
	}
	if _, measured := p.c.t.(*testing.B); !measured {
		o.Observe = p.c.applied.Observe(p.name)
	}
	if p.c.adjust != nil {
		p.c.adjust(&o)
	}
	return o
}

// start opens the pod and lets it arrive in the background.
func (p *pod) start() {
	p.c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.started = cancel, make(chan error, 1)
	node, err := Open(ctx, p.options())
	if err != nil {
		p.c.t.Fatalf("open %s: %v", p.name, err)
	}
	p.node = node
	go func() {
		err := node.Arrive(ctx)
		if err == nil {
			m := machinetest.Open(p.c.t, p.dir)
			p.machine = m
			var sm replication.StateMachine = m
			if p.c.idle {
				sm = &idleMachine{Machine: machinetest.Machine{T: m.T, Path: m.Path, State: m.State, Disk: m.Disk, Saved: m.Saved}}
			}
			err = node.Start(sm)
		}
		p.started <- err
		close(p.started)
	}()
}

func (p *pod) awaitStart() {
	p.c.t.Helper()
	select {
	case err := <-p.started:
		if err != nil {
			p.c.t.Fatalf("start %s: %v", p.name, err)
		}
	case <-time.After(patient):
		p.c.t.Fatalf("%s does not start: %+v", p.name, p.node.Status())
	}
}

// kill ends the pod without handing anything over. The state machine forgets
// what was not flushed.
func (p *pod) kill() {
	if p.node == nil {
		return
	}
	p.cancel()
	<-p.started
	p.node.port.Close()
	if e := p.node.engine.Load(); e != nil {
		e.replica.Transport.CloseStreams()
	}
	if err := p.node.teardown(p.node.engine.Load()); err != nil {
		p.c.t.Errorf("end %s: %v", p.name, err)
	}
	p.c.net.change(func() { delete(p.c.net.addrs, p.name) })
	p.node = nil
}

// close ends a pod in order, as kvd does.
func (p *pod) close(ctx context.Context) {
	p.c.t.Helper()
	p.cancel()
	<-p.started
	if p.node.IsMaster() {
		if _, err := p.node.HandOver(ctx, ""); err != nil {
			p.c.t.Logf("%s hands nothing over: %v", p.name, err)
		}
	}
	if err := p.node.Close(ctx); err != nil {
		p.c.t.Errorf("close %s: %v", p.name, err)
	}
	p.node = nil
}

// wipe is a lost volume.
func (p *pod) wipe() {
	if err := os.RemoveAll(p.dir); err != nil {
		p.c.t.Fatal(err)
	}
}

// boot starts all pods and waits until all are ready voters.
func (c *cluster) boot() *cluster {
	c.t.Helper()
	for _, name := range c.list {
		c.pods[name].start()
	}
	for _, name := range c.list {
		c.pods[name].awaitStart()
	}
	c.awaitReady()
	return c
}

func (c *cluster) awaitReady() {
	c.t.Helper()
	c.eventually("every pod that runs is ready", func() error {
		for _, name := range c.list {
			p := c.pods[name]
			if p.node == nil {
				continue
			}
			if s := p.node.Status(); !s.Ready {
				return fmt.Errorf("%s: %s", name, s.Because)
			}
		}
		return nil
	})
}

func (c *cluster) eventually(what string, f func() error) {
	c.t.Helper()
	deadline := time.Now().Add(patient)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("not in time: %s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// master waits for the master among pods that are not excluded.
func (c *cluster) master(except ...string) *pod {
	c.t.Helper()
	var found *pod
	c.eventually("there is a master", func() error {
	pods:
		for _, p := range c.pods {
			for _, e := range except {
				if p.name == e {
					continue pods
				}
			}
			if p.node != nil && p.node.IsMaster() {
				found = p
				return nil
			}
		}
		return errors.New("no pod is")
	})
	return found
}

func (c *cluster) follower() *pod { return c.followers()[0] }

func (c *cluster) followers() []*pod {
	c.t.Helper()
	m := c.master()
	var all []*pod
	for _, name := range c.list {
		if p := c.pods[name]; p != m && p.node != nil {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		c.t.Fatal("no follower")
	}
	return all
}

func (p *pod) put(key, value string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	r, err := p.node.Propose(ctx, machinetest.PutCommand(key, value))
	if err == nil && r.GetPut() == nil {
		err = fmt.Errorf("a result of another kind: %v", r)
	}
	return err
}

// mustPut repeats a write of unknown outcome: a busy machine may hold an
// election at any time.
func (p *pod) mustPut(key, value string) {
	p.c.t.Helper()
	err := p.put(key, value)
	for errors.Is(err, replication.ErrUnknown) {
		err = p.put(key, value)
	}
	if err != nil {
		p.c.t.Fatalf("put on %s: %v", p.name, err)
	}
}

func (p *pod) mustRead(key, want string) {
	p.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	if err := p.node.LinearizableRead(ctx); err != nil {
		p.c.t.Fatalf("read on %s: %v", p.name, err)
	}
	if got, _ := p.machine.Get(key); got != want {
		p.c.t.Fatalf("%s on %s is %q, want %q", key, p.name, got, want)
	}
}

func TestThreePods(t *testing.T) {
	c := newCluster(t, 3).boot()
	for i, name := range c.list {
		c.pods[name].mustPut("k", fmt.Sprint(i))
		for _, other := range c.list {
			c.pods[other].mustRead("k", fmt.Sprint(i))
		}
	}
	id := c.pods["kv-0"].node.ClusterID()
	for _, name := range c.list {
		n := c.pods[name].node
		if n.ClusterID() != id || len(n.Members()) != 3 {
			t.Errorf("%s: cluster %s, members %v", name, n.ClusterID(), n.Members())
		}
	}
}

func TestOnlyTheMasterProposesAsMaster(t *testing.T) {
	c := newCluster(t, 3).boot()
	for _, name := range c.list {
		n := c.pods[name].node
		_, err := n.ProposeAsMaster(t.Context(), machinetest.PutCommand("only", name))
		if n.IsMaster() && err != nil || !n.IsMaster() && !errors.Is(err, replication.ErrNoMaster) {
			t.Errorf("%s, master %t: %v", name, n.IsMaster(), err)
		}
	}
	master, _ := c.pods["kv-0"].node.Master()
	c.pods["kv-0"].mustRead("only", master)
}
