package simulate

import (
	"context"
	"fmt"
	"time"

	"github.com/batondb/baton/test/workload"
)

// The faults of this file are put together of several: chance alone takes long to
// find what they find.

// oneDisk has writes confirmed by one follower while the master's disk is late and
// all other pods are cut off, cuts the master's power, and keeps that follower
// away: whoever leads next must have those writes all the same, or they were not
// to be confirmed.
func oneDisk(ctx context.Context, n *nemesis) {
	if !n.becomesWhole(ctx) {
		return
	}
	m := n.master(ctx)
	var quick *machine
	for _, other := range n.pods[:n.controller.size()] {
		if other != m && (quick == nil || n.rng.IntN(2) == 0) {
			quick = other
		}
	}
	until := time.Now().Add(5 * time.Second)
	n.withDisk(m, func(d *Disk) { d.hung = until })
	for _, other := range n.pods {
		if other != m && other != quick {
			n.network.Cut(m.name, other.name)
		}
	}
	n.burst(ctx, m)
	n.kill(m, true)
	n.isolate(quick)
	_ = workload.Pause(ctx, n.between(2*time.Second, 10*time.Second))
}

// tail gives a master entries that nobody else has, ends it, and has another one
// elected whose first sync is slow; so that it comes back to a master that is a
// step ahead of its own disk.
func tail(ctx context.Context, n *nemesis) {
	m := n.master(ctx)
	next := n.any() // Mostly whoever is elected: the lowest ordinal that lives.
	for _, other := range n.pods {
		if other != m && n.rng.IntN(5) > 0 {
			next = other
			break
		}
	}
	n.isolate(m)
	n.burst(ctx, m)
	n.kill(m, false)
	until := time.Now().Add(n.between(50*time.Millisecond, 200*time.Millisecond))
	n.withDisk(next, func(d *Disk) { d.hung = until })
	n.network.Heal()
	_ = workload.Pause(ctx, n.between(time.Second, 8*time.Second))
}

// tailAfterClone has a pod that has just cloned taken in by a master that is cut
// off from all others: the first entry of its log is one that is never committed,
// and whoever leads next finds it so. It does not count for that master either.
func tailAfterClone(ctx context.Context, n *nemesis) {
	if !n.becomesWhole(ctx) {
		return
	}
	leader := n.newestMaster(ctx)
	if leader == nil {
		return
	}
	m := n.newcomer(leader)
	if m == nil {
		return
	}
	for started := false; !started; started = m.process.Load().running() {
		if workload.Pause(ctx, 5*time.Millisecond) != nil {
			return
		}
	}
	if n.rng.IntN(2) == 0 { // Or at once, so that not even its entry is committed.
		_ = workload.Pause(ctx, n.between(0, 400*time.Millisecond))
	}
	for _, other := range n.pods {
		if other != leader && other != m {
			n.cut(leader.name, other.name)
		}
	}
	n.burst(ctx, leader)
	n.askReplaced(ctx, leader)
	if n.rng.IntN(2) == 0 {
		n.kill(leader, false)
	}
	n.network.Heal()
	_ = workload.Pause(ctx, n.between(5*time.Second, 20*time.Second))
}

// newcomer is a pod that begins without data: mostly one more than there are, so
// that the others can elect without it and a master that is cut off.
func (n *nemesis) newcomer(leader *machine) *machine {
	if size := n.controller.size(); size < maxPods && n.rng.IntN(4) > 0 {
		n.lock()
		defer n.unlock()
		m := n.pods[size]
		if m.process.Load().running() {
			return nil // It has yet to leave.
		}
		m.wipe()
		n.controller.scale(size + 1)
		return m
	}
	m := n.any()
	if m == leader {
		return nil
	}
	n.losing(m)
	return m
}

// askReplaced reads from a pod that is cut off, again and again, while the others
// elect and take writes: it must not answer from before them.
func (n *nemesis) askReplaced(ctx context.Context, m *machine) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	n.zombies.Go(func() {
		rng := source(n.Seed, fmt.Sprint("asks ", time.Since(n.began)))
		for workload.Pause(ctx, 50*time.Millisecond) == nil {
			if other := n.pods[rng.IntN(n.controller.size())]; other != m && other.process.Load().running() {
				_ = n.load.Burst(ctx, other.number, 1)
			}
		}
	})
	if err := n.load.Ask(ctx, m.number); err != nil {
		n.fail("harness", "%v", err)
	}
}

// voteTwice has one voter between pods that do not hear each other, ends it when
// it has made one of them the master, and has it asked by another one in the same
// term: it must know that it voted. The first one's disk is late, so that its
// first entry does not tell the voter.
func voteTwice(ctx context.Context, n *nemesis) {
	if !n.becomesWhole(ctx) {
		return
	}
	voter := n.any()
	old := n.newestMaster(ctx)
	if old == nil || old == voter {
		return
	}
	until := time.Now().Add(5 * time.Second)
	for _, a := range n.pods {
		if a == voter {
			continue
		}
		n.withDisk(a, func(d *Disk) { d.hung = until })
		for _, b := range n.pods[:a.number] {
			if b != voter {
				n.cut(a.name, b.name)
			}
		}
	}
	n.cut(old.name, voter.name)
	if elected := n.takesOver(ctx, old, until); elected != nil && elected != voter {
		n.log("%s has made %s the master", voter.name, elected.name)
		n.cut(elected.name, voter.name)
		n.network.Mend(old.name, voter.name)
		n.restart(voter)
		n.burst(ctx, elected)
		_ = workload.Pause(ctx, n.between(2*time.Second, 8*time.Second))
	}
	n.network.Heal()
	_ = workload.Pause(ctx, n.between(time.Second, 8*time.Second))
}

// takesOver waits for a pod that has been elected, and has not stored that yet.
func (n *nemesis) takesOver(ctx context.Context, old *machine, until time.Time) *machine {
	for time.Now().Before(until) && workload.Pause(ctx, 20*time.Millisecond) == nil {
		for _, m := range n.pods {
			if m != old && n.status(ctx, m).GetNotReadyBecause() == "it takes over" {
				return m
			}
		}
	}
	return nil
}
