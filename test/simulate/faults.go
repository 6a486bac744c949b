package simulate

import (
	"context"
	"slices"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/workload"
)

// fault is one way to break things. do returns when the fault is over, or leaves
// it to what comes after it: heal undoes all.
type fault struct {
	name   string
	weight int
	do     func(ctx context.Context, n *nemesis)
}

// faults is the table; to add one, add a row.
var faults = []fault{
	{"kill one", 10, func(_ context.Context, n *nemesis) { n.kill(n.any(), false) }},
	{"kill the master", 8, func(ctx context.Context, n *nemesis) { n.kill(n.master(ctx), false) }},
	{"power cut of one", 8, func(_ context.Context, n *nemesis) { n.kill(n.any(), true) }},
	{"power cut of all", 3, func(_ context.Context, n *nemesis) { n.killAll(true) }},
	{"kill all", 3, func(_ context.Context, n *nemesis) { n.killAll(false) }},
	{"killed in a transaction", 6, inTransaction},
	{"delete a pod", 6, deletePod},
	{"cut one off", 8, cutOff},
	{"cut one pair", 6, cutPair},
	{"cut one way", 6, cutOneWay},
	{"refuse one pair", 4, refusePair},
	{"break connections", 6, breakPair},
	{"slow links", 4, slowLinks},
	{"slow disk", 6, slowDisk},
	{"one stalled sync", 6, stalledSync},
	{"hung disk", 2, hungDisk},
	{"full disk", 2, fullDisk},
	{"a pod hangs", 5, hang},
	{"lose a volume", 5, loseVolume},
	{"damage one", 4, func(ctx context.Context, n *nemesis) { damage(ctx, n, 1) }},
	{"damage two", 4, func(ctx context.Context, n *nemesis) { damage(ctx, n, 2) }},
	{"scale", 6, scale},
	{"roll out", 4, rollOut},
	{"names late", 3, func(_ context.Context, n *nemesis) {
		n.names.set(func() { n.names.late = n.between(time.Second, 10*time.Second) })
	}},
	{"names down", 2, namesDown},
	{"API silent", 3, func(ctx context.Context, n *nemesis) {
		n.during(ctx, 30*time.Second, func(on bool) { n.api.set(func() { n.api.silent = on }) })
	}},
	{"API stale", 2, func(ctx context.Context, n *nemesis) {
		n.during(ctx, 10*time.Second, func(on bool) { n.api.set(func() { n.api.stale = on }) })
	}},
	{"hand over", 4, handOver},
	{"compact", 4, compact},
	{"a quorum of one disk", 6, oneDisk},
	{"a tail that nobody has", 8, tail},
	{"a tail after a clone", 8, tailAfterClone},
	{"a vote twice", 6, voteTwice},
	{"an old connection again", 8, again},
	{"recover by mistake", 4, recoverByMistake},
}

func deletePod(_ context.Context, n *nemesis) {
	m := n.any()
	n.zombies.Go(func() { n.controller.stop(m) })
}

func cutOff(ctx context.Context, n *nemesis) {
	m := n.any()
	if n.rng.IntN(2) == 0 {
		m = n.master(ctx)
	}
	n.isolate(m)
	switch n.rng.IntN(3) {
	case 0:
		n.network.Cut("clients", m.name)
	case 1:
		n.askReplaced(ctx, m)
	}
	_ = workload.Pause(ctx, n.between(100*time.Millisecond, 20*time.Second))
}

func cutPair(ctx context.Context, n *nemesis) {
	a, b := n.pair()
	n.cut(a.name, b.name)
	_ = workload.Pause(ctx, n.between(100*time.Millisecond, 20*time.Second))
}

func cutOneWay(ctx context.Context, n *nemesis) {
	a, b := n.pair()
	n.network.Cut(a.name, b.name)
	_ = workload.Pause(ctx, n.between(100*time.Millisecond, 12*time.Second))
}

func refusePair(ctx context.Context, n *nemesis) {
	a, b := n.pair()
	n.network.Refuse(a.name, b.name)
	n.network.Refuse(b.name, a.name)
	n.network.Break(a.name, b.name)
	_ = workload.Pause(ctx, n.between(100*time.Millisecond, 8*time.Second))
}

func breakPair(_ context.Context, n *nemesis) {
	a, b := n.pair()
	other := b.name
	if n.rng.IntN(3) == 0 {
		other = "clients"
	}
	n.network.Break(a.name, other)
}

func slowLinks(_ context.Context, n *nemesis) {
	m := n.any()
	for _, other := range append(n.others(m), "clients") {
		n.network.Slow(m.name, other, n.between(time.Millisecond, 300*time.Millisecond))
		n.network.Slow(other, m.name, n.between(time.Millisecond, 300*time.Millisecond))
	}
}

func slowDisk(ctx context.Context, n *nemesis) {
	m, latency := n.any(), n.between(5*time.Millisecond, 400*time.Millisecond)
	n.withDisk(m, func(d *Disk) { d.latency = latency })
	_ = workload.Pause(ctx, n.between(time.Second, 20*time.Second))
	n.withDisk(m, func(d *Disk) { d.latency = usualLatency })
}

