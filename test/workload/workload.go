package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/batondb/baton/test/history"
)

const (
	// hotKeys are fought over; a new set comes every hotEpoch, so that no key
	// has more ops than can be checked.
	hotKeys  = 5
	hotEpoch = 8 * time.Second
	accounts = 6
	// balance is what every account begins with.
	balance = 100
)

var (
	hotRange  = history.Read{Key: "hot/", End: "hot0"}
	bankRange = history.Read{Key: "bank/", End: "bank0"}
)

// Options of a Workload. Recorder and Targets are needed.
type Options struct {
	Seed     uint64
	Recorder *history.Recorder
	// Targets are the pods that clients know.
	Targets []Target
	// DialOptions are added to those of every connection.
	DialOptions []grpc.DialOption
	// Conns, if any, are connections to the targets for all clients that speak the
	// bare API; nil: each has its own.
	Conns []*grpc.ClientConn
	// Exists says which of the targets are worth a call now; nil: all.
	Exists func(target int) bool
	// Sessions are clients that read and write; 10. The first Library of them
	// use the Go client; 3. LeaseHolders hold leases; 2.
	Sessions, Library, LeaseHolders int
	// Pause is the longest time between two ops of a session; 12 ms.
	Pause time.Duration
	// Progress is how often a pod must give its watchers a sign of life; 200 ms.
	Progress time.Duration
	// Bulk is the largest value, in bytes; 420,000.
	Bulk int
}

// Target is a pod's name and client port.
type Target struct{ Name, Address string }

// Workload is all that clients do.
type Workload struct {
	Options
	// Compacted is the highest revision that anyone asked to compact to.
	Compacted atomic.Int64

	historian    *watcher
	watchers     []*watcher
	leaseHolders []*leaseHolder
	opened       int64 // The revision at which the accounts were there.
	bursts       atomic.Int64
}

// New makes a workload; nothing runs yet.
func New(o Options) *Workload {
	o.Sessions, o.Library, o.LeaseHolders = cmp.Or(o.Sessions, 10), cmp.Or(o.Library, 3), cmp.Or(o.LeaseHolders, 2)
	o.Pause, o.Bulk = cmp.Or(o.Pause, 12*time.Millisecond), cmp.Or(o.Bulk, 420_000)
	o.Progress = cmp.Or(o.Progress, 200*time.Millisecond)
	return &Workload{Options: o}
}

// Dial opens a connection that comes back quickly: pods do in tests.
func (o *Options) Dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
	}, o.DialOptions...)...)
}

// conns are connections to all targets.
type conns struct {
	all    []*grpc.ClientConn
	exists func(target int) bool
	shared bool
}

func (o *Options) connect() (*conns, error) {
	if o.Conns != nil {
		return &conns{all: o.Conns, exists: o.Exists, shared: true}, nil
	}
	c := &conns{exists: o.Exists}
	for _, t := range o.Targets {
		conn, err := o.Dial(t.Address)
		if err != nil {
			return nil, err
		}
		c.all = append(c.all, conn)
	}
	return c, nil
}

// pick draws one, of those that are worth a call where there are any.
func (c *conns) pick(rng *rand.Rand) int {
	at := rng.IntN(len(c.all))
	for range len(c.all) {
		if c.exists == nil || c.exists(at) {
			break
		}
		at = (at + 1) % len(c.all)
	}
	return at
}

func (c *conns) close() {
	if c.shared {
		return
	}
	for _, conn := range c.all {
		_ = conn.Close()
	}
}

func (w *Workload) hotKey(rng *rand.Rand) string {
	epoch := w.Recorder.Now() / int64(hotEpoch)
	return fmt.Sprintf("hot/%04d/%d", epoch, rng.IntN(hotKeys))
}

func account(i int) string { return fmt.Sprintf("bank/%d", i) }

// amount is what a unique value of an account says.
func amount(value string) int64 {
	number, _, _ := strings.Cut(value, "#")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		panic("faults: an account holds " + value)
	}
	return n
}

// groups puts the accounts into one group, and every hot key in its own.
func groups(key string) string {
	switch {
	case strings.HasPrefix(key, bankRange.Key):
		return "bank"
	case strings.HasPrefix(key, hotRange.Key) && key != hotRange.Key:
		return key
	}
	return ""
}

