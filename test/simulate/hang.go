package simulate

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/batondb/baton/test/workload"
)

// A pod that hangs stands for a process that is paused for minutes. Nothing goes
// into it or out of it, to and from everybody; nothing is lost, for its kernel
// acknowledges and keeps what comes; its questions to the API and the DNS have no
// answer. What it cannot be is still: all pods have one clock, so its timers end
// meanwhile, and what they do is held back like all else, until it goes on.

// A hang is mostly short, so that more than one comes in a run, and sometimes long.
const (
	hangMostly = 20 * time.Second
	hangAtMost = 3 * time.Minute
)

func hang(ctx context.Context, n *nemesis) {
	m, lasts, order := n.any(), n.between(time.Second, hangMostly), n.rng.Uint64()
	if n.rng.IntN(4) == 0 {
		lasts = n.between(hangMostly, hangAtMost)
	}
	if n.rng.IntN(2) == 0 {
		m = n.master(ctx)
	}
	disk := n.rng.IntN(2) == 0
	n.lock()
	p := m.process.Load()
	if !p.running() || !p.host.pause() {
		n.unlock()
		return
	}
	if disk { // For longer than a pod bears, mostly: it ends by itself, then.
		p.disk.set(func() { p.disk.hung = time.Now().Add(lasts) })
	}
	n.unlock()
	n.log("%s hangs for %s, its disk %t", m.name, lasts, disk)
	n.zombies.Go(func() {
		_ = workload.Pause(ctx, lasts)
		p.host.resume(rand.New(rand.NewPCG(order, 0)))
	})
	_ = workload.Pause(ctx, n.between(0, min(lasts, hangMostly)))
}

// pause makes a process hang, unless it does or is gone.
func (h *Host) pause() bool {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	if h.hung != nil || h.gone {
		return false
	}
	h.hung = make(chan struct{})
	return true
}

// resume lets it go on: what was held back is there within milliseconds, in an
// order of connections that is drawn. It may be called at any time.
func (h *Host) resume(order *rand.Rand) {
	h.network.mu.Lock()
	if h.hung == nil {
		h.network.mu.Unlock()
		return
	}
	close(h.hung)
	h.hung = nil
	var conns []*conn
	for c := range h.conns {
		conns = append(conns, c)
	}
	h.network.mu.Unlock()
	slices.SortFunc(conns, func(a, b *conn) int { return cmp.Compare(a.number, b.number) })
	for _, c := range conns {
		for _, f := range []*flow{c.in, c.out} {
			late := time.Now()
			if order != nil {
				late = late.Add(time.Duration(order.Int64N(int64(5 * time.Millisecond))))
			}
			f.set(func() { f.delay(late) })
		}
	}
}

// delay makes nothing arrive before a moment.
func (f *flow) delay(until time.Time) {
	for i := range f.segments {
		if f.segments[i].arrives.Before(until) {
			f.segments[i].arrives = until
		}
	}
	if f.last.Before(until) {
		f.last = until
	}
}

// awake waits until the process does not hang.
func (h *Host) awake(ctx context.Context) error {
	for {
		h.network.mu.Lock()
		hung := h.hung
		h.network.mu.Unlock()
		if hung == nil {
			return nil
		}
		select {
		case <-hung:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
