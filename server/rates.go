package server

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/inbound"
	"github.com/batondb/baton/internal/refusal"
	"github.com/batondb/baton/internal/sleep"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// A tenant has a rate on each pod: of calls that the pod takes, and on the master also
// of writes that another pod forwards, so that all of them together are bounded,
// wherever they come in. A call begins while the tenant owes nothing; what it costs
// beyond the one request that it takes then, is known afterwards, and owed. So no
// call is too large for a rate, and none is looked at before it is refused; see gates.

const (
	// keysPerRequest and bytesPerRequest of an answer cost as much as one request.
	keysPerRequest, bytesPerRequest = 100, 16 << 10
	// leastMessage is the least that a message of a stream costs.
	leastMessage = 1.0 / keysPerRequest
	// defaultBurst is how much of a rate may be used at once, and defaultBurstRequests
	// at least: what comes at once is what neighbours wait for.
	defaultBurst         = 100 * time.Millisecond
	defaultBurstRequests = 10
)

// rates hold tenants to theirs, on this pod.
type rates struct {
	now   func() time.Time
	gates map[string]*gate // By the full names of methods; set before the first call.

	mu sync.Mutex // guards by
	by map[string]*rate
}

// rate is what is left to one tenant; below 0: it owes that much.
type rate struct {
	mu              sync.Mutex // guards the fields below
	at              time.Time
	requests, bytes float64
	told            time.Time // When the last one who was refused was told to come again.
	counts          tenantCounts
}

// tenantCounts are what the metrics show.
type tenantCounts struct {
	requests, bytes     float64
	overRate, overQuota int64
}

func newRates() *rates {
	return &rates{now: time.Now, gates: map[string]*gate{}, by: map[string]*rate{}}
}

// of returns what is left to a tenant, and forgets tenants that are no more.
func (r *rates) of(state *access.State, tenant *kvv1.Tenant) *rate {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.by[tenant.GetName()]
	if one != nil {
		return one
	}
	if len(r.by) >= access.MaxTenants {
		for name := range r.by {
			if state.Tenant(name) == nil {
				delete(r.by, name)
			}
		}
	}
	one = &rate{}
	r.by[tenant.GetName()] = one
	return one
}

// settle adds what time has brought; o.mu is held.
func (o *rate) settle(t *kvv1.Tenant, now time.Time) {
	burst, least := defaultBurst, float64(defaultBurstRequests)
	if t.GetBurstMs() > 0 { // With less than one request nothing could ever begin.
		burst, least = time.Duration(t.GetBurstMs())*time.Millisecond, 1
	}
	requests := max(float64(t.GetRequestsPerSecond())*burst.Seconds(), least)
	bytes := float64(t.GetBytesPerSecond()) * burst.Seconds()
	if o.at.IsZero() {
		o.requests, o.bytes = requests, bytes
	} else {
		passed := now.Sub(o.at).Seconds()
		o.requests = min(o.requests+passed*float64(t.GetRequestsPerSecond()), requests)
		o.bytes = min(o.bytes+passed*float64(t.GetBytesPerSecond()), bytes)
	}
	o.at = now
}

// wait is how long until the next call may begin; o.mu is held.
func (o *rate) wait(t *kvv1.Tenant) (wait time.Duration) {
	if perSecond := t.GetRequestsPerSecond(); perSecond > 0 && o.requests < 1 {
		wait = seconds((1 - o.requests) / float64(perSecond))
	}
	if perSecond := t.GetBytesPerSecond(); perSecond > 0 && o.bytes < 0 {
		wait = max(wait, seconds(-o.bytes/float64(perSecond)))
	}
	return wait
}

// maxWait bounds what is said; whoever asks then is told anew.
const maxWait = time.Hour

func seconds(n float64) time.Duration {
	return time.Duration(min(n, maxWait.Seconds()) * float64(time.Second))
}

