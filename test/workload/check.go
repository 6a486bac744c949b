package workload

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/history"
)

// askTimeout bounds a question to one pod about all that it has.
const askTimeout = 20 * time.Second

// Copy asks a pod for its hash and all its keys at a revision.
func Copy(ctx context.Context, pod string, conn *grpc.ClientConn, revision int64) (history.Copy, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	connected(ctx, conn)
	read := &history.Read{Key: "\x00", End: "\x00", Consistency: history.Local, MinRevision: revision, At: revision}
	all, err := sendScan(read)(ctx, conn)
	if err != nil {
		return history.Copy{}, fmt.Errorf("scan: %w", err)
	}
	hash, err := kvv1.NewMaintenanceServiceClient(conn).Hash(ctx, &kvv1.HashRequest{Revision: revision})
	if err != nil {
		return history.Copy{}, fmt.Errorf("hash: %w", err)
	}
	return history.Copy{Pod: pod, Revision: hash.Revision, Hash: hash.Hash, KVs: all.KVs}, nil
}

// connected waits for a connection that could not be made until now: a call before
// the next attempt fails with the last one's error.
func connected(ctx context.Context, conn *grpc.ClientConn) {
	for {
		state := conn.GetState()
		if state == connectivity.Ready {
			return
		}
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// Rewatch watches everything that a pod still has, from its oldest revision up to
// one.
func (w *Workload) Rewatch(ctx context.Context, pod string, conn *grpc.ClientConn, oldest, revision int64) (*history.Watch, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	seen := history.NewWatch("again from "+pod, "\x00", "\x00", max(1, oldest), true)
	stream, err := kvv1.NewWatchServiceClient(conn).Watch(ctx, &kvv1.WatchRequest{
		Key: []byte("\x00"), RangeEnd: []byte("\x00"), StartRevision: seen.Start, PrevKv: true, ProgressIntervalMs: 100,
	})
	seen.Open()
	for err == nil && seen.Through < revision {
		var m *kvv1.WatchResponse
		if m, err = stream.Recv(); err == nil {
			seen.Receive(m, w.Recorder.Now())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("from %d: %w", seen.Start, err)
	}
	return seen, nil
}

// Check holds all that was seen together. The recording has ended; copies and
// rewatched are of the end, and dir gets pictures of what is not linearizable.
func (w *Workload) Check(copies []history.Copy, rewatched []*history.Watch, dir string) []history.Violation {
	h, compacted := w.Recorder.History(), w.Compacted.Load()
	historian := w.historian.watch
	l := history.NewLog(historian)
	found := history.CheckLog(historian)
	for _, seen := range append(rewatched, h.Watches...) {
		found = append(found, history.CheckWatch(l, seen, compacted)...)
	}
	found = append(found, history.CheckSerial(l, h, compacted)...)
	found = append(found, history.CheckLinearizable(h, l, groups, 2*time.Minute, dir)...)
	found = append(found, history.CheckTotal(l, &bankRange, w.opened, accounts*balance, amount)...)
	found = append(found, history.CheckSamples(h.Samples)...)
	found = append(found, history.CheckCopies(l, copies)...)
	return append(found, w.checkLeases(l)...)
}

// Summary says what was done, so that a run that did nothing is seen.
func (w *Workload) Summary() (text string, answered int) {
	h := w.Recorder.History()
	outcomes, kinds, terms := map[history.Outcome]int{}, map[string]int{}, map[uint64]bool{}
	replayed, leases := 0, 0
	for _, op := range h.Ops {
		outcomes[op.Outcome]++
		if op.Outcome == history.OK {
			kinds[op.Name]++
		}
		if op.Replayed {
			replayed++
		}
	}
	for _, s := range h.Samples {
		if s.Master {
			terms[s.Term] = true
		}
	}
	for _, each := range w.leaseHolders {
		leases += len(each.leases)
	}
	return fmt.Sprintf("%d ops: %v, answered %v, %d replayed; %d revisions, %d events of the restless watcher over %d streams; %d leases; %d masters seen",
		len(h.Ops), outcomes, kinds, replayed, w.historian.watch.Through, len(h.Watches[1].Events), h.Watches[1].Streams,
		leases, len(terms)), outcomes[history.OK]
}