// Open makes the accounts.
func (w *Workload) Open(ctx context.Context) error {
	s, err := w.newSession(0)
	if err != nil {
		return err
	}
	defer s.close()
	op := &history.Op{Name: "open"}
	for i := range accounts {
		op.Writes = append(op.Writes, history.Write{Key: account(i), Value: strconv.Itoa(balance) + "#" + s.value()})
	}
	s.write(ctx, op)
	if op.Outcome != history.OK {
		return fmt.Errorf("the accounts could not be opened: %s", op.Error)
	}
	w.opened = op.Revision
	return nil
}

// lastAttempts is how many writes Last tries.
const lastAttempts = 3

// Last writes once more: a cluster that is whole must take it.
func (w *Workload) Last(ctx context.Context) error {
	s, err := w.newSession(99)
	if err != nil {
		return err
	}
	defer s.close()
	// An attempt is cut off after a moment, and one at a pod that a connection was
	// just being made to, from before all was well, is lost with it.
	for range lastAttempts {
		op := &history.Op{Name: "last", Writes: []history.Write{{Key: "last", Value: s.value()}}}
		if s.write(ctx, op); op.Outcome == history.OK {
			return nil
		}
		err = errors.New(op.Error)
	}
	return err
}

// Run lets the clients loose until ctx ends, and returns when all have ended.
func (w *Workload) Run(ctx context.Context) error {
	shared, err := w.newLibrary()
	if err != nil {
		return err
	}
	var clients sync.WaitGroup
	for i := range w.Sessions + w.LeaseHolders {
		s, err := w.newSession(1 + i)
		if err != nil {
			return err
		}
		if i < w.Library {
			s.library = shared
		}
		life := func() { w.run(ctx, s) }
		if i >= w.Sessions {
			l := &leaseHolder{session: s}
			w.leaseHolders = append(w.leaseHolders, l)
			life = func() { l.run(ctx, w.Pause) }
		}
		clients.Go(func() {
			defer s.close()
			life()
		})
	}
	clients.Wait()
	return shared.close()
}

// weighted is one thing that a session does, and how often.
type weighted struct {
	weight int
	do     func(ctx context.Context, w *Workload, s *session)
}

var mix = []weighted{
	{14, put},
	{7, remove},
	{14, get},
	{10, swap},
	{6, swapValue},
	{7, create},
	{5, exchange},
	{12, transfer},
	{5, balances},
	{9, loose},
	{5, old},
	{3, scan},
	{6, bulk},
	{3, func(ctx context.Context, _ *Workload, s *session) { s.repeat(ctx) }},
}

// run is a session's life.
func (w *Workload) run(ctx context.Context, s *session) {
	total := 0
	for _, m := range mix {
		total += m.weight
	}
	for ctx.Err() == nil {
		n := s.rng.IntN(total)
		for _, m := range mix {
			if n -= m.weight; n < 0 {
				m.do(ctx, w, s)
				break
			}
		}
		_ = Pause(ctx, time.Duration(s.rng.Int64N(int64(w.Pause))))
	}
}

func put(ctx context.Context, w *Workload, s *session) {
	s.write(ctx, &history.Op{Name: "put", Writes: []history.Write{{Key: w.hotKey(s.rng), Value: s.value()}}})
}

// bulk writes much, so that files and tables fill, and the log is cut.
func bulk(ctx context.Context, w *Workload, s *session) {
	s.write(ctx, &history.Op{Name: "bulk", Writes: []history.Write{{
		Key:   fmt.Sprintf("bulk/%d", s.rng.IntN(8)),
		Value: history.Padded(s.value(), w.Bulk/20+s.rng.IntN(w.Bulk)),
	}}})
}

func remove(ctx context.Context, w *Workload, s *session) {
	s.write(ctx, &history.Op{Name: "delete", Writes: []history.Write{{Key: w.hotKey(s.rng), Delete: true}}})
}

func get(ctx context.Context, w *Workload, s *session) {
	s.read(ctx, &history.Op{Name: "get", Read: &history.Read{Key: w.hotKey(s.rng), Consistency: history.Linearizable}}, false)
}

