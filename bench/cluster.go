package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	podCount = 3
	// firstPort is the first of podCount*3 ports in a row on 127.0.0.1. They are
	// below those that the kernel gives to outgoing connections (from 32768):
	// one of the callers' own would sometimes sit on the port of a killed pod.
	firstPort = 23400
	// startTimeout is what a cluster gets to accept its first write, also with
	// a million keys to read.
	startTimeout = 2 * time.Minute
)

// Pod is one server: its name, its data and its addresses.
type Pod struct {
	Name, Dir, Client, Peer, HTTP string
}

// Cluster is three pods of one system. Not for several goroutines, but Dial.
type Cluster struct {
	System    System
	Pods      []Pod
	dir       string
	processes [podCount]*Process
}

// startCluster starts three pods on empty disks under dir, and returns when
// every pod serves.
func startCluster(ctx context.Context, system System, dir string) (*Cluster, error) {
	dir = filepath.Join(dir, system.Name())
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	c := &Cluster{System: system, dir: dir}
	for i := range podCount {
		port := firstPort + 3*i
		name := "kv-" + strconv.Itoa(i)
		pod := Pod{Name: name, Dir: filepath.Join(dir, name), Client: loopback(port), Peer: loopback(port + 1), HTTP: loopback(port + 2)}
		if err := os.MkdirAll(pod.Dir, 0o700); err != nil {
			return nil, err
		}
		if err := mustBeFree(pod.Client, pod.Peer, pod.HTTP); err != nil {
			return nil, err
		}
		c.Pods = append(c.Pods, pod)
	}
	if err := c.StartAll(); err != nil {
		return nil, err
	}
	if err := c.WaitServing(ctx); err != nil {
		err = c.explain(err)
		c.KillAll()
		return nil, err
	}
	return c, nil
}

// StartAll starts every pod and returns at once; when one cannot be started,
// none runs.
func (c *Cluster) StartAll() error {
	for i := range c.Pods {
		if err := c.StartPod(i); err != nil {
			kill(c.processes[:i]...)
			return err
		}
	}
	return nil
}

// mustBeFree refuses to measure, and to write to, what somebody else runs.
func mustBeFree(addresses ...string) error {
	for _, address := range addresses {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("a port that the pods need is taken: %w", err)
		}
		listener.Close()
	}
	return nil
}

func loopback(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// StartPod starts the process of one pod and returns at once.
func (c *Cluster) StartPod(i int) error {
	p, err := startProcess(c.log(i), c.System.Binary(), c.System.Arguments(c.Pods, i))
	if err != nil {
		return fmt.Errorf("start %s: %w", c.Pods[i].Name, err)
	}
	c.processes[i] = p
	return nil
}

// KillPod is kill -9 of one pod, KillAll of every pod at one time. What they
// wrote stays, until Remove.
func (c *Cluster) KillPod(i int) { kill(c.processes[i]) }
func (c *Cluster) KillAll()      { kill(c.processes[:]...) }

// Remove deletes the pods' data.
func (c *Cluster) Remove() error {
	return os.RemoveAll(c.dir)
}

// Dial opens one connection to a pod. It reconnects quickly, because a pod that
// was killed comes back at once here.
func (c *Cluster) Dial(i int) (Client, func(), error) {
	conn, err := grpc.NewClient("passthrough:///"+c.Pods[i].Client,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, MaxDelay: 50 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, nil, err
	}
	return c.System.Client(conn), func() { conn.Close() }, nil
}

// DialMany opens n connections, spread over the given pods.
func (c *Cluster) DialMany(n int, pods ...int) ([]Client, func(), error) {
	var clients []Client
	var closers []func()
	closeAll := func() {
		for _, f := range closers {
			f()
		}
	}
	for i := range n {
		client, closer, err := c.Dial(pods[i%len(pods)])
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		clients, closers = append(clients, client), append(closers, closer)
	}
	return clients, closeAll, nil
}

// Leader is the pod that leads.
func (c *Cluster) Leader(ctx context.Context) (int, error) {
	clients, closeAll, err := c.DialMany(podCount, 0, 1, 2)
	if err != nil {
		return 0, err
	}
	defer closeAll()
	for {
		for i, client := range clients {
			call, cancel := context.WithTimeout(ctx, time.Second)
			leads, err := client.Leads(call)
			cancel()
			if err == nil && leads {
				return i, nil
			}
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return 0, fmt.Errorf("no pod leads: %w", err)
		}
	}
}

// WaitServing returns when a write is accepted and every pod answers a
// linearizable read, which means that it has caught up.
func (c *Cluster) WaitServing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if _, err := c.FirstWrite(ctx); err != nil {
		return err
	}
	for i := range c.Pods {
		client, closer, err := c.Dial(i)
		if err != nil {
			return err
		}
		err = retry(c.whileRunning(ctx, i), func(ctx context.Context) error {
			_, err := client.Get(ctx, []byte("bench-probe"))
			return err
		})
		closer()
		if err != nil {
			return fmt.Errorf("%s does not serve: %w", c.Pods[i].Name, err)
		}
	}
	return nil
}

// whileRunning ends when a pod's process does: nobody waits for it then.
func (c *Cluster) whileRunning(ctx context.Context, i int) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-c.processes[i].ended:
			cancel(errors.New("its process has ended"))
		case <-ctx.Done():
			cancel(nil)
		}
	}()
	return ctx
}

// FirstWrite tries to write on every pod at once, and returns when the first
// write was accepted.
func (c *Cluster) FirstWrite(ctx context.Context) (time.Time, error) {
	clients, closeAll, err := c.DialMany(podCount, 0, 1, 2)
	if err != nil {
		return time.Time{}, err
	}
	defer closeAll()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		at  time.Time
		err error
	}
	outcomes := make(chan outcome, len(clients))
	for _, client := range clients {
		go func() {
			err := retry(ctx, func(ctx context.Context) error {
				return client.Put(ctx, []byte("bench-probe"), []byte("probe"))
			})
			outcomes <- outcome{time.Now(), err}
		}()
	}
	first := <-outcomes
	cancel()
	for range len(clients) - 1 {
		<-outcomes
	}
	return first.at, first.err
}

// retry calls f, each time for at most a second, until it succeeds.
func retry(ctx context.Context, f func(context.Context) error) error {
	for {
		call, cancel := context.WithTimeout(ctx, time.Second)
		err := f(call)
		cancel()
		if err == nil {
			return nil
		}
		if pause(ctx, 5*time.Millisecond) != nil {
			return fmt.Errorf("%w; the last try: %w", context.Cause(ctx), err)
		}
	}
}

// pause sleeps, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
