package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/batondb/baton/internal/sleep"
	"github.com/batondb/baton/replication"
)

const (
	// compareTimeout: a member that has not applied the entry by then is left out
	// of this round.
	compareTimeout = 2 * time.Second
	// compareAgain is the pause before a difference is believed, and between
	// comparisons while there is one.
	compareAgain = time.Second
)

// verdict is the outcome of comparing this pod's data with the others'.
type verdict struct {
	own   replication.Mark
	tally tally
}

// tally is how many pods have what this one has.
type tally struct {
	differ []string // Pods that had something else.
	agree  int      // How many others had the same.
	// backed: more than half of all voters, this pod included, had the same.
	backed bool
	// outvoted: more than half of all voters had one and the same other thing.
	outvoted bool
}

// watchDivergence compares what the pods have until ctx ends, at once when a
// difference was seen. Every pod compares for itself, the master too, and acts
// only upon itself: an order to throw data away, sent by a pod whose own data may
// be the wrong one, would be more dangerous than what it cures.
func (c *core) watchDivergence(ctx context.Context) {
	for {
		// Not all pods in the same moment.
		pause := c.options.HashInterval/2 + rand.N(c.options.HashInterval)
		if c.doubts.differs.Load() || c.doubts.why.Load() != nil {
			pause = compareAgain
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-c.doubts.wake:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil || c.outvoted(ctx) {
			return
		}
	}
}

// outvoted compares, and a second time after a newer entry before it believes
// that this pod is wrong; nothing is read in between. It returns true when the
// pod has given up its data.
func (c *core) outvoted(ctx context.Context) bool {
	before := c.doubts.why.Load()
	first, err := c.compare(ctx, func(v verdict) {
		v.tally.differ = append(v.tally.differ, c.doubts.known()...) // They may not have answered yet.
		c.settle(before, v)
	})
	if err != nil {
		return false // Nobody to compare with, or nothing yet, or not all of it; the next round comes.
	}
	c.show(first)
	if !first.tally.outvoted {
		c.settle(before, first)
		return false
	}
	c.doubts.cleared.Store(nil)
	c.doubts.why.Store(&doubt{why: first.why()})
	if !sleep.For(ctx, compareAgain) {
		return false
	}
	second, err := c.compare(ctx, func(verdict) {})
	if err != nil || !second.tally.outvoted {
		return false
	}
	c.giveUp(ctx, second.why())
	return true
}

// settle ends a doubt when a majority has what this pod has. Where nobody can
// tell who is wrong, the master alone serves: so at least all readers see the
// same. (TestDoubt)
func (c *core) settle(before *doubt, v verdict) {
	log, err := c.needLog()
	if err != nil {
		return
	}
	switch {
	case v.tally.backed || log.IsMaster():
		c.doubts.settle(before, v.tally.differ)
	default:
		c.doubts.cleared.Store(nil)
	}
}

// show shows a difference, once, and its end.
func (c *core) show(v verdict) {
	differs := len(v.tally.differ) > 0
	switch was := c.doubts.differs.Swap(differs); {
	case differs && !was:
		c.options.Logger.Error("the pods' data differs: keep a copy of each volume and report this; "+
			"a pod that a majority contradicts clones again by itself",
			slog.Any("pods", v.tally.differ), slog.Uint64("index", v.own.Index), slog.String("own", v.own.String()))
	case was && !differs:
		c.options.Logger.Info("the pods' data agrees again", slog.Uint64("index", v.own.Index))
	}
	c.showDiffers()
}

// showDiffers lets the metric say what differs does.
func (c *core) showDiffers() {
	value := 0.0
	if c.differs() {
		value = 1
	}
	c.metrics.diverged.Set(value)
}

// differs says whether this pod's data differs from another's, in what was applied or in
// what is read back.
func (c *core) differs() bool { return c.doubts.differs.Load() || c.doubts.parts.differs.Load() }

// compare asks every other member what it had after the entry that this pod has
// applied last. It does not wait for more answers once this pod is outvoted; when it
// is backed, backed is called at once, and the others are only waited for to be named,
// and only until there is another doubt.
func (c *core) compare(ctx context.Context, backed func(verdict)) (verdict, error) {
	if why := c.doubts.diverged.Load(); why != nil {
		return verdict{}, errNotReady(*why)
	}
	log, err := c.needLog()
	if err != nil {
		return verdict{}, err
	}
	own := log.Mark()
	if own.Index == 0 {
		return verdict{}, errNotReady("it has applied nothing yet")
	}
	voters, votes := electorate(log)
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	others := c.others(log)
	answers := askMembers(others, func(pod string) (replication.Mark, bool) {
		mark, err := log.CompareWith(ctx, pod, own)
		return mark, err == nil && mark.Index == own.Index
	})
	var got []said[replication.Mark]
	defer func() {
		for cancel(); len(got) < len(others); {
			got = append(got, <-answers)
		}
	}()
	v, raised := verdict{own, judge(own, votes, voters, got)}, (chan struct{})(nil)
	for range others {
		select {
		case answer := <-answers:
			got = append(got, answer)
		case <-raised:
			c.doubts.again()
			return verdict{}, errDoubt
		}
		v.tally = judge(own, votes, voters, got)
		if v.tally.backed && raised == nil {
			raised = c.doubts.wake
			backed(v)
		}
		if v.tally.outvoted {
			break
		}
	}
	return v, nil
}

// errDoubt is returned when a doubt ends a comparison, for the next one to begin.
var errDoubt = errors.New("there is another doubt")

// said is one member's answer.
type said[T comparable] struct {
	pod   string
	voter bool
	known bool // It has answered, and has is what it has.
	has   T
}

// askMembers gives an answer of each member, at the end of ctx at the latest.
func askMembers[T comparable](members []replication.Member, ask func(pod string) (has T, known bool)) <-chan said[T] {
	answers := make(chan said[T], len(members))
	for _, m := range members {
		go func() {
			answer := said[T]{pod: m.Pod, voter: m.Voter}
			answer.has, answer.known = ask(m.Pod)
			answers <- answer
		}()
	}
	return answers
}

// judge counts. With two voters, or when too few answer, nobody is outvoted.
func judge[T comparable](own T, votes bool, voters int, answers []said[T]) (t tally) {
	counts := map[T]int{}
	if votes {
		counts[own]++
	}
	for _, a := range answers {
		if !a.known {
			continue
		}
		if a.has == own {
			t.agree++
		} else {
			t.differ = append(t.differ, a.pod)
		}
		if a.voter {
			counts[a.has]++
		}
	}
	for has, n := range counts {
		if n*2 > voters {
			t.backed, t.outvoted = has == own, has != own
		}
	}
	return t
}

// electorate is how many pods vote, and whether this one does.
func electorate(log Log) (voters int, votes bool) {
	for _, m := range log.Members() {
		if m.Voter {
			voters++
			votes = votes || m.ID == log.MemberID()
		}
	}
	return voters, votes
}

func (v verdict) why() string {
	return fmt.Sprintf("its data differs from a majority of the pods: after entry %d it had %s", v.own.Index, v.own)
}

// giveUp refuses service from this moment on, and sets the data aside as soon as
// the others can do without this pod's vote; replication then tells the process
// to end, and its restart clones.
func (c *core) giveUp(ctx context.Context, why string) {
	if !c.doubts.diverged.CompareAndSwap(nil, &why) {
		return // It is under way.
	}
	log, err := c.needLog()
	if err != nil {
		return
	}
	if err := log.Reclone(ctx, why); err != nil {
		c.options.Logger.Error("the data that differs could not be set aside; it is tried again at the next start", slog.Any("error", err))
	}
}
