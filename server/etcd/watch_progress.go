package etcd

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// progress is a progress request of a stream, waiting for its answer.
type progress struct {
	asked  chan struct{}    // Closed when the master was asked what is newest; nil: no request.
	asking sync.WaitGroup   // Its goroutine.
	wanted int64            // What every watch must reach before the answer; 0: none.
	retry  <-chan time.Time // When that is looked at again.
}

// notifyProgress says how far each watch is that asked for it and has had nothing to
// send since the last time.
func (s *watchStream) notifyProgress(ctx context.Context) error {
	newest, err := s.revision(ctx)
	if err != nil {
		return err
	}
	for _, w := range s.watches {
		if w.notify && w.quiet && w.changes.GetStartRevision() <= newest {
			reached := &pb.WatchResponse{Header: s.pod.header(min(w.cursor.Progress(), newest)), WatchId: w.id}
			if err := s.both.Send(reached); err != nil {
				return err
			}
		}
		w.quiet = true
	}
	return nil
}

// requestProgress has the answer sent as soon as every watch of the stream has sent
// what there was, on any pod, when the client asked. Requests that come meanwhile
// share the answer; where there is no watch, there is none, and the master is not asked.
func (s *watchStream) requestProgress(ctx context.Context) {
	if len(s.watches) == 0 || s.progress.asked != nil || s.progress.wanted != 0 {
		return
	}
	asked := make(chan struct{})
	s.progress.asked = asked
	s.progress.asking.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, progressPatience)
		defer cancel()
		_, _ = s.pod.Read(ctx, nil) // See progressPatience.
		close(asked)
	})
}

func (s *watchStream) beginProgress(ctx context.Context) (err error) {
	s.progress.asked = nil
	if s.progress.wanted, err = s.revision(ctx); err != nil {
		return err
	}
	return s.tellProgress()
}

// tellProgress sends how far all watches are, once that is far enough. As in etcd
// there is no answer while a watch starts in the future: its client would resume
// from the answer, which is before the watch's start.
func (s *watchStream) tellProgress() error {
	reached, ahead := int64(0), len(s.watches) == 0
	for _, w := range s.watches {
		ahead = ahead || w.changes.GetStartRevision() > s.progress.wanted
		if p := w.cursor.Progress(); reached == 0 || p < reached {
			reached = p
		}
	}
	s.progress.retry = nil
	if !ahead && reached < s.progress.wanted {
		s.progress.retry = time.After(progressPoll)
		return nil
	}
	s.progress.wanted = 0
	if ahead {
		return nil
	}
	return s.both.Send(&pb.WatchResponse{Header: s.pod.header(reached), WatchId: noWatch})
}
