package workload

import (
	"context"
	"errors"
	"time"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/history"
)

// library is the Go client that sessions share, and one Batcher. It promises that
// what it repeats is applied once.
type library struct {
	client  *client.Client
	batcher *client.Batcher
}

func (w *Workload) newLibrary() (*library, error) {
	options := client.Options{AttemptTimeout: 700 * time.Millisecond, DialOptions: w.DialOptions}
	for _, t := range w.Targets {
		options.Endpoints = append(options.Endpoints, t.Address)
	}
	made, err := client.New(options)
	if err != nil {
		return nil, err
	}
	batcher, err := made.NewBatcher(client.BatchOptions{})
	if err != nil {
		return nil, errors.Join(err, made.Close())
	}
	return &library{made, batcher}, nil
}

func (l *library) close() error { return errors.Join(l.batcher.Close(), l.client.Close()) }

// write runs an op through the library.
func (s *session) writeByLibrary(ctx context.Context, op *history.Op) {
	op.Client = s.client
	_ = s.recorder.Call(ctx, op, patience, func(ctx context.Context) (history.Answer, error) { return s.sendByLibrary(ctx, op) })
	s.learn(op)
}

func (s *session) sendByLibrary(ctx context.Context, op *history.Op) (history.Answer, error) {
	if len(op.Guards) > 0 || len(op.Writes) != 1 || op.Read != nil || s.rng.IntN(8) == 0 {
		return s.txnByLibrary(ctx, op)
	}
	w := op.Writes[0]
	batched := s.rng.IntN(3) == 0
	switch {
	case batched && w.Delete:
		r, err := s.library.batcher.Do(ctx, &kvv1.Write{Write: &kvv1.Write_Delete{Delete: &kvv1.DeleteRequest{Key: []byte(w.Key)}}})
		return history.Answer{Revision: r.GetRevision(), Succeeded: true, Deleted: r.GetDelete().GetDeleted()}, err
	case batched:
		revision, err := s.library.batcher.Put(ctx, w.Key, history.Expand(w.Value))
		return history.Answer{Revision: revision, Succeeded: true}, err
	case w.Delete:
		r, err := s.library.client.Delete(ctx, client.Key(w.Key))
		a := history.NewAnswer(r.GetHeader())
		a.Deleted = r.GetDeleted()
		return a, err
	}
	r, err := s.library.client.Put(ctx, w.Key, history.Expand(w.Value))
	return history.NewAnswer(r.GetHeader()), err
}

func (s *session) txnByLibrary(ctx context.Context, op *history.Op) (history.Answer, error) {
	request := txnRequest(op)
	txn := s.library.client.Txn()
	for _, c := range request.Compare {
		txn = txn.If(c)
	}
	txn = txn.Then()
	for _, w := range op.Writes {
		if w.Delete {
			txn = txn.Delete(client.Key(w.Key))
		} else {
			txn = txn.Put(w.Key, history.Expand(w.Value), client.WithLease(w.Lease))
		}
	}
	if op.Read != nil {
		txn = txn.Get(client.Key(op.Read.Key)).Else().Get(client.Key(op.Read.Key))
	}
	r, err := txn.Commit(ctx)
	return txnAnswer(r), err
}

// readByLibrary is a read of one op through the library.
func (s *session) readByLibrary(ctx context.Context, r *history.Read, scan bool) (history.Answer, error) {
	keys := client.Key(r.Key)
	if r.End != "" {
		keys = client.Between(r.Key, r.End)
	}
	options := []client.ReadOption{client.MinRevision(r.MinRevision), client.AtRevision(r.At)}
	switch r.Consistency {
	case history.Local:
		options = append(options, client.LocalRead())
	case history.Bounded:
		options = append(options, client.MaxStaleness(r.Staleness))
	}
	if scan {
		// The iterator does not say at which revision it read: nothing to check
		// but that it works, so the page is asked for.
		for _, err := range s.library.client.Scan(ctx, keys, options...) {
			if err != nil {
				return history.Answer{}, err
			}
		}
	}
	page, err := s.library.client.Range(ctx, keys, options...)
	a := history.NewAnswer(page.GetHeader())
	for _, kv := range page.GetKvs() {
		a.KVs = append(a.KVs, history.NewKV(kv))
	}
	return a, err
}