// begin takes one request. It fails with RATE_EXCEEDED while there is none left.
func (r *rates) begin(state *access.State, t *kvv1.Tenant) error {
	one := r.of(state, t)
	one.mu.Lock()
	defer one.mu.Unlock()
	if wait := one.next(t, r.now(), 1, 0); wait > 0 {
		one.counts.overRate++
		return errRate(t.GetName(), one.turn(t, wait))
	}
	return nil
}

// next takes a cost if nothing is owed, or returns how long until then; o.mu is held.
func (o *rate) next(t *kvv1.Tenant, now time.Time, requests, bytes float64) (wait time.Duration) {
	o.settle(t, now)
	if wait = o.wait(t); wait <= 0 {
		o.take(t, requests, bytes)
	}
	return wait
}

// later is begin for what is not refused, at any cost: it returns how long that waits.
func (r *rates) later(state *access.State, t *kvv1.Tenant, requests, bytes float64) (wait time.Duration) {
	one := r.of(state, t)
	one.mu.Lock()
	defer one.mu.Unlock()
	return one.next(t, r.now(), requests, bytes)
}

// maxTurns is how far apart those come again who were refused: who does not wait must
// not make those who do wait for ever.
const maxTurns = time.Second

// turn is when the next one who is refused is to come again, so that not all come at
// once; o.mu is held.
func (o *rate) turn(t *kvv1.Tenant, wait time.Duration) time.Duration {
	next := o.at.Add(wait)
	if perSecond := t.GetRequestsPerSecond(); perSecond > 0 && !o.told.Before(next) {
		next = o.told.Add(seconds(1 / float64(perSecond)))
		if latest := o.at.Add(wait + maxTurns); next.After(latest) {
			next = latest
		}
	}
	o.told = next
	return next.Sub(o.at)
}

// owe takes what a call has cost besides.
func (r *rates) owe(state *access.State, t *kvv1.Tenant, requests, bytes float64) {
	one := r.of(state, t)
	one.mu.Lock()
	defer one.mu.Unlock()
	one.settle(t, r.now())
	one.take(t, requests, bytes)
}

// oweFor takes the cost of a command, of which one request is paid.
func (r *rates) oweFor(state *access.State, t *kvv1.Tenant, command *kvv1.Command) {
	r.owe(state, t, float64(writesOf(command)-1), float64(proto.Size(command)))
}

// take counts also what has no limit; o.mu is held.
func (o *rate) take(t *kvv1.Tenant, requests, bytes float64) {
	o.counts.requests += requests
	o.counts.bytes += bytes
	if t.GetRequestsPerSecond() > 0 {
		o.requests -= requests
	}
	if t.GetBytesPerSecond() > 0 {
		o.bytes -= bytes
	}
}

func errRate(tenant string, wait time.Duration) error {
	ms := max(1, (wait + time.Millisecond - 1).Milliseconds())
	return &refusal.Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_RATE_EXCEEDED,
		Message:  fmt.Sprintf("the tenant %q has used its rate: try again in %d ms", tenant, ms),
		Metadata: map[string]string{"tenant": tenant, retryAfterKey: strconv.FormatInt(ms, 10)},
	}
}

// retryAfterKey is also said in RetryInfo.
const retryAfterKey = "retry_after_ms"

// tenant is whose call this is; nil: nobody's, or access control is off.
func (c *core) tenant(ctx context.Context) (*access.State, *kvv1.Tenant) {
	return c.tenantOf(caller.From(ctx).User)
}

func (c *core) tenantOf(user string) (*access.State, *kvv1.Tenant) {
	state := c.access()
	if !state.Enabled() || !state.HasTenants() {
		return nil, nil
	}
	return state, state.TenantOf(user)
}

// begin refuses a call while its tenant has no request left.
func (c *core) begin(ctx context.Context) error {
	state, t := c.tenant(ctx)
	if t == nil {
		return nil
	}
	err := c.rates.begin(state, t)
	if err != nil {
		inbound.Useless(ctx)
	}
	return err
}

