package simulate

import (
	"context"
	"slices"
	"strings"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/workload"
)

// nemesis draws faults and runs them one after the other.
type nemesis struct {
	*simulation
	ran map[string]int
	// fragile: there may be damage that nobody has read yet, so that no pod can do
	// without the others' volumes any more.
	fragile bool
}

func (n *nemesis) run(ctx context.Context) {
	total := 0
	var chosen []fault
	for _, f := range faults {
		if named(f.name, n.Only) {
			chosen = append(chosen, f)
			total += f.weight
		}
	}
	for time.Since(n.began) < n.Length && ctx.Err() == nil && !n.violated() {
		at := n.rng.IntN(total)
		for _, f := range chosen {
			if at -= f.weight; at < 0 {
				n.log("fault: %s", f.name)
				n.ran[f.name]++
				f.do(ctx, n)
				break
			}
		}
		// Sometimes the next one comes into the last one's middle, sometimes all
		// is well first.
		switch n.rng.IntN(4) {
		case 0:
			_ = workload.Pause(ctx, n.between(0, 300*time.Millisecond))
		case 1:
			n.mend(ctx)
		default:
			_ = workload.Pause(ctx, n.between(time.Second, time.Duration(n.pace)*10*time.Second))
		}
	}
}

// named says that a name contains one of some parts, which commas separate.
func named(name, parts string) bool {
	return slices.ContainsFunc(strings.Split(parts, ","), func(part string) bool { return strings.Contains(name, part) })
}

// mend undoes what the network does, and gives the pods time.
func (n *nemesis) mend(ctx context.Context) {
	n.network.Heal()
	_ = workload.Pause(ctx, n.between(5*time.Second, 25*time.Second))
}

func (n *nemesis) between(a, b time.Duration) time.Duration {
	return a + time.Duration(n.rng.Int64N(int64(b-a)))
}

// any is a pod that should exist.
func (n *nemesis) any() *machine { return n.pods[n.rng.IntN(n.controller.size())] }

// pair is two of them; of one pod twice the same.
func (n *nemesis) pair() (a, b *machine) {
	a = n.any()
	for range 10 {
		if b = n.any(); b != a {
			break
		}
	}
	return a, b
}

// master is the pod that says so, or any.
func (n *nemesis) master(ctx context.Context) *machine {
	chance := n.any()
	if found := n.newestMaster(ctx); found != nil {
		return found
	}
	return chance
}

// status is what a pod says of itself; nil: it does not run, or does not answer soon.
func (n *nemesis) status(ctx context.Context, m *machine) *kvv1.PodStatus {
	if !m.process.Load().running() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, own, _ := workload.Status(ctx, m.name, n.conns[m.number])
	return own
}

// newestMaster is nil where no pod says that it is the master.
func (n *nemesis) newestMaster(ctx context.Context) (found *machine) {
	term := uint64(0)
	for _, m := range n.pods {
		own := n.status(ctx, m)
		if own.GetRole() == kvv1.PodStatus_ROLE_MASTER && own.Term > term {
			found, term = m, own.Term
		}
	}
	return found
}

// kill ends a pod's process. A process is started again in its place, as long as
// its pod is not deleted; a machine that lost its power comes back later,
// elsewhere. One that is to leave does not lose it: nobody would make its pod
// again, and with several of them a quorum were gone.
func (n *nemesis) kill(m *machine, power bool) {
	n.lock()
	defer n.unlock()
	power = power && m.number < n.controller.size()
	if err := m.kill(power); err != nil {
		n.fail("harness", "%v", err)
	}
	if power {
		n.controller.gone(m) // The controller makes the pod again.
		return
	}
	n.startAfter(m, n.between(50*time.Millisecond, 4*time.Second))
}

// startAfter starts a pod's next process after a while, unless its pod is deleted
// meanwhile. The world is locked.
func (n *nemesis) startAfter(m *machine, after time.Duration) {
	m.wanted = true
	n.zombies.Go(func() {
		time.Sleep(after)
		n.lock()
		defer n.unlock()
		if m.wanted {
			m.run()
		}
	})
}

// restart kills a pod's process, and has the next one start at once.
func (n *nemesis) restart(m *machine) {
	n.lock()
	defer n.unlock()
	if err := m.kill(false); err != nil {
		n.fail("harness", "%v", err)
	}
	n.startAfter(m, n.between(0, 100*time.Millisecond))
}

func (n *nemesis) killAll(power bool) {
	for _, m := range n.pods {
		if m.process.Load().running() {
			n.kill(m, power)
		}
	}
}

// during does something for a while.
func (n *nemesis) during(ctx context.Context, most time.Duration, do func(on bool)) {
	do(true)
	_ = workload.Pause(ctx, n.between(0, most))
	do(false)
}

func (n *nemesis) others(m *machine) []string {
	var names []string
	for _, other := range n.pods {
		if other != m {
			names = append(names, other.name)
		}
	}
	return names
}

// cut holds back what goes between two hosts, both ways.
func (n *nemesis) cut(a, b string) {
	n.network.Cut(a, b)
	n.network.Cut(b, a)
}

// isolate cuts all between a pod and the others, but not to its clients.
func (n *nemesis) isolate(m *machine) {
	for _, other := range n.others(m) {
		n.cut(m.name, other)
	}
}

// withDisk changes the disk of a pod that runs.
func (n *nemesis) withDisk(m *machine, f func(d *Disk)) {
	n.lock()
	defer n.unlock()
	if p := m.process.Load(); p.running() {
		p.disk.set(func() { f(p.disk) })
	}
}

// whole says that every pod has all that was acknowledged, so that one volume
// may be lost.
func (n *nemesis) whole(ctx context.Context) bool {
	return !n.fragile && n.controller.size() >= 3 && n.unwell(ctx) == ""
}

// becomesWhole heals the network and waits until all are whole; false when that
// cannot be, or takes long.
func (n *nemesis) becomesWhole(ctx context.Context) bool {
	if n.fragile || n.controller.size() < 3 {
		return false
	}
	n.network.Heal()
	for range 40 {
		if n.whole(ctx) {
			return true
		}
		if workload.Pause(ctx, time.Second) != nil {
			return false
		}
	}
	return false
}

// losing kills a pod whose volume goes with it.
func (n *nemesis) losing(m *machine) {
	n.lock()
	defer n.unlock()
	if err := m.kill(true); err != nil {
		n.fail("harness", "%v", err)
		return
	}
	m.wipe()
	n.controller.gone(m)
}

// burst has a pod take some writes.
func (n *nemesis) burst(ctx context.Context, m *machine) {
	if err := n.load.Burst(ctx, m.number, 1+n.rng.IntN(6)); err != nil {
		n.fail("harness", "%v", err)
	}
}
