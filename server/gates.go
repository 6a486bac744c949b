package server

import (
	"context"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/inbound"
)

// A call whose caller is known by its connection is judged by its tenant's rate as soon as
// its headers are read, and by the goroutine that reads them. So a refusal costs neither
// a goroutine nor the message; and a connection that is to be read more slowly is so before
// its next call. If what waits in it were read at once after each rest, and then refused, a
// client that keeps to its rate by now would not get it.

// gate is what refuses the calls of one method.
type gate struct {
	refuse func(ctx context.Context, err error) error
	counts *method
}

// recognized is who showed a token on a connection.
type recognized struct {
	token string
	who   caller.Caller
}

// judged is what was decided about a call before it began.
type judged struct{ err error }

type judgedKey struct{}

// passed is the verdict on calls whose request is taken.
var passed = &judged{}

// longestRefused is how far away the deadline of a call may be that is refused early:
// gRPC keeps a timer for it until then.
const longestRefused = time.Minute

// refuseEarly is [inbound.Options.Admit].
func (c *core) refuseEarly(ctx context.Context, method string) (context.Context, error) {
	at := c.rates.gates[method]
	if at == nil || !c.access().HasTenants() {
		return ctx, nil
	}
	who := recognize(ctx)
	state, t := c.tenantOf(who.User)
	if t == nil {
		return ctx, nil
	}
	start, err := time.Now(), c.rates.begin(state, t)
	if err == nil {
		return context.WithValue(ctx, judgedKey{}, passed), nil
	}
	if deadline, ok := ctx.Deadline(); ok && deadline.Sub(start) > longestRefused {
		inbound.Useless(ctx)
		return context.WithValue(ctx, judgedKey{}, &judged{err}), nil
	}
	err = at.refuse(ctx, err)
	at.counts.done(start, err)
	if trail := c.options.Security.Audit; trail != nil {
		call := (&witness{who: who}).call(ctx, method, start)
		call.Err = err
		trail.Note(call)
	}
	return ctx, err
}

// begun is begin for a call on which there may be a verdict.
func (c *core) begun(ctx context.Context) error {
	if v, ok := ctx.Value(judgedKey{}).(*judged); ok {
		return v.err
	}
	return c.begin(ctx)
}

// remember lets the next call with the same token on the same connection be recognized.
func (c *core) remember(ctx context.Context) {
	if !c.access().HasTenants() || ctx.Value(judgedKey{}) != nil {
		return
	}
	token := tokenOf(ctx)
	if last, ok := inbound.Remembered(ctx).(*recognized); token != "" && (!ok || last.token != token) {
		inbound.Remember(ctx, &recognized{token, caller.From(ctx)})
	}
}

// recognize says who makes a call, if that is known without asking anybody; the zero value
// otherwise. It is only good for refusals: what was proved may have lapsed.
func recognize(ctx context.Context) caller.Caller {
	if token := tokenOf(ctx); token != "" {
		if last, ok := inbound.Remembered(ctx).(*recognized); ok && last.token == token {
			return last.who
		}
		return caller.Caller{}
	}
	if from, ok := peer.FromContext(ctx); ok {
		shown, _ := from.AuthInfo.(certified)
		return shown.caller
	}
	return caller.Caller{}
}
