package etcd

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// progress is a stream's progress request that waits for its answer.
type progress struct {
	asked  chan struct{}    // Closed when the master was asked what is newest; nil: no request.
	asking sync.WaitGroup   // Its goroutine.
	wanted int64            // What every watch must reach before the answer; 0: none.
	retry  <-chan time.Time // When that is looked at again.
}

// notifyProgress tells each watch that wants it, and that had nothing to send
// since the last time, how far it is.
func (s *watchStream) notifyProgress(ctx context.Context) error {
	newest, err := s.revision(ctx)
	if err != nil {
		return err
	}
	for _, w := range s.watches {
		if w.notify && w.quiet && w.changes.GetStartRevision() <= newest {
			reached := &pb.WatchResponse{Header: s.header(min(w.cursor.Progress(), newest)), WatchId: w.id}
			if err := s.both.Send(reached); err != nil {
				return err
			}
		}
		w.quiet = true
	}
	return nil
}

// requestProgress answers as soon as every watch of the stream has sent what
// was there when the client asked, on whichever pod. Requests that come in the
// meantime have the same answer.
func (s *watchStream) requestProgress(ctx context.Context) {
	if s.asked != nil || s.wanted != 0 {
		return
	}
	asked := make(chan struct{})
	s.asked = asked
	s.asking.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, progressPatience)
		defer cancel()
		_, _ = s.Read(ctx, nil) // See progressPatience.
		close(asked)
	})
}

func (s *watchStream) beginProgress(ctx context.Context) (err error) {
	s.asked = nil
	if s.wanted, err = s.revision(ctx); err != nil {
		return err
	}
	return s.tellProgress()
}

// tellProgress sends how far all watches are, once that is far enough. As in
// etcd there is no answer while a watch starts in the future: its client would
// go on from the answer, before its start.
func (s *watchStream) tellProgress() error {
	reached, ahead := int64(0), len(s.watches) == 0
	for _, w := range s.watches {
		ahead = ahead || w.changes.GetStartRevision() > s.wanted
		if p := w.cursor.Progress(); reached == 0 || p < reached {
			reached = p
		}
	}
	s.retry = nil
	if !ahead && reached < s.wanted {
		s.retry = time.After(progressPoll)
		return nil
	}
	s.wanted = 0
	if ahead {
		return nil
	}
	return s.both.Send(&pb.WatchResponse{Header: s.header(reached), WatchId: noWatch})
}
