package workload

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/history"
)

// watcher watches over many streams, on whatever pod, until its context ends.
type watcher struct {
	watch   *history.Watch
	rng     *rand.Rand
	through atomic.Int64 // For others; the watch belongs to the watcher's goroutine.
	// restless streams are ended now and then for no reason.
	restless bool
	progress time.Duration // See Options.
}

// silence is how many signs of life a pod may miss before a watcher goes to
// another one.
const silence = 7

// run watches through the given connections.
func (w *watcher) run(ctx context.Context, recorder *history.Recorder, to *conns) {
	for ctx.Err() == nil {
		err := w.stream(ctx, recorder, to.all[to.pick(w.rng)])
		if reason, metadata := reasonOf(err); reason == kvv1.ErrorReason_ERROR_REASON_COMPACTED {
			if oldest, err := strconv.ParseInt(metadata["oldest_revision"], 10, 64); err == nil {
				w.watch.Compacted(oldest)
			}
		}
		_ = Pause(ctx, time.Duration(10+w.rng.IntN(50))*time.Millisecond)
	}
}

func (w *watcher) stream(ctx context.Context, recorder *history.Recorder, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if w.restless {
		var end context.CancelFunc
		ctx, end = context.WithTimeout(ctx, time.Duration(500+w.rng.IntN(4000))*time.Millisecond)
		defer end()
	}
	patience := silence * w.progress
	alive := time.AfterFunc(patience, cancel)
	defer alive.Stop()
	w.watch.Open()
	stream, err := kvv1.NewWatchServiceClient(conn).Watch(ctx, &kvv1.WatchRequest{
		Key: []byte(w.watch.Key), RangeEnd: []byte(w.watch.End), StartRevision: w.watch.Next(),
		PrevKv: w.watch.PrevKV, ProgressIntervalMs: uint32(w.progress.Milliseconds()),
	})
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		alive.Reset(patience)
		w.watch.Receive(message, recorder.Now())
		w.through.Store(w.watch.Through)
	}
}

// StartWatchers starts the historian and the others; all end with ctx.
func (w *Workload) StartWatchers(ctx context.Context, tasks *sync.WaitGroup) error {
	everything := func(name string) *history.Watch { return history.NewWatch(name, "\x00", "\x00", 1, true) }
	w.historian = &watcher{watch: everything("historian")}
	hot := history.NewWatch("hot", hotRange.Key, hotRange.End, 1, true)
	bank := history.NewWatch("bank", bankRange.Key, bankRange.End, 1, false)
	one := history.NewWatch("one account", account(0), "", 1, true)
	w.watchers = []*watcher{
		w.historian,
		{watch: everything("restless"), restless: true},
		{watch: hot, restless: true},
		{watch: bank},
		{watch: one, restless: true},
	}
	for i, each := range w.watchers {
		each.rng, each.progress = rand.New(rand.NewPCG(w.Seed, uint64(1000+i))), w.Progress
		w.Recorder.Watch(each.watch)
		to, err := w.connect()
		if err != nil {
			return err
		}
		tasks.Go(func() {
			defer to.close()
			each.run(ctx, w.Recorder, to)
		})
	}
	return nil
}

// Through is the revision that the historian has gone through.
func (w *Workload) Through() int64 { return w.historian.through.Load() }

// behind says which watchers have not gone through a revision.
func (w *Workload) behind(revision int64) []string {
	var behind []string
	for _, each := range w.watchers {
		if each.through.Load() < revision {
			behind = append(behind, each.watch.Name)
		}
	}
	return behind
}
