package security

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
)

const (
	// podLimit is the manifest's limit on memory, and goLimit what kvd makes of it.
	podLimit = 1 << 30
	goLimit  = "GOMEMLIMIT=921MiB"
	callers  = 8
	// usual and attacked are how long the load is measured before and during an attack.
	usual, attacked = 4 * time.Second, 6 * time.Second
	// patience of the load's percentile under attack: the machine may be busy.
	patience = time.Second
)

// Every attack goes to the master, from another address than the load's. Meanwhile the
// load's writes go on, their 99th percentile stays within bounds, and no pod takes more
// memory than it has.
func TestAttacksOnTheClientPort(t *testing.T) {
	c := launch(t)
	master := c.AwaitMaster(t)
	fill(t, master)
	for _, attack := range clientAttacks {
		t.Run(attack.name, func(t *testing.T) {
			before := load(t, master, usual)
			watch := watchMemory(c)
			ctx, stop := context.WithCancel(t.Context())
			var running sync.WaitGroup
			a := &attacker{ctx: ctx, pod: master, running: &running}
			if err := attack.begin(a); err != nil {
				t.Error("the attack could not begin:", err)
			}
			during := load(t, master, attacked)
			stop()
			a.end()
			running.Wait()
			memory := watch.end()
			t.Logf("99th percentile %s, usually %s (%.1f times), 99.9th %s; %d writes a second, usually %d; at most %d MiB; %s",
				during.at(0.99), before.at(0.99), float64(during.at(0.99))/float64(before.at(0.99)), during.at(0.999),
				during.rate(attacked), before.rate(usual), memory>>20, a.report())
			if memory > podLimit {
				t.Errorf("a pod took %d MiB", memory>>20)
			}
			if during.at(0.99) > patience {
				t.Errorf("the 99th percentile was %s", during.at(0.99))
			}
			for _, p := range c.Pods {
				if !p.Running() {
					t.Fatalf("%s has ended:\n%s", p.Name, cluster.Last(p))
				}
			}
		})
	}
}

func launch(t *testing.T) *cluster.Cluster {
	t.Helper()
	c, err := cluster.New(t.TempDir(), cluster.Program(t, cluster.Kvd), 3)
	if err != nil {
		t.Fatal(err)
	}
	c.EndWith(t)
	for _, p := range c.Pods {
		p.Env = append(p.Env, goLimit)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitWhole(t.Context(), cluster.Patience); err != nil {
		t.Fatal(err)
	}
	return c
}

// fill writes 200,000 small keys under small/, and 32 MiB under large/.
func fill(t *testing.T, p *cluster.Pod) {
	t.Helper()
	both, err := kvv1.NewKVServiceClient(p.Conn()).Batch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var batches []*kvv1.WriteBatch
	for n := range 200 {
		batch := &kvv1.WriteBatch{}
		for i := range 1000 {
			batch.Writes = append(batch.Writes, putOf(fmt.Sprintf("small/%03d%03d", n, i), 20))
		}
		batches = append(batches, batch)
	}
	for i := range 32 {
		batches = append(batches, &kvv1.WriteBatch{Writes: []*kvv1.Write{putOf(fmt.Sprintf("large/%02d", i), 1<<20)}})
	}
	for i, batch := range batches {
		if err := both.Send(&kvv1.BatchRequest{Id: uint64(i), Batch: batch}); err != nil {
			t.Fatal(err)
		}
		if answer, err := both.Recv(); err != nil || answer.GetError() != nil {
			t.Fatal(answer.GetError(), err)
		}
	}
}

func putOf(key string, size int) *kvv1.Write {
	return &kvv1.Write{Write: &kvv1.Write_Put{Put: &kvv1.PutRequest{Key: []byte(key), Value: make([]byte, size)}}}
}

// latencies of a load's writes, sorted.
type latencies []time.Duration

func (l latencies) at(part float64) time.Duration {
	return l[min(int(part*float64(len(l))), len(l)-1)].Round(10 * time.Microsecond)
}

func (l latencies) rate(during time.Duration) int { return int(float64(len(l)) / during.Seconds()) }

// load writes for a while. One in a hundred may fail, since on a busy machine the master
// may change.
func load(t *testing.T, p *cluster.Pod, during time.Duration) latencies {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), during+time.Minute)
	defer cancel()
	kv := kvv1.NewKVServiceClient(p.Conn())
	var (
		mu     sync.Mutex
		all    latencies
		end    = time.Now().Add(during)
		run    sync.WaitGroup
		failed atomic.Int64
	)
	for n := range callers {
		run.Go(func() {
			var own latencies
			for i := 0; time.Now().Before(end); i++ {
				begin := time.Now()
				_, err := kv.Put(ctx, &kvv1.PutRequest{Key: fmt.Appendf(nil, "load/%d/%d", n, i%100), Value: make([]byte, 256)})
				if err != nil {
					t.Logf("a write of the load failed: %v", err)
					failed.Add(1)
					continue
				}
				own = append(own, time.Since(begin))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	run.Wait()
	if len(all) == 0 || failed.Load() > int64(len(all)/100) {
		t.Fatalf("%d writes succeeded, %d failed", len(all), failed.Load())
	}
	slices.Sort(all)
	return all
}

// memory watches what the pods' processes have taken, without what is on disk, too.
type memory struct {
	most  atomic.Int64
	stop  chan struct{}
	ended chan struct{}
}

func watchMemory(c *cluster.Cluster) *memory {
	m := &memory{stop: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(m.ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, p := range c.Pods {
				m.most.Store(max(m.most.Load(), anonymous(p.PID())))
			}
			select {
			case <-m.stop:
				return
			case <-tick.C:
			}
		}
	}()
	return m
}

func (m *memory) end() int64 {
	close(m.stop)
	<-m.ended
	return m.most.Load()
}

// anonymous is RssAnon of a process, in bytes; 0 if it has ended.
func anonymous(pid int) int64 {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}
