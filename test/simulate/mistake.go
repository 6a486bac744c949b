package simulate

import (
	"context"
	"strings"
	"time"

	"github.com/batondb/baton/test/workload"
)

// Command is what a person runs beside a pod, in its container.
type Command func(ctx context.Context, e Environment) error

const (
	// commandTimeout is when a person gives up; errs is how he is told no.
	commandTimeout = 30 * time.Second
	errs           = "no recovery: "
)

// recoverByMistake runs kvd recover, or kvd adopt, where no volume is lost: beside
// a pod that is cut off from the others, one that has just started, one of many
// that have, or any. It names no pod as lost, so it is to be refused.
func recoverByMistake(ctx context.Context, n *nemesis) {
	if n.controller.size() < 2 || n.fragile || n.unwell(ctx) != "" {
		return
	}
	m := n.any()
	switch n.rng.IntN(5) {
	case 0, 1:
		n.isolate(m)
		_ = workload.Pause(ctx, n.between(0, 15*time.Second))
	case 2:
		n.kill(m, false)
	case 3:
		n.killAll(n.rng.IntN(2) == 0)
	}
	for !m.process.Load().running() {
		if workload.Pause(ctx, 10*time.Millisecond) != nil {
			return
		}
	}
	_ = workload.Pause(ctx, n.between(0, 4*time.Second))
	n.command(ctx, m)
}

func (n *nemesis) command(ctx context.Context, m *machine) {
	name, command := "recover", n.Recover
	if n.rng.IntN(4) == 0 {
		name, command = "adopt", n.Adopt
	}
	p := m.process.Load()
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	n.zombies.Go(func() { // It ends with the container.
		select {
		case <-p.dead:
		case <-p.ended:
		case <-ctx.Done():
		}
		cancel()
	})
	err := command(ctx, p.environment)
	n.log("kvd %s in %s: %v", name, m.name, err)
	switch {
	case err == nil:
		n.fail("recover", "kvd %s in %s, which nothing asks for, was not refused", name, m.name)
	case name == "recover" && ctx.Err() == nil && p.running() && !strings.HasPrefix(err.Error(), errs):
		n.fail("recover", "kvd recover in %s: %v", m.name, err)
	}
}
