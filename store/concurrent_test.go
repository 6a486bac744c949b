package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// The applier of TestConcurrent moves amounts between accounts, so the sum of
// them all is the same at every revision. Accounts come and go: one without an
// amount does not exist.
const (
	accounts      = 40
	accountsTotal = 1_000_000
)

func account(i int) []byte { return fmt.Appendf(nil, "account/%02d", i) }

var everyAccount = &kvv1.RangeRequest{Key: []byte("account/"), RangeEnd: []byte("account0")}

func amount(kv *kvv1.KeyValue) int64 { return int64(binary.BigEndian.Uint64(kv.Value)) }

func setAmount(i int, n int64) *kvv1.Op {
	if n == 0 {
		return &kvv1.Op{Op: &kvv1.Op_Delete{Delete: &kvv1.DeleteRequest{Key: account(i)}}}
	}
	return &kvv1.Op{Op: &kvv1.Op_Put{Put: &kvv1.PutRequest{Key: account(i), Value: binary.BigEndian.AppendUint64(nil, uint64(n))}}}
}

// TestConcurrent reads and watches in many goroutines while one applies, and
// while others flush, check, take snapshots and restore.
func TestConcurrent(t *testing.T) {
	seeds(t, 2, nil, func(t *testing.T, seed uint64) {
		s, err := Open(Options{Dir: tempDir(t), TableBytes: 8 << 10})
		if err != nil {
			t.Fatal(err)
		}
		c := &concurrentRun{t: t, s: s, rnd: newRand(seed)}
		ctx, cancel := context.WithCancel(context.Background())
		var readers sync.WaitGroup
		for i, read := range []func(context.Context, *rand.Rand) error{
			c.pages, c.pages, c.scan, c.scanDown, c.watch, c.watchAgain, c.hash, c.snapshot, c.flush, c.check, c.status,
			c.verify, c.compare,
		} {
			rnd := newRand(seed + uint64(i) + 1)
			readers.Go(func() {
				for ctx.Err() == nil {
					if err := read(ctx, rnd); err != nil && !c.excused(err) {
						t.Error(err)
						return
					}
				}
			})
		}
		c.write()
		cancel()
		readers.Wait()
		closeChecked(t, s)
	})
}

type concurrentRun struct {
	t   *testing.T
	s   *Store
	rnd *rand.Rand
}

// verify runs one round.
func (c *concurrentRun) verify(ctx context.Context, rnd *rand.Rand) error {
	for round, more := c.s.NewRound(), true; more; {
		var err error
		if _, more, err = round.Step(ctx, rnd.IntN(8<<10)); err != nil && !errors.Is(err, ErrBusy) {
			return err
		}
	}
	return nil
}

// compare reads each part twice.
func (c *concurrentRun) compare(ctx context.Context, rnd *rand.Rand) error {
	bounds := replication.Part{History: rnd.IntN(2) == 0, Versions: rnd.IntN(20)}
	end, err := c.s.PartEnd(ctx, bounds.History)
	if err != nil {
		return err
	}
	bounds.To = end
	for more := true; more; {
		var first, again replication.Part
		if first, more, err = c.s.Part(ctx, bounds); err != nil {
			return err
		}
		if again, err = c.s.PartAgain(ctx, first); err != nil && !c.excused(err) {
			return err
		}
		if err == nil && again.Hash != first.Hash {
			return fmt.Errorf("%+v is %+v then", first, again)
		}
		bounds.From = first.To
	}
	return nil
}

// excused errors are what a compaction or the end does to a reader.
func (c *concurrentRun) excused(err error) bool {
	return errors.Is(err, context.Canceled) || refusal.Reason(err) == kvv1.ErrorReason_ERROR_REASON_COMPACTED
}

func (c *concurrentRun) write() {
	amounts := [accounts]int64{accountsTotal}
	c.s.Apply(1, 1, []*kvv1.Command{txnOf(setAmount(0, accountsTotal))})
	for index := uint64(2); index < 600; index++ {
		var commands []*kvv1.Command
		for range 1 + c.rnd.IntN(5) {
			from, to := c.rnd.IntN(accounts), c.rnd.IntN(accounts)
			if from == to {
				continue
			}
			moved := amounts[from]
			if c.rnd.IntN(3) > 0 {
				moved = c.rnd.Int64N(moved + 1)
			}
			amounts[from], amounts[to] = amounts[from]-moved, amounts[to]+moved
			commands = append(commands, txnOf(setAmount(from, amounts[from]), setAmount(to, amounts[to])))
		}
		if c.rnd.IntN(40) == 0 {
			commands = append(commands, compactTo(c.s.Status().Revision-c.rnd.Int64N(30)))
		}
		c.s.Apply(index, 1, commands)
		if index%200 == 0 {
			c.restore()
		}
	}
}

func txnOf(ops ...*kvv1.Op) *kvv1.Command {
	return &kvv1.Command{Command: &kvv1.Command_Txn{Txn: &kvv1.TxnRequest{Success: ops}}}
}

// restore gives the store its own content back, from a snapshot.
func (c *concurrentRun) restore() {
	if err := c.s.Flush(context.Background(), c.s.Applied()); err != nil {
		c.t.Error(err)
	}
	other, err := Open(Options{Dir: tempDir(c.t)})
	if err != nil {
		c.t.Fatal(err)
	}
	defer closeChecked(c.t, other)
	snapshotTo(c.t, c.s, func(snapshot replication.Snapshot) error { return other.Restore(snapshot) })
	snapshotTo(c.t, other, func(snapshot replication.Snapshot) error { return c.s.Restore(snapshot) })
}

func sumIs(revision int64, sum int64) error {
	if revision > firstRevision && sum != accountsTotal {
		return fmt.Errorf("revision %d: the accounts sum up to %d", revision, sum)
	}
	return nil
}