// stalledSync holds one sync of each pod back, as it comes while they elect.
func stalledSync(ctx context.Context, n *nemesis) {
	until := time.Now().Add(n.between(60*time.Millisecond, 2*time.Second))
	for _, m := range n.pods {
		if n.rng.IntN(2) == 0 {
			n.withDisk(m, func(d *Disk) { d.hung = until })
		}
	}
	if n.rng.IntN(2) == 0 {
		n.kill(n.master(ctx), false)
	}
}

func hungDisk(ctx context.Context, n *nemesis) {
	m := n.any()
	until := time.Now().Add(n.between(5*time.Second, 20*time.Second))
	n.withDisk(m, func(d *Disk) { d.hung = until })
	_ = workload.Pause(ctx, time.Until(until))
}

func fullDisk(ctx context.Context, n *nemesis) {
	m := n.any()
	m.full.Store(true)
	_ = workload.Pause(ctx, n.between(2*time.Second, 20*time.Second))
	m.full.Store(false)
}

func loseVolume(ctx context.Context, n *nemesis) {
	if n.becomesWhole(ctx) {
		n.losing(n.any())
	}
}

// damage flips a bit in what some pods have on disk, within the time that a clone
// takes.
func damage(ctx context.Context, n *nemesis, pods int) {
	if !n.becomesWhole(ctx) || 2*pods > n.controller.size() && !n.keepLogs(ctx) {
		return
	}
	n.fragile = true
	first := n.rng.IntN(n.controller.size())
	for i := range pods {
		m := n.pods[(first+i)%n.controller.size()]
		n.lock()
		err := m.damage()
		n.unlock()
		n.log("a bit flips in %s: %v", m.name, err)
		_ = workload.Pause(ctx, n.between(0, 6*time.Second))
	}
	// Somebody has to look: a value that nobody reads is found by nobody.
	for i := range n.controller.size() {
		call, cancel := context.WithTimeout(ctx, time.Second)
		_, err := workload.Copy(call, n.pods[i].name, n.conns[i], 0)
		cancel()
		n.log("reading all of %s: %v", n.pods[i].name, err)
	}
	_ = workload.Pause(ctx, n.between(time.Second, 20*time.Second))
}

// keepLogs starts all pods anew, with logs that are not truncated any more. When the
// majority is damaged, and nobody has read that yet, it goes on without the others
// for as long as they are away. Those have the only copies without damage: they must
// find all that they lack in a log, or a person has to decide what is lost.
func (n *nemesis) keepLogs(ctx context.Context) bool {
	n.logBytes.Store(longLog)
	for _, m := range n.pods[:n.controller.size()] {
		n.restart(m)
	}
	_ = workload.Pause(ctx, 2*controllerTick) // Until it is known again who is ready.
	return n.becomesWhole(ctx)
}

// scale changes the number of pods. Downwards only while all is well, and nothing
// else breaks until they have left: with a cut that outlives their grace, those
// that stay may be no quorum, until a person scales up again.
func scale(ctx context.Context, n *nemesis) {
	to := 1 + n.rng.IntN(maxPods)
	if n.rng.IntN(2) == 0 {
		to = 3
	}
	from := n.controller.size()
	if n.fragile || to < from && n.unwell(ctx) != "" {
		return
	}
	n.log("scale from %d to %d", from, to)
	n.lock()
	n.controller.scale(to)
	n.unlock()
	for range 60 {
		if !n.leaving(to) || workload.Pause(ctx, time.Second) != nil {
			return
		}
	}
}

// leaving says whether a pod runs that should not exist.
func (n *nemesis) leaving(size int) bool {
	return slices.ContainsFunc(n.pods[size:], func(m *machine) bool { return m.process.Load().running() })
}

func rollOut(_ context.Context, n *nemesis) {
	n.lock()
	defer n.unlock()
	n.controller.roll++
}

func namesDown(ctx context.Context, n *nemesis) {
	failing := n.rng.IntN(2) == 0
	n.during(ctx, 30*time.Second, func(on bool) {
		n.names.set(func() { n.names.down, n.names.failing = on && !failing, on && failing })
	})
}

func handOver(ctx context.Context, n *nemesis) {
	m := n.any()
	call, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := kvv1.NewMaintenanceServiceClient(n.conns[m.number]).HandOver(call, &kvv1.HandOverRequest{})
	n.log("hand over through %s: %v", m.name, err)
}

func compact(ctx context.Context, n *nemesis) {
	revision := n.load.Through() - n.rng.Int64N(200)
	if revision < 1 {
		return
	}
	n.load.Compacted.Store(max(revision, n.load.Compacted.Load()))
	call, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := kvv1.NewMaintenanceServiceClient(n.conns[n.any().number]).Compact(call, &kvv1.CompactRequest{Revision: revision})
	n.log("compact to %d: %v", revision, err)
}
