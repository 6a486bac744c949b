package server

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

const (
	// hashTimeout: a member that has not reached the revision by then is left
	// out of this round.
	hashTimeout = 5 * time.Second
	// hashConfirm is the pause before a difference is believed.
	hashConfirm = time.Second
)

// verdict is the outcome of comparing this pod's data with the others'.
type verdict struct {
	revision int64
	own      uint64
	differ   []string // Pods with another hash.
	// outvoted: more than half of all voters have one and the same other hash.
	outvoted bool
}

// watchDivergence compares hashes until ctx ends. Every pod compares for
// itself, the master too, and acts only upon itself: an order to throw data
// away, sent by a pod whose own data may be the wrong one, would be more
// dangerous than what it cures.
func (c *core) watchDivergence(ctx context.Context) {
	for {
		// Not all pods in the same moment.
		pause := c.options.HashInterval/2 + rand.N(c.options.HashInterval)
		if !sleep(ctx, pause) {
			return
		}
		if c.outvoted(ctx) {
			return
		}
	}
}

// outvoted compares, and a second time at a newer revision before it believes
// that this pod is wrong. It returns true when the pod has given up its data.
func (c *core) outvoted(ctx context.Context) bool {
	first, err := c.compare(ctx)
	if err != nil {
		return false // Nobody to compare with, or nothing yet; the next round comes.
	}
	c.raise(first)
	if !first.outvoted || !sleep(ctx, hashConfirm) {
		return false
	}
	second, err := c.compare(ctx)
	if err != nil || !second.outvoted {
		return false
	}
	c.giveUp(ctx, second)
	return true
}

// raise shows a difference, once, and its end.
func (c *core) raise(v verdict) {
	differs := len(v.differ) > 0
	switch was := c.differs.Swap(differs); {
	case differs && !was:
		c.metrics.diverged.Set(1)
		c.options.Logger.Error("the pods' data differs: keep a copy of each volume and report this; "+
			"a pod that a majority contradicts clones again by itself",
			slog.Any("pods", v.differ), slog.Int64("revision", v.revision), slog.String("hash", fmt.Sprintf("%016x", v.own)))
	case was && !differs:
		c.metrics.diverged.Set(0)
		c.options.Logger.Info("the pods' data agrees again", slog.Int64("revision", v.revision))
	}
}

// compare asks every other member for its hash at this pod's newest revision.
func (c *core) compare(ctx context.Context) (verdict, error) {
	st, err := c.needStore()
	if err != nil {
		return verdict{}, err
	}
	log, err := c.needLog()
	if err != nil {
		return verdict{}, err
	}
	revision, own, err := st.Hash(0)
	if err != nil {
		return verdict{}, err
	}
	voters := 0
	for _, m := range log.Members() {
		if m.Voter {
			voters++
		}
	}
	return judge(revision, own, voters, hashes(ctx, log, c.others(log), revision)), nil
}

// podHash is one member's answer.
type podHash struct {
	pod   string
	voter bool
	hash  uint64
	known bool
}

func hashes(ctx context.Context, log Log, members []replication.Member, revision int64) []podHash {
	ctx, cancel := context.WithTimeout(ctx, hashTimeout)
	defer cancel()
	answers := make([]podHash, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() {
			answers[i] = podHash{pod: m.Pod, voter: m.Voter}
			conn, err := log.PeerConn(m.Pod)
			if err != nil {
				return
			}
			response, err := kvv1.NewMaintenanceServiceClient(conn).Hash(ctx, &kvv1.HashRequest{Revision: revision})
			if err == nil && response.GetRevision() == revision {
				answers[i].hash, answers[i].known = response.GetHash(), true
			}
		})
	}
	all.Wait()
	return answers
}

// judge counts. With two voters, or when too few answer, nobody is outvoted.
func judge(revision int64, own uint64, voters int, answers []podHash) verdict {
	v := verdict{revision: revision, own: own}
	votes := map[uint64]int{}
	for _, a := range answers {
		if !a.known || a.hash == own {
			continue
		}
		v.differ = append(v.differ, a.pod)
		if a.voter {
			votes[a.hash]++
			v.outvoted = v.outvoted || votes[a.hash]*2 > voters
		}
	}
	return v
}

// giveUp refuses service from this moment on, and sets the data aside as soon as
// the others can do without this pod's vote; replication then tells the process
// to end, and its restart clones.
func (c *core) giveUp(ctx context.Context, v verdict) {
	why := fmt.Sprintf("its data differs from a majority of the pods at revision %d (its hash is %016x)", v.revision, v.own)
	c.diverged.Store(&why)
	log, err := c.needLog()
	if err != nil {
		return
	}
	if err := log.Reclone(ctx, why); err != nil {
		c.options.Logger.Error("the data that differs could not be set aside; it is tried again at the next start", slog.Any("error", err))
	}
}

// sleep returns false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
