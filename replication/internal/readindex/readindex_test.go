package readindex

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/raftio"
)

// A reader that comes while an index is got waits for the next one: the write
// that it must see may have been acknowledged in between.
func TestAReaderUsesNoEarlierIndex(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan uint64)
	r := newIndexer(prometheus.NewCounter(prometheus.CounterOpts{}), func(context.Context) (readIndex, error) {
		asked <- struct{}{}
		return readIndex{index: <-answer}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	go r.run(ctx)
	t.Cleanup(func() { cancel(); <-r.ended })
	read := func() chan uint64 {
		got := make(chan uint64, 1)
		go func() {
			g, err := r.get(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- g.readIndex.index
		}()
		return got
	}
	first := read()
	<-asked
	second := read()
	for waiting := false; !waiting; {
		r.mu.Lock()
		waiting = r.next != nil
		r.mu.Unlock()
	}
	answer <- 7
	if index := <-first; index != 7 {
		t.Errorf("the first reader got %d", index)
	}
	<-asked
	answer <- 9
	if index := <-second; index != 9 {
		t.Errorf("the second reader got %d, which was asked for before it came", index)
	}
}

// The commit index of a master that has committed nothing in its own term may be
// behind what was acknowledged.
func TestNotReadyMasterGivesNoIndex(t *testing.T) {
	r := &Reader{replica: &raftio.Replica{Views: raftio.NewViews("kv-0/a", 0)}}
	r.replica.Views.Now.Store(&raftio.View{Leads: true, Master: "kv-0/a", Term: 2, Changed: make(chan struct{})})
	if index, err := r.confirmIndex(t.Context()); !errors.Is(err, replication.ErrNoMaster) {
		t.Errorf("it gave %v, %v", index, err)
	}
}

func TestAgree(t *testing.T) {
	r := &Reader{replica: &raftio.Replica{Trail: &raftio.Trail{}}}
	r.replica.Trail.Note(replication.Mark{Index: 2, Revision: 2})
	for _, same := range []replication.Mark{{}, {Index: 1, Revision: 8}, {Index: 2, Revision: 2}, {Index: 1 << 40}} {
		if err := r.Agree("kv-1", same); err != nil {
			t.Errorf("%+v: %v", same, err)
		}
	}
	for _, other := range []replication.Mark{{Index: 2, Revision: 3}, {Index: 2, Revision: 2, Hash: 1}} {
		if err := r.Agree("kv-1", other); !errors.Is(err, replication.ErrDiffers) {
			t.Errorf("%+v: %v", other, err)
		}
	}
}