// swap guards on what the session last saw of a key: the older, the likelier it
// fails.
func swap(ctx context.Context, w *Workload, s *session) {
	key := w.hotKey(s.rng)
	write := history.Write{Key: key, Value: s.value()}
	if s.rng.IntN(5) == 0 {
		write = history.Write{Key: key, Delete: true}
	}
	s.write(ctx, &history.Op{
		Name:   "swap",
		Guards: []history.Guard{{Key: key, Revision: s.cache[key].Mod}},
		Writes: []history.Write{write},
	})
}

func swapValue(ctx context.Context, w *Workload, s *session) {
	key := w.hotKey(s.rng)
	s.write(ctx, &history.Op{
		Name:   "swap-value",
		Guards: []history.Guard{{Key: key, ByValue: true, Value: s.cache[key].Value}},
		Writes: []history.Write{{Key: key, Value: s.value()}},
	})
}

// create takes a key that must not exist, as a lock does.
func create(ctx context.Context, w *Workload, s *session) {
	key := w.hotKey(s.rng)
	s.write(ctx, &history.Op{
		Name:   "create",
		Guards: []history.Guard{{Key: key}},
		Writes: []history.Write{{Key: key, Value: s.value()}},
	})
}

// exchange writes and reads the key in one transaction.
func exchange(ctx context.Context, w *Workload, s *session) {
	key := w.hotKey(s.rng)
	op := &history.Op{
		Name:   "exchange",
		Writes: []history.Write{{Key: key, Value: s.value()}},
		Read:   &history.Read{Key: key, Consistency: history.Linearizable},
	}
	if s.rng.IntN(2) == 0 {
		op.Guards = []history.Guard{{Key: key, Revision: s.cache[key].Mod}}
	}
	s.write(ctx, op)
}

// transfer moves money between two accounts.
func transfer(ctx context.Context, _ *Workload, s *session) {
	from := s.rng.IntN(accounts)
	to := (from + 1 + s.rng.IntN(accounts-1)) % accounts
	read := bankRange
	read.Consistency = history.Linearizable
	if s.rng.IntN(3) == 0 {
		read.Consistency = history.Local // The guards hold all the same.
	}
	view := &history.Op{Name: "balances", Read: &read}
	if !s.read(ctx, view, false) || len(view.KVs) != accounts {
		return
	}
	a, b := view.KVs[from], view.KVs[to]
	moved := 1 + s.rng.Int64N(20)
	s.write(ctx, &history.Op{
		Name:   "transfer",
		Guards: []history.Guard{{Key: a.Key, Revision: a.Mod}, {Key: b.Key, Revision: b.Mod}},
		Writes: []history.Write{
			{Key: a.Key, Value: fmt.Sprintf("%d#%s", amount(a.Value)-moved, s.value())},
			{Key: b.Key, Value: fmt.Sprintf("%d#%s", amount(b.Value)+moved, s.value())},
		},
	})
}

func balances(ctx context.Context, _ *Workload, s *session) {
	read := bankRange
	read.Consistency = history.Linearizable
	s.read(ctx, &history.Op{Name: "balances", Read: &read}, false)
}

// loose is a read that need not be the newest.
func loose(ctx context.Context, w *Workload, s *session) {
	read := history.Read{Key: w.hotKey(s.rng), Consistency: history.Local}
	if s.rng.IntN(2) == 0 {
		read.Key, read.End = bankRange.Key, bankRange.End
	}
	if s.rng.IntN(2) == 0 {
		read.MinRevision = s.seen
	}
	if s.rng.IntN(2) == 0 {
		read.Consistency = history.Bounded
		read.Staleness = time.Duration(1+s.rng.IntN(1000)) * time.Millisecond
	}
	s.read(ctx, &history.Op{Name: "loose", Read: &read}, false)
}

// old reads the past.
func old(ctx context.Context, w *Workload, s *session) {
	if s.seen < 2 {
		return
	}
	read := hotRange
	read.At = max(1, w.Compacted.Load(), s.seen-s.rng.Int64N(500))
	read.Consistency = history.Local
	s.read(ctx, &history.Op{Name: "old", Read: &read}, false)
}

func scan(ctx context.Context, _ *Workload, s *session) {
	read := hotRange
	read.Consistency = history.Linearizable
	s.read(ctx, &history.Op{Name: "scan", Read: &read}, true)
}
