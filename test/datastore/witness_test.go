//go:build e2e

package datastore

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// every is how often the witness writes.
const every = 50 * time.Millisecond

// witness writes a ConfigMap through the API server again and again, and has
// one watch of it, which must see every write.
type witness struct {
	t       *testing.T
	maps    typed.ConfigMapInterface
	stop    context.CancelFunc // Of the writes.
	writer  sync.WaitGroup
	watcher sync.WaitGroup
	mu      sync.Mutex // guards what follows
	written int        // The number in the last write that was acknowledged.
	writes  int
	failed  int
	gap     time.Duration // The longest time from one acknowledged write to the next.
	last    time.Time
	seen    map[int]bool // The numbers that the watch has seen.
	broken  string       // Why the watch ended early.
}

func newAPI(t *testing.T) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 100, 200
	return kubernetes.NewForConfigOrDie(config)
}

func startWitness(t *testing.T, api kubernetes.Interface) *witness {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &witness{t: t, maps: api.CoreV1().ConfigMaps("default"), stop: cancel, seen: map[int]bool{}, last: time.Now()}
	first, err := w.maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "witness"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	patient := int64(3600)
	events, err := w.maps.Watch(t.Context(), metav1.ListOptions{
		FieldSelector: "metadata.name=witness", ResourceVersion: first.ResourceVersion, TimeoutSeconds: &patient,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.watcher.Go(func() { w.watch(events) })
	w.writer.Go(func() { w.write(ctx) })
	t.Cleanup(func() { cancel(); w.writer.Wait(); events.Stop(); w.watcher.Wait() })
	return w
}

func (w *witness) write(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 1; ctx.Err() == nil; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		_, err := w.maps.Update(attempt, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "witness"}, Data: map[string]string{"n": strconv.Itoa(n)},
		}, metav1.UpdateOptions{})
		cancel()
		w.mu.Lock()
		if err == nil {
			w.gap, w.last = max(w.gap, time.Since(w.last)), time.Now()
			w.written, w.writes = n, w.writes+1
		} else if ctx.Err() == nil {
			w.failed++
			w.t.Logf("a write failed: %v", err)
		}
		w.mu.Unlock()
	}
}

func (w *witness) watch(events watch.Interface) {
	for event := range events.ResultChan() {
		w.mu.Lock()
		if m, ok := event.Object.(*corev1.ConfigMap); ok {
			n, _ := strconv.Atoi(m.Data["n"])
			w.seen[n] = true
		} else if w.broken == "" {
			w.broken = fmt.Sprintf("it got %s: %v", event.Type, event.Object)
		}
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken == "" {
		w.broken = "it ended"
	}
}

// longestGap since the last call of it.
func (w *witness) longestGap() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	gap := max(w.gap, time.Since(w.last))
	w.gap = 0
	return gap
}

// check ends the writes, and fails if the watch missed one.
func (w *witness) check() {
	w.t.Helper()
	w.stop()
	w.writer.Wait()
	eventually(w.t, 30*time.Second, "the watch has seen the last write", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.broken != "" || w.seen[w.written]
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != "" {
		w.t.Errorf("the watch: %s", w.broken)
	}
	if len(w.seen) < w.writes {
		w.t.Errorf("the watch saw %d of %d writes", len(w.seen), w.writes)
	}
}
