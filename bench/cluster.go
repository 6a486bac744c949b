package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/batondb/baton/test/cluster"
)

const (
	podCount = 3
	// startTimeout is what a cluster gets to accept its first write, also with
	// a million keys to read.
	startTimeout = 2 * time.Minute
)

// Cluster is three pods of one system. Not for several goroutines, but Dial.
type Cluster struct {
	System System
	Pods   []*cluster.Pod
	dir    string
	// security is the zero value without -secure.
	security security
}

// startCluster starts three pods on empty disks under dir, and returns when
// every pod serves.
func startCluster(ctx context.Context, system System, dir string, secure bool) (*Cluster, error) {
	c := &Cluster{System: system, dir: filepath.Join(dir, system.Name())}
	if err := errors.Join(c.Remove(), os.MkdirAll(c.dir, 0o700)); err != nil {
		return nil, err
	}
	if secure {
		var err error
		if c.security, err = newSecurity(c.dir); err != nil {
			return nil, err
		}
	}
	for i := range podCount {
		pod, err := cluster.NewPod(c.dir, "kv-"+strconv.Itoa(i))
		if err != nil {
			return nil, err
		}
		pod.TLS, pod.Env = c.security.tls, c.security.environment()
		c.Pods = append(c.Pods, pod)
	}
	if err := cluster.Certify(c.dir, c.Pods...); err != nil {
		return nil, err
	}
	for i, pod := range c.Pods {
		pod.Command = system.Command(c.Pods, i)
	}
	if err := c.StartAll(); err != nil {
		return nil, err
	}
	err := c.WaitServing(ctx)
	if err == nil && secure {
		err = c.logIn(ctx)
	}
	if err != nil {
		err = c.explain(err)
		c.KillAll()
		return nil, err
	}
	return c, nil
}

// StartAll starts every pod and returns at once; when one cannot be started,
// none runs.
func (c *Cluster) StartAll() error {
	for _, pod := range c.Pods {
		if err := pod.Start(); err != nil {
			c.KillAll()
			return err
		}
	}
	return nil
}

// KillAll is kill -9 of every pod at one time. What they wrote stays, until
// Remove.
func (c *Cluster) KillAll() { cluster.Kill(c.Pods...) }

// Remove deletes the pods' data.
func (c *Cluster) Remove() error {
	return os.RemoveAll(c.dir)
}

// Dial opens one connection to a pod.
func (c *Cluster) Dial(i int) (Client, func(), error) {
	conn, err := cluster.DialTLS(c.Pods[i].Client, c.security.tls, c.security.options()...)
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

// DialLeader opens n connections to the pod that leads.
func (c *Cluster) DialLeader(ctx context.Context, n int) ([]Client, func(), error) {
	leader, err := c.Leader(ctx)
	if err != nil {
		return nil, nil, err
	}
	return c.DialMany(n, leader)
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
		case <-c.Pods[i].Ended():
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