// heldBack is for how long a pod lets a tenant's calls wait after the master has refused
// one that it forwarded: the master would refuse the next ones, too.
const heldBack = 50 * time.Millisecond

func (c *core) holdBack(ctx context.Context) {
	state, t := c.tenant(ctx)
	if t == nil {
		return
	}
	one := c.rates.of(state, t)
	one.mu.Lock()
	defer one.mu.Unlock()
	one.settle(t, c.rates.now())
	one.requests = min(one.requests, 1-heldBack.Seconds()*float64(t.GetRequestsPerSecond()))
}

// spend takes the cost of a command, of which one request is paid.
func (c *core) spend(ctx context.Context, command *kvv1.Command) {
	if state, t := c.tenant(ctx); t != nil {
		c.rates.oweFor(state, t, command)
	}
}

// answered takes the cost of an answer.
func (c *core) answered(ctx context.Context, message any) {
	if state, t := c.tenant(ctx); t != nil {
		requests, bytes := answerCost(message)
		c.rates.owe(state, t, math.Floor(requests), bytes)
	}
}

// slow waits until nothing is owed, and takes a cost, or fails with ctx: a stream is slowed
// down where a call is refused. A client that has waited for long and asks anew has cost
// nothing by then: else it would owe more and more, and get nothing. Its caller holds
// nothing that others wait for.
func (c *core) slow(ctx context.Context, requests, bytes float64) error {
	for {
		state, t := c.tenant(ctx) // The rate may be raised meanwhile.
		if t == nil {
			return nil
		}
		wait := c.rates.later(state, t, requests, bytes)
		if wait <= 0 {
			return nil
		}
		if !sleep.For(ctx, min(wait, time.Second)) {
			return ctx.Err()
		}
	}
}

// slowed is slow for a message that is about to be sent.
func (c *core) slowed(ctx context.Context, message any) error {
	if _, t := c.tenant(ctx); t == nil {
		return nil
	}
	requests, bytes := answerCost(message)
	return c.slow(ctx, max(requests, leastMessage), bytes)
}

// answerCost is by the keys that were counted for an answer, or by its bytes, whichever
// is more.
func answerCost(message any) (requests, bytes float64) {
	switch m := message.(type) {
	case *counted:
		requests, bytes = answerCost(m.message)
		bytes += float64(m.size) // Also of what is not in memory.
	case proto.Message:
		bytes = float64(proto.Size(m))
	}
	if m, ok := message.(interface{ GetCount() int64 }); ok {
		requests = float64(m.GetCount()) / keysPerRequest
	}
	return max(requests, bytes/bytesPerRequest), bytes
}

// forwarded refuses a command of another pod while its tenant has no request left here.
func (c *core) forwarded(command *kvv1.Command) error {
	state, t := c.tenantOf(command.GetIdentity().GetUser())
	if t == nil {
		return nil
	}
	err := c.rates.begin(state, t)
	if err == nil {
		c.rates.oweFor(state, t, command)
	}
	return err
}

// writesOf is how many requests a command is: each operation is one.
func writesOf(command *kvv1.Command) int {
	switch c := command.GetCommand().(type) {
	case *kvv1.Command_Txn:
		return operationsOf(c.Txn)
	case *kvv1.Command_Batch:
		n := 0
		for _, write := range c.Batch.GetWrites() {
			n += operationsOf(write.GetTxn())
		}
		return max(n, 1)
	}
	return 1
}

func operationsOf(txn *kvv1.TxnRequest) int {
	n := len(txn.GetCompare())
	for _, ops := range [][]*kvv1.Op{txn.GetSuccess(), txn.GetFailure()} {
		for _, op := range ops {
			n += operationsOf(op.GetTxn())
		}
	}
	return max(n, 1)
}
