package workload

import (
	"context"
	"fmt"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/history"
)

// leaseHolder takes leases, puts a key on each, keeps it alive for a while, and then
// revokes it or lets it end. For one goroutine.
type leaseHolder struct {
	session *session
	leases  []lease
	early   []string // What ended too soon, as the leaseHolder saw it.
}

// lease is what a leaseHolder knows about one of its leases.
type lease struct {
	id    int64
	ttl   time.Duration
	alive int64 // When the last request was sent that gave it its full time.
	// revoked says that the leaseHolder asked to end it.
	revoked bool
}

func leaseKey(id int64) string { return fmt.Sprintf("lease/%d", id) }

func (l *leaseHolder) run(ctx context.Context, pause time.Duration) {
	for ctx.Err() == nil {
		if current, ok := l.grant(ctx); ok {
			l.hold(ctx, &current)
			l.leases = append(l.leases, current)
		}
		_ = Pause(ctx, time.Duration(l.session.rng.Int64N(int64(max(500*time.Millisecond, 3*pause)))))
	}
}

// grant takes a new lease, under an id of the leaseHolder's choice.
func (l *leaseHolder) grant(ctx context.Context) (lease, bool) {
	s := l.session
	s.sequence++
	request := &kvv1.GrantRequest{
		Id: int64(s.client)*1_000_000 + int64(s.sequence), TtlSeconds: 2 + s.rng.Int64N(3),
		RequestId: &kvv1.RequestId{ClientId: s.id, Sequence: s.sequence, KnownRevision: s.seen},
	}
	sent := s.recorder.Now()
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	if _, err := kvv1.NewLeaseServiceClient(s.conn()).Grant(ctx, request); err != nil {
		return lease{}, false
	}
	return lease{id: request.Id, ttl: time.Duration(request.TtlSeconds) * time.Second, alive: sent}, true
}

// hold puts the lease's key and keeps the lease alive.
func (l *leaseHolder) hold(ctx context.Context, current *lease) {
	s := l.session
	key := leaseKey(current.id)
	s.write(ctx, &history.Op{Name: "lease-put", Writes: []history.Write{{Key: key, Value: s.value(), Lease: current.id}}})
	for range s.rng.IntN(12) {
		if Pause(ctx, current.ttl/5) != nil {
			return
		}
		if !l.keepAlive(ctx, current) {
			return
		}
		s.read(ctx, &history.Op{Name: "lease-get", Read: &history.Read{Key: key, Consistency: history.Linearizable}}, false)
	}
	if s.rng.IntN(2) == 0 {
		current.revoked = true
		call, cancel := context.WithTimeout(ctx, s.timeout())
		defer cancel()
		_, _ = kvv1.NewLeaseServiceClient(s.conn()).Revoke(call, &kvv1.RevokeRequest{Id: current.id})
	}
}

// keepAlive is false when the lease is gone.
func (l *leaseHolder) keepAlive(ctx context.Context, current *lease) bool {
	s := l.session
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	stream, err := kvv1.NewLeaseServiceClient(s.conn()).KeepAlive(ctx)
	if err != nil {
		return true
	}
	sent := s.recorder.Now()
	if stream.Send(&kvv1.KeepAliveRequest{Id: current.id}) != nil {
		return true
	}
	answer, err := stream.Recv()
	if err != nil {
		return true
	}
	if answer.TtlSeconds == 0 {
		if now := s.recorder.Now(); now < current.alive+int64(current.ttl) {
			l.early = append(l.early, fmt.Sprintf("lease %d of %v was gone at %v, though it had its full time at %v",
				current.id, current.ttl, time.Duration(now), time.Duration(current.alive)))
		}
		return false
	}
	current.alive = sent
	return true
}

// checkLeases tells whether a key went with its lease before the lease's time.
func (w *Workload) checkLeases(l *history.Log) []history.Violation {
	all, leaseHolders := w.historian.watch, w.leaseHolders
	var found []history.Violation
	ends := map[string]lease{}
	for _, each := range leaseHolders {
		for _, text := range each.early {
			found = append(found, history.Violation{Check: "lease", Text: text})
		}
		for _, one := range each.leases {
			ends[leaseKey(one.id)] = one
		}
	}
	for _, e := range all.Events {
		one, ok := ends[e.Key]
		if !ok || !e.Delete || one.revoked {
			continue
		}
		if e.At < one.alive+int64(one.ttl) {
			found = append(found, history.Violation{Check: "lease", Text: fmt.Sprintf(
				"key %s went at revision %d, at %v at the latest: its lease of %v had its full time at %v",
				e.Key, e.Mod, time.Duration(e.At), one.ttl, time.Duration(one.alive))})
		}
	}
	for _, kv := range l.All(l.Last()) {
		if kv.Lease != 0 {
			found = append(found, history.Violation{Check: "lease", Text: fmt.Sprintf("%+v outlived its lease", kv)})
		}
	}
	return found
}
