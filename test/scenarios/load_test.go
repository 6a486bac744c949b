//go:build linux

package scenarios

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/history"
)

const (
	writers = 4
	readers = 2
	// pace lies between two calls of one client, so that two cores have time for
	// everything else.
	pace = 10 * time.Millisecond
	// patience of one call; the client repeats it meanwhile.
	patience = 30 * time.Second
	keysEach = 20
)

// load is clients that write and read all the time. What they see is recorded.
type load struct {
	set      *set
	client   *client.Client
	recorder *history.Recorder
	cancel   context.CancelFunc
	tasks    sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	last   time.Time  // of an acknowledged write
	gap    time.Duration
	failed []error
	own    map[int]*pod // that are asked about themselves
}

// startLoad begins; the clients find the pods by their names.
func (s *set) startLoad() *load {
	s.t.Helper()
	var endpoints []string
	for _, o := range slices.Sorted(maps.Keys(s.pods)) {
		if s.apart {
			endpoints = append(endpoints, s.pods[o].Client)
		} else {
			endpoints = append(endpoints, s.pods[o].host+":7400")
		}
	}
	c, err := client.New(client.Options{Endpoints: endpoints})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{set: s, client: c, recorder: history.NewRecorder(), cancel: cancel, last: time.Now(), own: maps.Clone(s.pods)}
	for i := range writers {
		l.tasks.Go(func() { l.repeat(ctx, func(n int) { l.put(i, n) }) })
	}
	for i := range readers {
		l.tasks.Go(func() { l.repeat(ctx, func(int) { l.get(writers + i) }) })
	}
	l.tasks.Go(func() { l.repeat(ctx, func(int) { l.sample() }) })
	s.load = l
	s.t.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	l.cancel()
	l.tasks.Wait()
	l.client.Close() //nolint:errcheck // Nothing is under way.
}

// follow asks a new pod about itself instead of the one before.
func (l *load) follow(ordinal int, p *pod) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own[ordinal] = p
}

func (l *load) repeat(ctx context.Context, do func(n int)) {
	for n := 0; ctx.Err() == nil; n++ {
		do(n)
		time.Sleep(pace)
	}
}

