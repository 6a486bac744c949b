package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/workload"
)

// Fault is one way to break things. Run does the damage, holds it for a time
// that it draws, and undoes it; what the cluster needs to get well again is its
// own matter. An error is a violation: something that must work did not.
type Fault struct {
	Name   string
	Weight int
	Run    func(ctx context.Context, n *nemesis) error
}

// faults is the table. To add a fault, add a row.
var faults = []Fault{
	{"kill a pod", 6, func(ctx context.Context, n *nemesis) error { return n.kill(ctx, n.any()) }},
	{"kill the master", 8, func(ctx context.Context, n *nemesis) error { return n.kill(ctx, n.master(ctx)) }},
	{"kill two", 3, func(ctx context.Context, n *nemesis) error { return n.kill(ctx, n.some(2)...) }},
	{"kill all", 4, func(ctx context.Context, n *nemesis) error { return n.kill(ctx, n.cluster.Pods...) }},
	{"kill the master again and again", 2, killAgain},
	{"pause a pod", 5, func(ctx context.Context, n *nemesis) error { return n.freeze(ctx, n.any()) }},
	{"pause the master", 7, func(ctx context.Context, n *nemesis) error { return n.freeze(ctx, n.master(ctx)) }},
	{"pause two", 2, func(ctx context.Context, n *nemesis) error { return n.freeze(ctx, n.some(2)...) }},
	{"restart a pod", 4, func(ctx context.Context, n *nemesis) error { return n.restart(ctx, n.any()) }},
	{"restart the master", 4, func(ctx context.Context, n *nemesis) error { return n.restart(ctx, n.master(ctx)) }},
	{"roll", 2, roll},
	{"cut the master off", 6, func(ctx context.Context, n *nemesis) error { return n.isolate(ctx, n.master(ctx), true, true) }},
	{"cut a pod off", 4, func(ctx context.Context, n *nemesis) error { return n.isolate(ctx, n.any(), true, true) }},
	{"the master cannot be heard", 4, func(ctx context.Context, n *nemesis) error { return n.isolate(ctx, n.master(ctx), true, false) }},
	{"the master cannot hear", 4, func(ctx context.Context, n *nemesis) error { return n.isolate(ctx, n.master(ctx), false, true) }},
	{"a pod cannot be heard", 2, func(ctx context.Context, n *nemesis) error { return n.isolate(ctx, n.any(), true, false) }},
	{"a pod cannot hear", 2, func(ctx context.Context, n *nemesis) error { return n.isolate(ctx, n.any(), false, true) }},
	{"cut one pair", 3, cutPair},
	{"split in three", 3, split},
	{"slow links", 4, func(ctx context.Context, n *nemesis) error { return n.slow(ctx, n.places()...) }},
	{"slow links of a pod", 3, func(ctx context.Context, n *nemesis) error { return n.slow(ctx, n.any().Name) }},
	{"late requests", 5, late},
	{"narrow links", 2, narrow},
	{"resets", 4, resets},
	{"hand over", 6, handOver},
	{"wipe a pod", 4, func(ctx context.Context, n *nemesis) error { return n.wipe(ctx, n.any(), nil) }},
	{"wipe the master", 2, func(ctx context.Context, n *nemesis) error { return n.wipe(ctx, n.master(ctx), nil) }},
	{"wipe one and kill another", 3, wipeAndKill},
	{"compact", 4, compact},
	{"snapshot", 3, snapshot},
}

// readyTimeout is the promise: all pods ready again with no human.
const readyTimeout = 60 * time.Second

func (n *nemesis) kill(ctx context.Context, pods ...*Pod) error {
	n.note("kill %s", names(pods))
	n.cluster.Kill(pods...)
	return n.startAll(ctx, pods, 1500*time.Millisecond)
}

// startAll starts pods in some order, with pauses.
func (n *nemesis) startAll(ctx context.Context, pods []*Pod, within time.Duration) error {
	var err error
	for _, i := range n.rng.Perm(len(pods)) {
		_ = workload.Pause(ctx, n.upTo(within))
		err = errors.Join(err, n.cluster.Start(pods[i]))
	}
	return err
}

func killAgain(ctx context.Context, n *nemesis) error {
	for range 2 + n.rng.IntN(3) {
		if err := n.kill(ctx, n.master(ctx)); err != nil {
			return err
		}
		_ = workload.Pause(ctx, n.between(100*time.Millisecond, 1200*time.Millisecond))
	}
	return nil
}

func (n *nemesis) freeze(ctx context.Context, pods ...*Pod) error {
	d := n.between(100*time.Millisecond, 3*time.Second)
	n.note("pause %s for %v", names(pods), d)
	for _, p := range pods {
		_ = p.Pause() // An error: it has ended.
	}
	_ = workload.Pause(ctx, d)
	for _, p := range pods {
		_ = p.Resume()
	}
	return nil
}

