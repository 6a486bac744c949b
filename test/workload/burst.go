package workload

import (
	"context"
	"sync"
	"time"

	"github.com/batondb/baton/test/history"
)

// Burst writes at one target at once, some keys each once, and waits for the
// answers no longer than a moment. A pod that is cut off from the others takes
// them and cannot confirm them.
func (w *Workload) Burst(ctx context.Context, target, writes int) error {
	s, err := w.newSession(1000 + int(w.bursts.Add(1)))
	if err != nil {
		return err
	}
	defer s.close()
	ctx, cancel := context.WithTimeout(ctx, burstTimeout)
	defer cancel()
	var all sync.WaitGroup
	for range writes {
		op := &history.Op{Client: s.client, Name: "burst", Writes: []history.Write{{Key: w.hotKey(s.rng), Value: s.value()}}}
		request := writeRequest(op, nil, s.rng)
		w.Recorder.Begin(op)
		all.Go(func() {
			answer, err := request(ctx, s.conns.all[target])
			if err != nil {
				op.Error = err.Error()
			} else {
				op.Answer, op.Outcome = answer, history.OK
			}
			w.Recorder.End(op)
		})
	}
	all.Wait()
	return nil
}

// Ask reads from one target again and again until ctx ends: a pod that does not
// know yet that it was replaced must not answer.
func (w *Workload) Ask(ctx context.Context, target int) error {
	s, err := w.newSession(1000 + int(w.bursts.Add(1)))
	if err != nil {
		return err
	}
	all := s.conns
	defer all.close()
	s.conns = &conns{all: all.all[target : target+1]}
	for ctx.Err() == nil {
		s.read(ctx, &history.Op{Name: "ask", Read: &history.Read{Key: w.hotKey(s.rng), Consistency: history.Linearizable}}, false)
		_ = Pause(ctx, askPause)
	}
	return nil
}

const askPause = 10 * time.Millisecond

// burstTimeout is long enough for a pod that is well.
const burstTimeout = 150 * time.Millisecond