func (c *concurrentRun) pages(ctx context.Context, rnd *rand.Rand) error {
	req := &kvv1.RangeRequest{Key: everyAccount.Key, RangeEnd: everyAccount.RangeEnd, Limit: 1 + rnd.Int64N(accounts)}
	if status := c.s.Status(); rnd.IntN(2) == 0 && status.Compacted > 0 {
		req.Revision = status.Revision - rnd.Int64N(status.Revision-status.Compacted+1)
	}
	var sum int64
	for {
		resp, err := c.s.Range(ctx, req)
		if err != nil {
			return err
		}
		for _, kv := range resp.Kvs {
			sum += amount(kv)
		}
		if !resp.More {
			return sumIs(resp.Header.Revision, sum)
		}
		req.Key, req.Revision = resp.NextKey, resp.Header.Revision
	}
}

func (c *concurrentRun) scan(ctx context.Context, _ *rand.Rand) error {
	return c.scanned(ctx, everyAccount)
}

func (c *concurrentRun) scanDown(ctx context.Context, _ *rand.Rand) error {
	return c.scanned(ctx, &kvv1.RangeRequest{Key: everyAccount.Key, RangeEnd: everyAccount.RangeEnd, Reverse: true})
}

func (c *concurrentRun) scanned(ctx context.Context, req *kvv1.RangeRequest) error {
	var sum, at int64
	err := c.s.Scan(ctx, req, func(revision int64, kvs []*kvv1.KeyValue) error {
		at = revision
		for _, kv := range kvs {
			sum += amount(kv)
		}
		return nil
	})
	return errors.Join(err, errIf(err == nil, sumIs(at, sum)))
}

func errIf(is bool, err error) error {
	if is {
		return err
	}
	return nil
}

// watch follows from the present; watchAgain from an older revision.
func (c *concurrentRun) watch(ctx context.Context, rnd *rand.Rand) error {
	return c.watched(ctx, rnd, 0)
}

func (c *concurrentRun) watchAgain(ctx context.Context, rnd *rand.Rand) error {
	status := c.s.Status()
	return c.watched(ctx, rnd, max(1, status.Revision-rnd.Int64N(status.Revision-status.Compacted+1)))
}

// watched checks that each revision comes once, in order, and whole: its changes
// leave the sum as it was.
func (c *concurrentRun) watched(ctx context.Context, rnd *rand.Rand, from int64) error {
	w, err := c.s.Watch(&kvv1.WatchRequest{Key: everyAccount.Key, RangeEnd: everyAccount.RangeEnd, StartRevision: from, PrevKv: true})
	if err != nil {
		return err
	}
	defer w.Close()
	next := w.Next
	if rnd.IntN(2) == 0 {
		next = polled(w)
	}
	last, difference := w.Start(), int64(0)
	for range 20 + rnd.IntN(200) {
		resp, err := next(ctx)
		if err != nil {
			return err
		}
		for i, event := range resp.Events {
			revision := event.Kv.ModRevision
			if i == 0 || revision != last {
				// Every revision changes accounts, so none is left out.
				if revision != last+1 && revision > 2 {
					return fmt.Errorf("revision %d comes after %d", revision, last)
				}
				if difference != 0 && last > max(2, w.Start()+1, c.s.Status().Compacted) {
					return fmt.Errorf("the changes of revision %d differ by %d", last, difference)
				}
				last, difference = revision, 0
			}
			if event.Type == kvv1.Event_TYPE_PUT {
				difference += amount(event.Kv)
			}
			if event.PrevKv != nil {
				difference -= amount(event.PrevKv)
			}
		}
		if resp.Header.Revision != last || w.Progress() < last {
			return fmt.Errorf("header %v, progress %d after revision %d", resp.Header, w.Progress(), last)
		}
	}
	return nil
}

// polled is Next, made of Poll and OnReady.
func polled(w *Watcher) func(context.Context) (*kvv1.WatchResponse, error) {
	ready, more := make(chan struct{}, 1), false
	w.OnReady(func() chan<- struct{} { return ready })
	return func(ctx context.Context) (resp *kvv1.WatchResponse, err error) {
		for {
			if !more {
				select {
				case <-ready:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			if resp, more, err = w.Poll(ctx); resp != nil || err != nil {
				return resp, err
			}
		}
	}
}

func (c *concurrentRun) hash(context.Context, *rand.Rand) error {
	_, _, err := c.s.Hash(0)
	return err
}

func (c *concurrentRun) snapshot(_ context.Context, rnd *rand.Rand) error {
	snapshot, err := c.s.Snapshot()
	if err != nil {
		return err
	}
	_, err = snapshot.Read(make([]byte, rnd.IntN(100_000)))
	if errors.Is(err, ErrClosed) {
		err = nil // A restore ends snapshots.
	}
	return errors.Join(err, snapshot.Close())
}

func (c *concurrentRun) flush(ctx context.Context, _ *rand.Rand) error {
	if err := c.s.Flush(ctx, c.s.Applied()); err != nil {
		return err
	}
	return c.s.WaitRevision(ctx, c.s.Status().Revision+5)
}

func (c *concurrentRun) check(ctx context.Context, _ *rand.Rand) error {
	if err := c.s.Check(ctx); err != nil {
		return err
	}
	return c.s.WaitRevision(ctx, c.s.Status().Revision+100)
}

func (c *concurrentRun) status(ctx context.Context, _ *rand.Rand) error {
	if status := c.s.Status(); status.Durable > status.Applied {
		return fmt.Errorf("status %+v", status)
	}
	return c.s.WaitRevision(ctx, c.s.Status().Revision+1)
}
