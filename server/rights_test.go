package server

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/access"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// as is the context of a call with the token of a user's password.
func as(ctx context.Context, user string, generation uint64) context.Context {
	return metadata.AppendToOutgoingContext(ctx, etcdTokenKey, newToken([]byte("key"), user, generation, time.Now().Add(tokenTTL)))
}

// However many calls are refused by this pod's rights, the master's are read once for those
// that come together; a call that is permitted does not wait for that.
func TestRefusalsShareTheMaster(t *testing.T) {
	p := newPod(t, "kv-0").use()
	p.store.enable()
	p.store.addUser("alice", "")
	alice := as(t.Context(), "alice", p.store.Access().User("alice").GetGeneration())
	calls := []func(context.Context) error{
		func(ctx context.Context) error {
			_, err := p.kv().Put(ctx, &kvv1.PutRequest{Key: []byte("k")})
			return err
		},
		func(ctx context.Context) error {
			_, err := p.kv().Range(ctx, &kvv1.RangeRequest{Key: []byte("k")})
			return err
		},
		func(ctx context.Context) error {
			_, err := kvv1.NewMaintenanceServiceClient(p.conn).Compact(ctx, &kvv1.CompactRequest{Revision: 1})
			return err
		},
	}
	auth := kvv1.NewAuthServiceClient(p.conn)
	anybodys := []func(context.Context) error{
		func(ctx context.Context) error { _, err := auth.AuthStatus(ctx, &kvv1.AuthStatusRequest{}); return err },
		func(ctx context.Context) error {
			if _, err := auth.Login(ctx, &kvv1.LoginRequest{User: "nobody"}); status.Code(err) != codes.Unauthenticated {
				return err
			}
			return nil
		},
	}
	const together = 300
	readings := 0
	waiting := func() int {
		p.core.rights.mu.Lock()
		defer p.core.rights.mu.Unlock()
		if next := p.core.rights.next; next != nil {
			return next.calls
		}
		return 0
	}
	first := 0
	p.log.mu.Lock()
	p.log.reading = func() { // The first one takes until all are there.
		if readings++; readings == 1 {
			p.core.rights.mu.Lock()
			first = p.core.rights.last.calls
			p.core.rights.mu.Unlock()
			for begun := time.Now(); waiting()+first < together+len(anybodys) && time.Since(begun) < 10*time.Second; {
				time.Sleep(time.Millisecond)
			}
		}
	}
	p.log.mu.Unlock()
	var all sync.WaitGroup
	for i := range together {
		all.Go(func() {
			if err := calls[i%len(calls)](alice); status.Code(err) != codes.PermissionDenied {
				t.Error(err)
			}
		})
	}
	for _, call := range anybodys {
		all.Go(func() {
			if err := call(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	if readings != 2 {
		t.Errorf("%d refusals asked the master %d times", together, readings)
	}
	if left := time.Until(p.core.rights.after); left > maxRefusalPause {
		t.Errorf("the next ones wait for %s", left)
	}
}

// Who was given a right just now, on another pod, is not refused by one that has yet to hear
// of it, also while others are refused there.
func TestARightThatWasJustGranted(t *testing.T) {
	p := newPod(t, "kv-0").use()
	p.store.enable()
	p.store.addUser("alice", "")
	alice := as(within5s(t), "alice", p.store.Access().User("alice").GetGeneration())
	flood, stop := context.WithCancel(as(t.Context(), "bob", 9))
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	for range 50 {
		all.Go(func() {
			for flood.Err() == nil {
				_, _ = p.kv().Range(flood, &kvv1.RangeRequest{Key: []byte("k")})
			}
		})
	}
	granted := &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: "alice", Role: access.Root}}}
	var once sync.Once
	p.log.mu.Lock()
	pending := false
	p.log.reading = func() { // The pod applies what it lacks, if there is something.
		if pending {
			once.Do(func() {
				p.store.apply(&kvv1.Command{Identity: &kvv1.Identity{Pod: true}, Command: &kvv1.Command_Auth{Auth: granted}})
			})
		}
	}
	p.log.mu.Unlock()
	if _, err := p.kv().Range(alice, &kvv1.RangeRequest{Key: []byte("k")}); status.Code(err) != codes.PermissionDenied {
		t.Fatalf("before: %v", err)
	}
	p.log.mu.Lock()
	pending = true
	p.log.mu.Unlock()
	if _, err := p.kv().Range(alice, &kvv1.RangeRequest{Key: []byte("k")}); err != nil {
		t.Errorf("a right that was granted before the call: %v", err)
	}
}

// A pod that hears nothing of the master answers alone for a while, and then no more: it
// cannot know who may still read. Without access control there is nothing to know.
func TestRightsThatAreOld(t *testing.T) {
	p := newPod(t, "kv-0").use()
	local := &kvv1.RangeRequest{Key: []byte("k"), Read: &kvv1.ReadOptions{Consistency: kvv1.Consistency_CONSISTENCY_LOCAL}}
	read := func() error {
		_, err := p.kv().Range(as(within5s(t), access.Root, 2), local)
		return err
	}
	cutOff := func(err error) {
		p.log.mu.Lock()
		defer p.log.mu.Unlock()
		p.log.readErr = err
	}
	old := func(age time.Duration) {
		then := time.Now().Add(-age)
		p.core.rights.asOf.Store(&then)
	}
	cutOff(replication.ErrNoMaster)
	if err := read(); err != nil {
		t.Errorf("without access control: %v", err)
	}
	p.store.enable()
	wantReason(t, read(), notReady) // It has never heard of the master.
	old(maxRightsAge - time.Minute)
	if err := read(); err != nil {
		t.Errorf("with rights that are young enough: %v", err)
	}
	watch, err := kvv1.NewWatchServiceClient(p.conn).Watch(as(within5s(t), access.Root, 2), &kvv1.WatchRequest{Key: []byte("k"), ProgressIntervalMs: 100})
	if err == nil {
		_, err = watch.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	old(maxRightsAge)
	wantReason(t, read(), notReady)
	bounded := &kvv1.RangeRequest{Key: []byte("k"), Read: &kvv1.ReadOptions{Consistency: kvv1.Consistency_CONSISTENCY_BOUNDED, MaxStalenessMs: 1 << 31}}
	_, boundedErr := p.kv().Range(as(within5s(t), access.Root, 2), bounded)
	wantReason(t, boundedErr, notReady)
	for err == nil {
		_, err = watch.Recv()
	}
	wantReason(t, err, notReady)
	cutOff(nil)
	if err := read(); err != nil {
		t.Errorf("with a master again: %v", err)
	}
}
