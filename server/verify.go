package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/batondb/baton/internal/sleep"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/store"
)

const (
	defaultVerifyRate = 4 << 20
	// defaultVerifyInterval: a small database is read in a moment, and needs no more.
	defaultVerifyInterval = 10 * time.Minute
	// verifyStep is how many bytes of records one transaction goes over: some
	// milliseconds.
	verifyStep = 256 << 10
	// verifyIdle is how many times as long as a step took the pause after it is at least:
	// the busier the disk and the processors, the slower a round.
	verifyIdle = 4
	// verifyYield is how many times slower a round is while the database is written. At
	// the full pace of three pods on two cores it took a tenth of the writes.
	verifyYield = 4
	// verifyHaste is how many times as much as there was a round reads at its pace, if that
	// is more than verifyHasteFrom: what is in memory counts, too.
	verifyHaste     = 3
	verifyHasteFrom = 64 << 20
	// verifyTries is how often the master is asked about a part, which may be compacted
	// meanwhile.
	verifyTries = 3
)

// verifier reads all of this pod's data at rest, round by round, and compares it with
// the master's. Damage fails the store, as when a read finds it; for differences see
// settleParts.
type verifier struct {
	core     *core
	rate     int64 // Bytes a second; negative: nothing is verified.
	interval time.Duration
	read     prometheus.Counter

	mu    sync.Mutex // guards the fields below
	now   verifyRound
	last  verifyRound
	total int64 // About how many bytes a round reads.
}

// verifyRound is how far a round is.
type verifyRound struct {
	began, ended  time.Time // Zero: it has not.
	file, parts   int64     // Bytes read of the file, and of keys and values.
	compared, not int       // Parts.
}

func newVerifier(c *core) *verifier {
	v := &verifier{core: c, rate: c.options.VerifyBytesPerSecond, interval: c.options.VerifyInterval}
	v.read = prometheus.NewCounter(prometheus.CounterOpts{Name: "baton_verify_read_bytes_total", Help: "Bytes of the data at rest that were read to verify it."})
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "baton_verify_" + name, Help: help}, func() float64 {
			v.mu.Lock()
			defer v.mu.Unlock()
			return value()
		})
	}
	c.options.Registry.MustRegister(v.read,
		gauge("round_ratio", "About how much of the round under way is done; 0: none is.", v.ratio),
		gauge("last_round_timestamp_seconds", "When the last round over all of the data ended; 0: none has.", func() float64 {
			if v.last.ended.IsZero() {
				return 0
			}
			return float64(v.last.ended.Unix())
		}),
		gauge("last_round_seconds", "How long the last round took.", func() float64 { return v.last.ended.Sub(v.last.began).Seconds() }),
		gauge("last_round_uncompared_parts", "Parts of the keys that the last round could not compare with the master's.", func() float64 { return float64(v.last.not) }),
	)
	return v
}

// ratio wants mu.
func (v *verifier) ratio() float64 {
	if v.now.began.IsZero() || v.total == 0 {
		return 0
	}
	part := func(done int64) float64 { return min(1, float64(done)/float64(v.total)) / 2 }
	return part(v.now.file) + part(v.now.parts)
}

// notes are for /readyz?verbose.
func (v *verifier) notes() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.rate < 0 {
		return []string{"verified: never, it is turned off"}
	}
	line := "verified: not yet since the start"
	if last := v.last; !last.ended.IsZero() {
		line = fmt.Sprintf("verified: all of it by %s, in %s", last.ended.UTC().Format(time.RFC3339), last.ended.Sub(last.began).Round(time.Second))
		if last.not > 0 {
			line += fmt.Sprintf("; %d of %d parts could not be compared with the master's", last.not, last.not+last.compared)
		}
	}
	if !v.now.began.IsZero() {
		line += fmt.Sprintf("; %.0f %% of the next time", 100*v.ratio())
	}
	return []string{line}
}

// run begins a round each interval, until ctx ends.
func (v *verifier) run(ctx context.Context) {
	if v.rate < 0 {
		return
	}
	pause := rand.N(v.interval) // Not all pods in the same moment.
	for sleep.For(ctx, pause) {
		began := time.Now()
		if st, err := v.core.needStore(); err == nil {
			v.round(ctx, st)
		}
		pause = max(v.interval-time.Since(began), compareAgain)
	}
}