func (n *nemesis) restart(ctx context.Context, p *Pod) error {
	n.note("restart %s", p.Name)
	err := n.cluster.Stop(p)
	_ = workload.Pause(ctx, n.upTo(time.Second))
	return errors.Join(err, n.cluster.Start(p))
}

// roll is a rolling update: from the highest ordinal down, each when the one
// before is ready.
func roll(ctx context.Context, n *nemesis) error {
	n.note("roll")
	for i := len(n.cluster.Pods) - 1; i >= 0; i-- {
		if err := n.cluster.WaitReady(ctx, readyTimeout); err != nil {
			return n.unlessOver(ctx, err)
		}
		p := n.cluster.Pods[i]
		if err := errors.Join(n.cluster.Stop(p), n.cluster.Start(p)); err != nil {
			return err
		}
	}
	return n.unlessOver(ctx, n.cluster.WaitReady(ctx, readyTimeout))
}

// isolate cuts a pod off from its peers: what it sends, what it hears, or both.
func (n *nemesis) isolate(ctx context.Context, p *Pod, sends, hears bool) error {
	d := n.between(200*time.Millisecond, 4*time.Second)
	n.note("cut %s off for %v: it sends %v, hears %v", p.Name, d, !sends, !hears)
	for _, other := range n.cluster.Pods {
		if other != p {
			n.block(p, other, sends)
			n.block(other, p, hears)
		}
	}
	return n.heal(ctx, d)
}

func (n *nemesis) block(from, to *Pod, blocked bool) {
	n.cluster.Network.Set(from.Name, to.Name, func(c *condition) { c.blocked = blocked })
}

// heal makes the network good after a while. Half of the times connections
// break with it, as they do when a route changes.
func (n *nemesis) heal(ctx context.Context, after time.Duration) error {
	_ = workload.Pause(ctx, after)
	if n.rng.IntN(2) == 0 {
		n.reset(0)
	}
	n.cluster.Network.Heal()
	return nil
}

func (n *nemesis) reset(within int64) {
	for i, p := range n.cluster.Pods {
		for _, q := range n.cluster.Pods[i+1:] {
			n.cluster.Network.Reset(p.Name, q.Name, within)
		}
	}
}

// cutPair leaves a third pod that both can reach.
func cutPair(ctx context.Context, n *nemesis) error {
	pair := n.some(2)
	d := n.between(500*time.Millisecond, 5*time.Second)
	n.note("cut %s for %v", names(pair), d)
	n.block(pair[0], pair[1], true)
	n.block(pair[1], pair[0], true)
	return n.heal(ctx, d)
}

func split(ctx context.Context, n *nemesis) error {
	d := n.between(200*time.Millisecond, 4*time.Second)
	n.note("split in three for %v", d)
	for _, p := range n.cluster.Pods {
		for _, q := range n.cluster.Pods {
			n.block(p, q, p != q)
		}
	}
	return n.heal(ctx, d)
}

// slow delays everything between the pods that touches one of these.
func (n *nemesis) slow(ctx context.Context, pods ...string) error {
	delay, d := n.between(5*time.Millisecond, 50*time.Millisecond), n.between(time.Second, 5*time.Second)
	n.note("slow links of %v by %v for %v", pods, delay, d)
	for _, name := range pods {
		for _, other := range n.cluster.Pods {
			for _, ends := range [][2]string{{name, other.Name}, {other.Name, name}} {
				n.cluster.Network.Set(ends[0], ends[1], func(c *condition) { c.delay, c.jitter = delay, delay })
			}
		}
	}
	return n.heal(ctx, d)
}

// late holds back what clients send to a pod, and what it forwards: clients give
// up and repeat on another pod, and the first request comes after that.
func late(ctx context.Context, n *nemesis) error {
	p, d := n.any(), n.between(2*time.Second, 5*time.Second)
	delay := n.between(300*time.Millisecond, 1500*time.Millisecond)
	n.note("requests to %s come %v late for %v", p.Name, delay, d)
	n.cluster.Network.Set(outside, p.Name, func(c *condition) { c.delay, c.jitter = delay, delay })
	return n.heal(ctx, d)
}

func narrow(ctx context.Context, n *nemesis) error {
	bandwidth, d := 16<<10<<n.rng.IntN(4), n.between(time.Second, 5*time.Second)
	n.note("narrow links: %d bytes a second for %v", bandwidth, d)
	for _, p := range n.cluster.Pods {
		for _, q := range n.cluster.Pods {
			n.cluster.Network.Set(p.Name, q.Name, func(c *condition) { c.bandwidth = bandwidth })
		}
	}
	return n.heal(ctx, d)
}

