package server

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/store"
)

// answered is the answer to a command.
type answered interface {
	comparable
	GetHeader() *kvv1.ResponseHeader
}

// propose puts a validated write into the log. It returns what get takes out of the
// result, for example (*kvv1.Result).GetPut, and fills in this pod's name. A refusal
// is an error. The command must not be changed, not even afterwards.
func propose[Answer answered](ctx context.Context, c *core, command *kvv1.Command, get func(*kvv1.Result) Answer) (Answer, error) {
	var none Answer
	result, err := c.propose(ctx, command)
	if err != nil {
		return none, err
	}
	answer := get(result)
	if answer == none {
		// The command itself may have been applied all the same.
		return none, fmt.Errorf("%w: the log answered with %T, which is another command's result: please report this",
			replication.ErrUnknown, result.GetResult())
	}
	if header := answer.GetHeader(); header != nil {
		header.Pod = c.options.Name
	}
	return answer, nil
}

// Propose puts a command into the log, on any pod, and returns what get takes out
// of the result of applying it; a refusal is an error. The command must not be
// changed, not even afterwards.
func Propose[Answer answered](ctx context.Context, b *Backend, command *kvv1.Command, get func(*kvv1.Result) Answer) (Answer, error) {
	return propose(ctx, b.core, command, get)
}

func (c *core) propose(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error) {
	st, err := c.needStore()
	if err != nil {
		return nil, err
	}
	log, err := c.needLog()
	if err != nil {
		return nil, err
	}
	if err := c.permit(ctx, st, command); err != nil {
		return nil, err
	}
	c.spend(ctx, command)
	if err := c.mayPropose(ctx, st, command); err != nil {
		return nil, err
	}
	result, err := unlessRefused(log.Propose(ctx, command))
	switch refusal.Reason(err) {
	case kvv1.ErrorReason_ERROR_REASON_QUOTA_EXCEEDED:
		c.overQuota(refusal.Of(err).Metadata["tenant"])
	case kvv1.ErrorReason_ERROR_REASON_RATE_EXCEEDED:
		c.holdBack(ctx)
	}
	return result, err
}

// mayPropose refuses what this pod knows to be too much now.
func (c *core) mayPropose(ctx context.Context, st *store.Store, command *kvv1.Command) error {
	if err := c.admit(command); err != nil {
		return err
	}
	switch ok, err := st.Weigh(ctx, command, maxTxnKeys); {
	case err != nil:
		return err
	case !ok:
		return ErrTooManyKeys
	}
	return nil
}

// proposeAsMaster proposes what this pod has decided as the master. If it no longer
// is, nothing is applied, and the new master decides anew.
func (c *core) proposeAsMaster(ctx context.Context, command *kvv1.Command) error {
	log, err := c.needLog()
	if err != nil {
		return err
	}
	if c.access().Enabled() {
		command.Identity = access.Identity(caller.Caller{By: caller.Pod})
	}
	_, err = unlessRefused(log.ProposeAsMaster(ctx, command))
	return err
}

// unlessRefused returns a refusal as an error. It turns an unforeseen error into an
// unknown outcome: the log had the command and may have applied it, and a client
// would take an error without a reason for a mere failure of this pod.
func unlessRefused(result *kvv1.Result, err error) (*kvv1.Result, error) {
	if err == nil {
		refused := refusal.In(result)
		if refused == nil {
			return result, nil
		}
		err = refused
	}
	if refusal.Code(err) == codes.Internal {
		err = fmt.Errorf("%w: %w", replication.ErrUnknown, err)
	}
	return nil, err
}

// admit refuses writes that need space when a volume is nearly full. It lets through
// what frees space: deletes, compaction, the end of a lease, and transactions
// without a put, because Kubernetes deletes with those.
func (c *core) admit(command *kvv1.Command) error {
	full := c.space.full.Load()
	if full == nil {
		return nil
	}
	switch m := command.GetCommand().(type) {
	case *kvv1.Command_Delete, *kvv1.Command_Compact, *kvv1.Command_Revoke:
		return nil
	case *kvv1.Command_Txn:
		if !puts(m.Txn) {
			return nil
		}
	}
	return full
}