func (l *load) put(self, n int) {
	key, value := fmt.Sprintf("writer-%d/%d", self, n%keysEach), fmt.Sprintf("%d-%d", self, n)
	op := &history.Op{Client: self, Name: "put", Writes: []history.Write{{Key: key, Value: value}}}
	err := l.record(op, func(ctx context.Context) (history.Answer, error) {
		r, err := l.client.Put(ctx, key, []byte(value))
		return history.NewAnswer(r.GetHeader()), err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed = append(l.failed, err)
		return
	}
	now := time.Now()
	l.gap, l.last = max(l.gap, now.Sub(l.last)), now
}

func (l *load) get(self int) {
	key := fmt.Sprintf("writer-%d/%d", rand.IntN(writers), rand.IntN(keysEach))
	op := &history.Op{Client: self, Name: "get", Read: &history.Read{Key: key, Consistency: history.Linearizable}}
	err := l.record(op, func(ctx context.Context) (history.Answer, error) {
		page, err := l.client.Range(ctx, client.Key(key))
		a := history.NewAnswer(page.GetHeader())
		for _, kv := range page.GetKvs() {
			a.KVs = append(a.KVs, history.NewKV(kv))
		}
		return a, err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed = append(l.failed, err)
	}
}

func (l *load) record(op *history.Op, call func(context.Context) (history.Answer, error)) error {
	return l.recorder.Call(context.Background(), op, patience, call)
}

// sample asks the pods about themselves; those that have gone say nothing.
func (l *load) sample() {
	l.mu.Lock()
	pods := slices.Collect(maps.Values(l.own))
	l.mu.Unlock()
	for _, p := range pods {
		status, err := p.status(true)
		if err != nil {
			continue
		}
		l.recorder.Sample(history.NewSample(status))
	}
	time.Sleep(10 * pace)
}

// during does something under load, and says how long no write was acknowledged.
func (l *load) during(what string, do func()) time.Duration {
	l.set.t.Helper()
	l.mu.Lock()
	l.gap, l.last = 0, time.Now()
	l.mu.Unlock()
	do()
	l.mu.Lock()
	defer l.mu.Unlock()
	gap := max(l.gap, time.Since(l.last))
	l.set.t.Logf("%s: the longest gap in writes %s", what, gap.Round(time.Millisecond))
	return gap
}

// enough revisions show that the clients did not merely wait.
const enough = 50

// verify is what every scenario ends with: these pods are whole again, no call
// has outlasted the patience of its client, and what the clients were told is
// what all pods have.
func (s *set) verify(ordinals ...int) {
	s.t.Helper()
	s.awaitWhole(ordinals...)
	s.checkLogs()
	s.load.stop()
	if failed := s.load.failed; len(failed) > 0 {
		s.t.Errorf("%d calls failed, the first: %v", len(failed), failed[0])
	}
	ctx, cancel := context.WithTimeout(context.Background(), whole)
	defer cancel()
	w, err := s.historian(ctx, s.pods[ordinals[0]])
	if err != nil {
		s.t.Fatalf("read the history back: %v", err)
	}
	h, l := s.load.recorder.History(), history.NewLog(w)
	found := slices.Concat(history.CheckLog(w), history.CheckSerial(l, h, 0), history.CheckSamples(h.Samples))
	for _, v := range found[:min(len(found), 10)] {
		s.t.Errorf("%v", v)
	}
	if l.Last() < enough {
		s.t.Errorf("the clients made %d revisions only", l.Last())
	}
	s.sameHash(ctx, l.Last())
	s.t.Logf("checked %d calls, %d revisions, %d samples", len(h.Ops), l.Last(), len(h.Samples))
}

// historian reads everything from the first revision to the newest one.
func (s *set) historian(ctx context.Context, p *pod) (*history.Watch, error) {
	w := history.NewWatch("historian", "\x00", history.Everything, 1, true)
	newest, err := kvv1.NewKVServiceClient(p.Conn()).Range(ctx, &kvv1.RangeRequest{Key: []byte("none")})
	if err != nil {
		return nil, err
	}
	stream, err := kvv1.NewWatchServiceClient(p.Conn()).Watch(ctx, &kvv1.WatchRequest{
		Key: []byte(w.Key), RangeEnd: []byte(w.End), StartRevision: w.Start, PrevKv: w.PrevKV, ProgressIntervalMs: 100,
	})
	w.Open()
	for err == nil && w.Through < newest.GetHeader().GetRevision() {
		var m *kvv1.WatchResponse
		if m, err = stream.Recv(); err == nil {
			w.Receive(m, s.load.recorder.Now())
		}
	}
	return w, err
}

// sameHash compares what all pods have at a revision.
func (s *set) sameHash(ctx context.Context, revision int64) {
	s.t.Helper()
	hashes := map[uint64][]string{}
	for _, p := range s.pods {
		answer, err := kvv1.NewMaintenanceServiceClient(p.Conn()).Hash(ctx, &kvv1.HashRequest{Revision: revision})
		if err != nil {
			s.t.Errorf("the hash of %s: %v", p.Name, err)
			continue
		}
		hashes[answer.GetHash()] = append(hashes[answer.GetHash()], p.Name)
	}
	if len(hashes) > 1 {
		s.t.Errorf("the pods differ at revision %d: %v", revision, hashes)
	}
}

// checkLogs looks for what no pod may ever print.
func (s *set) checkLogs() {
	s.t.Helper()
	for _, p := range s.pods {
		text, err := os.ReadFile(p.Log)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, disaster := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if strings.Contains(string(text), disaster) {
				s.t.Errorf("%s said %q", p.Name, disaster)
			}
		}
	}
}
