package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/store"
)

// stateMachine is the store as replication wants it.
type stateMachine struct{ *store.Store }

func (m stateMachine) Durable() replication.Position {
	return replication.Position(m.Store.Durable())
}

func (m stateMachine) Snapshot() (replication.Snapshot, error) {
	s, err := m.Store.Snapshot()
	if err != nil {
		return nil, err
	}
	return snapshot{s}, nil
}

func (m stateMachine) Restore(r io.Reader) error {
	err := m.Store.Restore(r)
	if errors.Is(err, store.ErrCorrupt) {
		err = fmt.Errorf("%w: %w", replication.ErrDamaged, err)
	}
	return err
}

// snapshot is the store's as replication wants it.
type snapshot struct{ *store.Snapshot }

func (s snapshot) Position() replication.Position {
	return replication.Position(s.Snapshot.Position)
}

func (s snapshot) Size() int64 { return s.Snapshot.Size }

// serverStore is the store as the server wants it.
type serverStore struct{ *store.Store }

func (s serverStore) Watch(req *kvv1.WatchRequest) (server.Watcher, error) {
	return s.Store.Watch(req)
}

func (s serverStore) Snapshot(ctx context.Context) (io.ReadCloser, int64, error) {
	if err := s.Flush(ctx, s.Applied()); err != nil {
		return nil, 0, err
	}
	snapshot, err := s.Store.Snapshot()
	if err != nil {
		return nil, 0, err
	}
	return snapshot, snapshot.Size, nil
}
