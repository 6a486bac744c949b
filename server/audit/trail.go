package audit

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/batondb/baton/internal/seldom"
)

const (
	// maxQueued records wait for the disk, each of some hundred bytes: at 10,000 calls
	// a second a disk may hang for almost a second.
	maxQueued = 8192
	// closeTimeout is how long Close waits for what is queued.
	closeTimeout = 2 * time.Second
)

// Options of a Trail.
type Options struct {
	Rule Rule
	// File is where the trail goes; empty: to Out.
	File string
	Out  io.Writer
	// MaxBytes of the file: then it becomes FILE.1, that before it FILE.2, and so on
	// to FILE.4; what was the last is deleted. 0: 64 MiB.
	MaxBytes int64
	// Pod is the name of this one.
	Pod        string
	Logger     *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: none
}

// Trail is where records go. A nil Trail has none. Its methods may be called by any
// goroutine, Close once.
type Trail struct {
	opts  Options
	out   io.Writer
	queue chan []byte
	stop  chan struct{}
	ended chan struct{}

	written prometheus.Counter
	dropped *prometheus.CounterVec
	// gap is how many records were dropped since the last that was written.
	gap  atomic.Int64
	gaps seldom.Events // That are said in the log.
}

// The reasons why a record is dropped.
const (
	slowSink = "queue full"
	badSink  = "write failed"
)

// Open begins a trail. Without a rule it is nil.
func Open(o Options) (*Trail, error) {
	if !o.Rule.On() {
		return nil, nil //nolint:nilnil // A nil Trail is none.
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Trail{
		opts: o, out: o.Out, queue: make(chan []byte, maxQueued), stop: make(chan struct{}), ended: make(chan struct{}),
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "baton_audit_records_total", Help: "Records of the audit trail that were written.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "baton_audit_dropped_total", Help: "Records of the audit trail that were dropped: more than 0 is a gap in it.",
		}, []string{"why"}),
	}
	for _, why := range []string{slowSink, badSink} {
		t.dropped.WithLabelValues(why)
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(t.written, t.dropped)
	}
	if o.File != "" {
		file, err := openFile(o.File, o.MaxBytes)
		if err != nil {
			return nil, fmt.Errorf("the audit trail: %w", err)
		}
		t.out = file
	}
	go t.run()
	return t, nil
}

// Takes says whether calls of a method are in the trail, unless their keys or their
// callers decide.
func (t *Trail) Takes(method string) bool { return t != nil && t.opts.Rule.takes(method) }

// Note writes a call down, if the rule takes it. It does not wait.
func (t *Trail) Note(call Call) {
	if t == nil || !forWho(call.Err) && !t.Takes(call.Method) {
		return
	}
	f := find(call, t.opts.Rule.prefix)
	if !f.touched && !forWho(call.Err) {
		return
	}
	select {
	case t.queue <- t.line(call, f):
	default:
		t.drop(slowSink, errors.New("what is written to does not keep up"))
	}
}

func (t *Trail) drop(why string, err error) {
	t.gap.Add(1)
	t.dropped.WithLabelValues(why).Inc()
	if _, due := t.gaps.Due(""); due {
		t.opts.Logger.Error("the audit trail has a gap: calls go on without their records; see baton_audit_dropped_total", slog.Any("error", err))
	}
}

// Close writes what is queued, but does not wait long for it.
func (t *Trail) Close() {
	if t == nil {
		return
	}
	close(t.stop)
	select {
	case <-t.ended:
	case <-time.After(closeTimeout):
		t.opts.Logger.Error("the audit trail was left as it is: what is written to hangs")
	}
}

func (t *Trail) run() {
	defer close(t.ended)
	for {
		select {
		case line := <-t.queue:
			t.write(line)
			continue
		default:
		}
		select {
		case line := <-t.queue:
			t.write(line)
		case <-t.stop:
			if len(t.queue) == 0 {
				if file, ok := t.out.(*file); ok {
					file.close()
				}
				return
			}
		}
	}
}

// write writes a line, and before it how many are missing.
func (t *Trail) write(line []byte) {
	if gap := t.gap.Load(); gap > 0 {
		if _, err := t.out.Write(fmt.Appendf(nil, `{"time":%q,"pod":%q,"dropped":%d}`+"\n",
			time.Now().UTC().Format(time.RFC3339Nano), t.opts.Pod, gap)); err != nil {
			t.drop(badSink, err)
			return
		}
		t.gap.Add(-gap)
	}
	if _, err := t.out.Write(line); err != nil {
		t.drop(badSink, err)
		return
	}
	t.written.Inc()
}
