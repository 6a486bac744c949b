package quota

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Quota is an amount that callers share. One caller may hold as much as is left for
// all others together: half of it when it is alone, a third beside another one that
// is as greedy, and so on. So something is always left for the next. (These are the
// dynamic thresholds of Choudhury and Hahne, IEEE/ACM Transactions on Networking
// 6(2), 1998.) All methods may be called by any goroutine.
type Quota struct {
	what    string // In the plural, for people: "watches".
	limit   int64
	refused atomic.Int64

	mu   sync.Mutex // guards the fields below
	used int64
	by   map[string]int64 // Nobody is in it with 0.
}

// New returns a quota of limit things, whose name is a plural.
func New(what string, limit int64) *Quota {
	return &Quota{what: what, limit: limit, by: map[string]int64{}}
}

// Take takes n for a caller. It fails with TOO_MANY when the caller would hold more
// than is left for the others; nothing is taken then.
func (q *Quota) Take(who string, n int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.room(who, n)
	if err == nil {
		q.take(who, n)
	}
	return err
}

// Room fails as Take would, and takes nothing.
func (q *Quota) Room(who string, n int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.room(who, n)
}

func (q *Quota) room(who string, n int64) error {
	if mine := q.by[who]; mine+n > q.limit-q.used-n {
		q.refused.Add(1)
		return q.refusal(who, mine, n)
	}
	return nil
}

func (q *Quota) take(who string, n int64) {
	q.used += n
	q.by[who] += n
}

// TakeSpare takes n for a caller if the caller can do without it, and says whether it
// has: so much is only there for what nothing depends on that as much again is left for
// the same caller.
func (q *Quota) TakeSpare(who string, n int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if 2*(q.by[who]+n) > q.limit-q.used-n {
		return false
	}
	q.take(who, n)
	return true
}

// Refusal is the error of a caller who was refused.
func (q *Quota) Refusal(who string, n int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.refusal(who, q.by[who], n)
}

func (q *Quota) refusal(who string, mine, n int64) error {
	return &refusal.Error{
		Reason: kvv1.ErrorReason_ERROR_REASON_TOO_MANY,
		Message: fmt.Sprintf("%d more for %s, who has %d of this pod's %d %s: %d are left for all others, and nobody may have more than that",
			n, who, mine, q.limit, q.what, q.limit-q.used),
		Metadata: map[string]string{"limit": strconv.FormatInt(q.limit, 10), "used": strconv.FormatInt(mine, 10)},
	}
}

// Give gives back n of what a caller took.
func (q *Quota) Give(who string, n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used -= n
	if q.by[who] -= n; q.by[who] == 0 {
		delete(q.by, who)
	}
	if q.used < 0 || q.by[who] < 0 {
		panic(fmt.Sprintf("quota: %s gave back more %s than it took", who, q.what))
	}
}

// Used is how much is taken by all, and how often somebody was refused.
func (q *Quota) Used() (used, refused int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.used, q.refused.Load()
}

// Name is what there is a limited number of.
func (q *Quota) Name() string { return q.what }
