package replication

import (
	"context"
	"errors"
	"testing"
)

// A reader that comes while an index is got waits for the next one: the write
// that it must see may have been acknowledged in between.
func TestAReaderUsesNoEarlierIndex(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan uint64)
	r := newReadIndexer(newMeter().readIndexes, func(context.Context) (readIndex, error) {
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
			got <- g.index
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
	r := &reader{replica: &replica{views: newViews("kv-0/a", 0)}}
	r.replica.views.now.Store(&view{leads: true, master: "kv-0/a", term: 2, changed: make(chan struct{})})
	if index, err := r.confirmIndex(t.Context()); !errors.Is(err, ErrNoMaster) {
		t.Errorf("it gave %v, %v", index, err)
	}
}
