package store

import (
	"context"
	"errors"
	"fmt"
	"testing"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// countdown is a context that ends when it was asked so often.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func (c *countdown) Done() <-chan struct{} {
	if c.left >= 0 {
		return nil
	}
	done := make(chan struct{})
	close(done)
	return done
}

// A watcher that is far behind and finds nothing must hear its context, and say
// how far it is: whoever waits for it takes silence for a hung pod, and the next
// one would begin at the same place.
func TestAWatcherThatFindsNothingTellsHowFarItIs(t *testing.T) {
	s, err := Open(Options{Dir: tempDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer closeChecked(t, s)
	const entries, each = 10, watchLook / 2
	for i := range uint64(entries) {
		batch := &kvv1.WriteBatch{}
		for j := range each {
			p := &kvv1.PutRequest{Key: fmt.Appendf(nil, "other/%d", j%100)}
			batch.Writes = append(batch.Writes, &kvv1.Write{Write: &kvv1.Write_Put{Put: p}})
		}
		s.Apply(i+1, 1, []*kvv1.Command{{Command: &kvv1.Command_Batch{Batch: batch}}})
		if i == entries/2 { // Half of it is on the disk.
			if err := s.Flush(context.Background(), i+1); err != nil {
				t.Fatal(err)
			}
		}
	}
	last := s.Revision()
	s.Apply(entries+1, 1, []*kvv1.Command{put("mine", "1")})
	w, err := s.Watch(&kvv1.WatchRequest{Key: []byte("mine"), StartRevision: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	response, err := w.Next(&countdown{Context: context.Background(), left: 2})
	if response != nil || !errors.Is(err, context.Canceled) {
		t.Fatalf("Next did not hear that its context had ended: %v %v", response, err)
	}
	before := w.Progress()
	if before < 1+watchLook || before >= last {
		t.Fatalf("progress %d of %d after a look at %d changes", before, last, watchLook)
	}
	// Poll gives way to others after each look.
	response, more, err := w.Poll(context.Background())
	if response != nil || !more || err != nil || w.Progress() <= before {
		t.Fatalf("%v %v %v, progress %d", response, more, err, w.Progress())
	}
	response, err = w.Next(context.Background())
	if err != nil || response.Events[0].Kv.ModRevision != last+1 || w.Progress() != last+1 {
		t.Fatalf("%v %v, progress %d", response, err, w.Progress())
	}
}

// A reader of many watchers is woken when all of them have been told: before, it would
// find some, and send to a client twice.
func TestOneWakingForAllWatchers(t *testing.T) {
	s, err := Open(Options{Dir: tempDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer closeChecked(t, s)
	told, wake := 0, make(chan struct{}, 1)
	for range 3 {
		w, err := s.Watch(&kvv1.WatchRequest{Key: []byte("k")})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		w.OnReady(func() chan<- struct{} {
			if len(wake) > 0 {
				t.Errorf("woken after %d watchers", told)
			}
			told++
			return wake
		})
	}
	s.Apply(1, 1, []*kvv1.Command{put("k", "v")})
	if told != 3 || len(wake) != 1 {
		t.Errorf("%d watchers were told, woken %d times", told, len(wake))
	}
}
