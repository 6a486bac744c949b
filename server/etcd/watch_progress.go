package etcd

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// notifyProgress tells each watch that wants it, and that had nothing to send
// since the last time, how far it is.
func (s *watchStream) notifyProgress(ctx context.Context) error {
	newest, err := s.revision(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watches {
		if w.notify && w.quiet && w.changes.GetStartRevision() <= newest {
			progress := &pb.WatchResponse{Header: s.header(min(w.cursor.Taken(), newest)), WatchId: w.id}
			if err := s.both.Send(progress); err != nil {
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked {
		s.asked = true
		s.all.Go(func() {
			if err := s.answerProgress(ctx); err != nil {
				s.end(err)
			}
		})
	}
}

func (s *watchStream) answerProgress(ctx context.Context) error {
	patience, cancel := context.WithTimeout(ctx, progressPatience)
	_, _ = s.Read(patience, nil) // See progressPatience.
	cancel()
	wanted, err := s.revision(ctx)
	if err != nil {
		return err
	}
	poll := time.NewTicker(progressPoll)
	defer poll.Stop()
	for {
		if answered, err := s.tellProgress(wanted); answered || err != nil {
			return err
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tellProgress sends how far all watches are, if that is far enough. As in etcd
// there is no answer while a watch starts in the future: its client would go on
// from the answer, before its start.
func (s *watchStream) tellProgress(wanted int64) (answered bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	progress, ahead := int64(0), len(s.watches) == 0
	for _, w := range s.watches {
		ahead = ahead || w.changes.GetStartRevision() > wanted
		if reached := w.cursor.Taken(); progress == 0 || reached < progress {
			progress = reached
		}
	}
	if !ahead && progress < wanted {
		return false, nil
	}
	s.asked = false
	if ahead {
		return true, nil
	}
	return true, s.both.Send(&pb.WatchResponse{Header: s.header(progress), WatchId: noWatch})
}