// resets breaks connections in the middle of what they carry.
func resets(ctx context.Context, n *nemesis) error {
	rounds := 2 + n.rng.IntN(8)
	n.note("%d rounds of resets", rounds)
	for range rounds {
		n.reset(1 + n.rng.Int64N(64<<10))
		if n.rng.IntN(2) == 0 {
			n.cluster.Network.Reset(outside, n.any().Name, 1+n.rng.Int64N(16<<10))
		}
		_ = workload.Pause(ctx, n.upTo(600*time.Millisecond))
	}
	return nil
}

func handOver(ctx context.Context, n *nemesis) error {
	to := ""
	if n.rng.IntN(2) == 0 {
		to = n.any().Name
	}
	asked := n.any()
	n.note("hand over to %q, asked of %s", to, asked.Name)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	response, err := kvv1.NewMaintenanceServiceClient(asked.Conn()).HandOver(ctx, &kvv1.HandOverRequest{To: to})
	n.note("the master is %s (%v)", response.GetMaster(), err)
	return nil // It may fail: nobody says that there is a master now.
}

// wipe loses a pod's volume. All others must be voters with their data, so that
// never more than a minority has lost it.
func (n *nemesis) wipe(ctx context.Context, p *Pod, also *Pod) error {
	if err := n.cluster.WaitReady(ctx, readyTimeout); err != nil {
		return n.unlessOver(ctx, err)
	}
	victims := []*Pod{p}
	if also != nil {
		victims = append(victims, also)
	}
	n.note("wipe %s, kill %s", p.Name, names(victims))
	n.cluster.Kill(victims...)
	if err := errors.Join(p.Wipe(), n.cluster.Start(p)); err != nil {
		return err
	}
	if also != nil {
		_ = workload.Pause(ctx, n.between(500*time.Millisecond, 3*time.Second))
		if err := n.cluster.Start(also); err != nil {
			return err
		}
	}
	if n.rng.IntN(3) == 0 { // Interrupted in the middle of its clone.
		_ = workload.Pause(ctx, n.upTo(700*time.Millisecond))
		n.note("kill %s", p.Name)
		n.cluster.Kill(p)
		if err := n.cluster.Start(p); err != nil {
			return err
		}
	}
	return n.unlessOver(ctx, n.cluster.WaitReady(ctx, readyTimeout))
}

// wipeAndKill wipes a pod and kills another, after the third one lagged: what
// was acknowledged by the first two is on no running disk but the second's, and
// the wiped one and the laggard must not elect.
func wipeAndKill(ctx context.Context, n *nemesis) error {
	if err := n.cluster.WaitReady(ctx, readyTimeout); err != nil {
		return n.unlessOver(ctx, err)
	}
	pods := n.some(3)
	d := n.between(0, time.Second)
	n.note("%s lags for %v", pods[0].Name, d)
	for _, other := range pods[1:] {
		n.block(pods[0], other, true)
		n.block(other, pods[0], true)
	}
	_ = workload.Pause(ctx, d)
	n.note("wipe %s, kill %s", pods[1].Name, names(pods[1:]))
	n.cluster.Kill(pods[1:]...)
	n.cluster.Network.Heal()
	if err := errors.Join(pods[1].Wipe(), n.cluster.Start(pods[1])); err != nil {
		return err
	}
	_ = workload.Pause(ctx, n.between(500*time.Millisecond, 3*time.Second))
	if err := n.cluster.Start(pods[2]); err != nil {
		return err
	}
	return n.unlessOver(ctx, n.cluster.WaitReady(ctx, readyTimeout))
}

// compact goes at most as far as the historian has read.
func compact(ctx context.Context, n *nemesis) error {
	revision := n.load.Through() - n.rng.Int64N(200)
	if revision <= 1 {
		return nil
	}
	n.load.Compacted.Store(max(revision, n.load.Compacted.Load()))
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := kvv1.NewMaintenanceServiceClient(n.any().Conn()).Compact(ctx, &kvv1.CompactRequest{Revision: revision})
	n.note("compact to %d: %v", revision, err)
	return nil
}

func snapshot(ctx context.Context, n *nemesis) error {
	p := n.any()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	size := 0
	stream, err := kvv1.NewMaintenanceServiceClient(p.Conn()).Snapshot(ctx, &kvv1.SnapshotRequest{})
	for err == nil {
		var part *kvv1.SnapshotResponse
		part, err = stream.Recv()
		size += len(part.GetChunk())
	}
	n.note("snapshot of %s: %d bytes, %v", p.Name, size, err)
	if errors.Is(err, io.EOF) && size == 0 {
		return fmt.Errorf("an empty snapshot of %s", p.Name)
	}
	return nil
}
