package server

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// answered is what a command gave.
type answered interface {
	comparable
	GetHeader() *kvv1.ResponseHeader
}

// propose puts a validated write into the log, and returns what get takes out of
// the result, for example (*kvv1.Result).GetPut, with this pod's name in its header.
// A refusal comes as an error. The command must not be changed, not even afterwards.
func propose[Answer answered](ctx context.Context, c *core, command *kvv1.Command, get func(*kvv1.Result) Answer) (Answer, error) {
	var none Answer
	result, err := c.propose(ctx, command)
	if err != nil {
		return none, err
	}
	answer := get(result)
	if answer == none {
		// What was proposed may be applied all the same.
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
	if _, err := c.needStore(); err != nil {
		return nil, err
	}
	log, err := c.needLog()
	if err != nil {
		return nil, err
	}
	if err := c.admit(command); err != nil {
		return nil, err
	}
	return unlessRefused(log.Propose(ctx, command))
}

// proposeAsMaster is for what this pod decided because it is the master. When
// it is no more, nothing is applied: the new master decides anew.
func (c *core) proposeAsMaster(ctx context.Context, command *kvv1.Command) error {
	log, err := c.needLog()
	if err != nil {
		return err
	}
	_, err = unlessRefused(log.ProposeAsMaster(ctx, command))
	return err
}

// unlessRefused makes what nobody foresaw, once a command was handed to the log,
// an unknown outcome: the entry may be applied, and an error without a reason
// would read as "something failed here", not as that.
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

// admit refuses writes that need space when a volume is nearly full. What
// frees space is let through: deletes, compaction, the end of a lease, and
// transactions without a put, for Kubernetes deletes by them.
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