func (v *verifier) round(ctx context.Context, st *store.Store) {
	status := st.Status()
	v.note(func() { v.now, v.total = verifyRound{began: time.Now()}, status.FileBytes-status.FreeBytes })
	err := v.file(ctx, st)
	if err == nil {
		err = v.parts(ctx, st)
	}
	v.note(func() {
		if err == nil {
			v.last = v.now
			v.last.ended = time.Now()
		}
		v.now = verifyRound{}
	})
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, store.ErrClosed):
	case errors.Is(err, store.ErrCorrupt):
		v.core.options.Logger.Error("the verification of this pod's data has found damage", slog.Any("error", err))
	default:
		v.core.options.Logger.Warn("this pod's data could not be verified, and is next time", slog.Any("error", err))
	}
}

func (v *verifier) note(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
}

// file reads the file as it is.
func (v *verifier) file(ctx context.Context, st *store.Store) error {
	round := st.NewRound()
	for more := true; more; {
		began := time.Now()
		var read int
		var err error
		if read, more, err = round.Step(ctx, verifyStep); err != nil && !errors.Is(err, store.ErrBusy) {
			return err
		}
		v.note(func() { v.now.file += int64(read) })
		if !v.pause(ctx, st, read, time.Since(began)) {
			return ctx.Err()
		}
	}
	return nil
}

// parts reads each key's newest value and each change, by the ways that clients' reads
// and watches go, and compares them with what the master reads.
func (v *verifier) parts(ctx context.Context, st *store.Store) error {
	for _, history := range []bool{false, true} {
		end, err := st.PartEnd(ctx, history)
		if err != nil {
			return err
		}
		if err := v.upTo(ctx, st, replication.Part{History: history, To: end}); err != nil {
			return err
		}
		if !history { // Where this pod has no key another one may have some.
			if _, _, _, err := v.part(ctx, st, replication.Part{From: end}, 1); err != nil {
				return err
			}
		}
	}
	return nil
}

// upTo reads the parts of what is between bounds.
func (v *verifier) upTo(ctx context.Context, st *store.Store, bounds replication.Part) error {
	tries, compared := verifyTries, false
	for more := true; more; {
		var part replication.Part
		var err error
		if part, more, compared, err = v.part(ctx, st, bounds, tries); err != nil {
			return err
		}
		// If the master's version cannot tell, that must not hold up the reading.
		tries = 1
		v.note(func() {
			if compared {
				tries = verifyTries
				v.now.compared++
			} else {
				v.now.not++
			}
		})
		bounds.From = part.To
	}
	return nil
}

// part reads one from where it begins.
func (v *verifier) part(ctx context.Context, st *store.Store, bounds replication.Part, tries int) (own replication.Part, more, compared bool, err error) {
	for try := 0; try < tries && !compared; try++ {
		if try > 0 && !sleep.For(ctx, compareAgain) {
			return own, false, false, ctx.Err()
		}
		began := time.Now()
		own, more, err = st.Part(ctx, bounds)
		took := time.Since(began)
		if err != nil {
			return own, false, false, err
		}
		v.note(func() { v.now.parts += int64(own.Bytes) })
		compared = v.core.comparePart(ctx, own)
		if !v.pause(ctx, st, own.Bytes, took) {
			return own, false, false, ctx.Err()
		}
	}
	return own, more, compared, nil
}

// pause keeps the pace after a step.
func (v *verifier) pause(ctx context.Context, st *store.Store, read int, took time.Duration) bool {
	v.read.Add(float64(read))
	pace := time.Duration(float64(read) / float64(v.rate) * float64(time.Second))
	if st.Flushing() {
		pace *= verifyYield
	}
	pace = time.Duration(float64(pace) / v.haste())
	return sleep.For(ctx, max(pace-took, verifyIdle*took))
}

// haste is how many times its pace a round has. Where keys are written in front of it
// faster than it reads, it would never end: the further it is behind, the faster it reads.
func (v *verifier) haste() float64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return max(1, float64(max(v.now.file, v.now.parts))/float64(verifyHaste*max(v.total, verifyHasteFrom)))
}
