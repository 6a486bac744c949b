package client_test

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/client"
)

func TestKeysComeBackAsTheyWerePut(t *testing.T) {
	_, c := cluster(t, 3)
	ctx := within(t, 5*time.Second)
	if _, err := c.Get(ctx, "a"); !errors.Is(err, client.ErrNotFound) {
		t.Fatalf("Get of an absent key: %v", err)
	}
	first, err := c.Put(ctx, "a", []byte("1"))
	if err != nil || first.GetHeader().GetRevision() != 2 {
		t.Fatalf("Put: %v %v", first, err)
	}
	second, err := c.Put(ctx, "a", []byte("2"), client.WithPrevKV())
	if err != nil || string(second.GetPrevKv().GetValue()) != "1" {
		t.Fatalf("Put with PrevKV: %v %v", second, err)
	}
	kv, err := c.Get(ctx, "a")
	if err != nil || string(kv.GetValue()) != "2" || kv.GetVersion() != 2 {
		t.Fatalf("Get: %v %v", kv, err)
	}
	old, err := c.Get(ctx, "a", client.AtRevision(2))
	if err != nil || string(old.GetValue()) != "1" {
		t.Fatalf("Get at revision 2: %v %v", old, err)
	}
	if c.Revision() != 3 {
		t.Fatalf("Revision is %d", c.Revision())
	}
	deleted, err := c.Delete(ctx, client.Prefix("a"))
	if err != nil || deleted.GetDeleted() != 1 {
		t.Fatalf("Delete: %v %v", deleted, err)
	}
}

func TestScanGivesEachKeyOnceOverBrokenStreams(t *testing.T) {
	fake, c := cluster(t, 3)
	ctx := within(t, 10*time.Second)
	const keys = 950
	for i := range keys {
		if _, err := c.Put(ctx, fmt.Sprintf("k/%04d", i), []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	var messages atomic.Int32
	fake.After(func(_ int, method string) error {
		if method != "Scan" {
			return nil
		}
		if n := messages.Add(1); n%3 == 0 {
			return status.Error([]codes.Code{codes.Unavailable, codes.Internal, codes.Unknown, codes.ResourceExhausted}[n/3%4], "broken")
		}
		return nil
	})
	for _, reverse := range []bool{false, true} {
		for _, limit := range []int64{0, 333} {
			var got []string
			options := []client.ReadOption{client.Limit(limit)}
			if reverse {
				options = append(options, client.Reverse())
			}
			for kv, err := range c.Scan(ctx, client.Prefix("k/"), options...) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(kv.GetKey()))
			}
			want := keys
			if limit > 0 {
				want = int(limit)
			}
			if len(got) != want {
				t.Fatalf("reverse %v limit %d: %d keys", reverse, limit, len(got))
			}
			for i, key := range got {
				n := i
				if reverse {
					n = keys - 1 - i
				}
				if key != fmt.Sprintf("k/%04d", n) {
					t.Fatalf("reverse %v limit %d: key %d is %s", reverse, limit, i, key)
				}
			}
		}
	}
}

// Before the first key that there can be nothing is left to read.
func TestAReverseScanThatBreaksAfterTheFirstKey(t *testing.T) {
	fake, c := cluster(t, 1)
	ctx := within(t, 10*time.Second)
	for _, key := range []string{"\x00", "a", "b"} {
		if _, err := c.Put(ctx, key, nil); err != nil {
			t.Fatal(err)
		}
	}
	fake.After(times(1, "Scan", errBroken))
	var got []string
	for kv, err := range c.Scan(ctx, client.Prefix(""), client.Reverse()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(kv.GetKey()))
	}
	if fmt.Sprintf("%q", got) != `["b" "a" "\x00"]` {
		t.Fatalf("%q", got)
	}
}

func TestScanStopsWhenTheCallerDoes(t *testing.T) {
	_, c := cluster(t, 1)
	ctx := within(t, 5*time.Second)
	for _, key := range []string{"a", "b"} {
		if _, err := c.Put(ctx, key, nil); err != nil {
			t.Fatal(err)
		}
	}
	for kv, err := range c.Scan(ctx, client.Prefix("")) {
		if err != nil || string(kv.GetKey()) != "a" {
			t.Fatalf("%v %v", kv, err)
		}
		break
	}
}

func TestTxnTakesOneBranch(t *testing.T) {
	_, c := cluster(t, 1)
	ctx := within(t, 5*time.Second)
	move := func() bool {
		t.Helper()
		response, err := c.Txn().IfAbsent("a").
			Put("a", []byte("1")).Put("b", []byte("1")).
			Txn(c.Txn().IfAbsent("a").Put("c", nil)). // as it is before the transaction
			Else().Get(client.Key("a")).
			Commit(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return response.GetSucceeded()
	}
	if !move() || move() {
		t.Fatal("the first is to succeed and the second not")
	}
	if n, err := c.Count(ctx, client.Prefix("")); err != nil || n != 3 || c.Revision() != 2 {
		t.Fatalf("%d keys at revision %d, %v", n, c.Revision(), err)
	}
	if _, err := c.Txn().IfVersion("a", "~", 1).Commit(ctx); !errors.Is(err, client.ErrInvalid) {
		t.Fatalf("an operator that does not exist: %v", err)
	}
}

func TestCompactAndErrorsWithMetadata(t *testing.T) {
	_, c := cluster(t, 1)
	ctx := within(t, 5*time.Second)
	for range 5 {
		if _, err := c.Put(ctx, "a", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Compact(ctx, 4); err != nil {
		t.Fatal(err)
	}
	_, err := c.Get(ctx, "a", client.AtRevision(2))
	var e *client.Error
	if !errors.Is(err, client.ErrCompacted) || !errors.As(err, &e) || e.Metadata["oldest_revision"] != "4" {
		t.Fatalf("%v", err)
	}
	if _, err := c.Get(ctx, "a", client.AtRevision(9)); !errors.Is(err, client.ErrFutureRevision) {
		t.Fatalf("%v", err)
	}
}

func TestSnapshotAndHandOver(t *testing.T) {
	_, c := cluster(t, 3)
	ctx := within(t, 5*time.Second)
	r, size, err := c.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if err != nil || string(content) != "not a database\n" || size != 15 {
		t.Fatalf("%q of %d, %v", content, size, err)
	}
	if master, err := c.HandOver(ctx, "kv-2"); err != nil || master != "kv-2" {
		t.Fatalf("%q %v", master, err)
	}
	if _, err := c.HandOver(ctx, "kv-9"); !errors.Is(err, client.ErrInvalid) {
		t.Fatalf("%v", err)
	}
}

func TestOptionsThatCannotWork(t *testing.T) {
	for _, o := range []client.Options{{}, {Endpoints: []string{""}}, {Endpoints: []string{"a:1"}, DialTimeout: -1}} {
		if _, err := client.New(o); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
