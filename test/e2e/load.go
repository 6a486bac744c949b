package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/test/history"
)

const (
	writers = 12
	readers = 3
	// pace is between two calls of one client: all the time, but not so much that
	// a small machine has nothing left for Kubernetes.
	pace = 10 * time.Millisecond
	// keysEach is how many keys a writer has.
	keysEach = 50
)

// done is the end of one call.
type done struct {
	at    time.Time
	write bool
	err   error
}

// load is the clients that use a cluster all the time.
type load struct {
	recorder *history.Recorder
	stop     context.CancelFunc
	tasks    sync.WaitGroup

	mu   sync.Mutex // guards what follows
	done []done
	// leaderships are the masters that were seen, the same one once.
	leaderships []leadership
}

// leadership is a master as it was first seen.
type leadership struct {
	at   time.Time
	term uint64
	pod  string
}

// startLoad makes every client, and lets them go on until stop. Client 0 knows
// only the Service, the others one pod each, in turn.
func (c *Cluster) startLoad() error {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{recorder: history.NewRecorder(), stop: cancel}
	c.load = l
	for i := range writers + readers {
		address := c.service("kv-client")
		if i%(c.replicas+1) > 0 {
			address = c.pod(i%(c.replicas+1) - 1)
		}
		made, err := newClient(address)
		if err != nil {
			return err
		}
		// A pod's name resolves some seconds after the pod is ready, and a client that has
		// never reached its only endpoint knows of no other pod.
		reaching, reached := context.WithTimeout(ctx, 30*time.Second)
		_, err = made.Status(reaching)
		reached()
		if err != nil {
			return fmt.Errorf("a client of %s: %w", address, err)
		}
		call := l.get
		if i < writers {
			call = l.put
		}
		l.tasks.Go(func() {
			defer made.Close() //nolint:errcheck // Nothing is left to be lost.
			for n := 0; ctx.Err() == nil; n++ {
				call(ctx, made, i, n)
				sleep(ctx, pace)
			}
		})
	}
	c.sample(ctx) // The master that there is already is no new one.
	l.tasks.Go(func() {
		for ; ctx.Err() == nil; sleep(ctx, poll) {
			c.sample(ctx)
		}
	})
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (l *load) put(_ context.Context, to *client.Client, self, n int) {
	key := fmt.Sprintf("writer-%d/%d", self, n%keysEach)
	value := fmt.Sprintf("%d-%d", self, n)
	op := &history.Op{Client: self, Name: "put", Writes: []history.Write{{Key: key, Value: value}}}
	l.record(op, func(ctx context.Context) (history.Answer, error) {
		r, err := to.Put(ctx, key, []byte(value))
		return history.NewAnswer(r.GetHeader()), err
	})
}

func (l *load) get(_ context.Context, to *client.Client, self, _ int) {
	key := fmt.Sprintf("writer-%d/%d", rand.IntN(writers), rand.IntN(keysEach))
	op := &history.Op{Client: self, Name: "get", Read: &history.Read{Key: key, Consistency: history.Linearizable}}
	l.record(op, func(ctx context.Context) (history.Answer, error) {
		page, err := to.Range(ctx, client.Key(key))
		a := history.NewAnswer(page.GetHeader())
		for _, kv := range page.GetKvs() {
			a.KVs = append(a.KVs, history.NewKV(kv))
		}
		return a, err
	})
}

// record makes one call, and notes what came of it. A call that has begun is
// never cut off by the end of the test.
func (l *load) record(op *history.Op, call func(context.Context) (history.Answer, error)) {
	err := l.recorder.Call(context.Background(), op, patience, call)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = append(l.done, done{at: time.Now(), write: len(op.Writes) > 0, err: err})
}

// sample asks every pod about itself.
func (c *Cluster) sample(ctx context.Context) {
	for _, s := range c.self(ctx) {
		own := history.NewSample(s)
		c.load.recorder.Sample(own)
		if own.Master {
			c.load.sawLeader(own.Pod, own.Term)
		}
	}
}

func (l *load) sawLeader(pod string, term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.leaderships {
		if r.term == term && r.pod == pod {
			return
		}
	}
	l.leaderships = append(l.leaderships, leadership{time.Now(), term, pod})
}
