package store

import (
	"context"
	"errors"
	"slices"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// errTooManyKeys ends a walk over more keys than the view may be asked for.
var errTooManyKeys = errors.New("too many keys")

// Weigh says whether applying a command would look at no more than so many keys, as
// far as this copy and this moment tell: while it does, no other write is applied,
// on any pod. Compares and ranges of transactions and deletions in transactions and
// batches count, each key as often as it is looked at, and deleted ones that are
// still kept, too. A deletion that stands alone does not count. Any goroutine may
// call it.
//
// It is no part of applying, which must have the same result on every pod and in
// every version, while the deleted keys that a pod still keeps are its own matter.
func (s *Store) Weigh(ctx context.Context, command *kvv1.Command, most int) (ok bool, err error) {
	var weigh func(judge) error
	switch c := command.GetCommand().(type) {
	case *kvv1.Command_Txn:
		if !hasSpan(c.Txn, 0) || !s.permits(command) {
			return true, nil
		}
		weigh = func(j judge) error { return j.weigh(c.Txn, 0) }
	case *kvv1.Command_Batch:
		if !batchHasSpan(c.Batch) {
			return true, nil
		}
		writes := s.permittedOf(command)
		weigh = func(j judge) error { return j.weighBatch(writes) }
	default:
		return true, nil
	}
	for {
		err := s.weighOnce(ctx, most, weigh)
		refused := refusal.Of(err)
		switch {
		case errors.Is(err, errTooManyKeys):
			return false, nil
		case refused == nil:
			return err == nil, err
		case refused.Reason == kvv1.ErrorReason_ERROR_REASON_COMPACTED:
			continue // A compaction overtook it.
		}
		return true, nil // Applying it will say so.
	}
}

// What its caller may not do is refused for that, and not weighed: the weight would say
// how many keys there are.

// permits says whether the caller of a command may give it, as far as this copy tells.
func (s *Store) permits(command *kvv1.Command) bool {
	state := s.Access()
	who := access.Of(command.GetIdentity())
	return !state.Enabled() || state.Permit(who, command, s.leaseRightsOf(state, who)) == nil
}

// permittedOf are the writes of a batch that its caller may do, as far as this copy tells.
func (s *Store) permittedOf(command *kvv1.Command) []*kvv1.Write {
	all, state := command.GetBatch().GetWrites(), s.Access()
	if !state.Enabled() {
		return all
	}
	who := access.Of(command.GetIdentity())
	writes := state.Writes(who, s.leaseRightsOf(state, who))
	return slices.DeleteFunc(slices.Clone(all), func(w *kvv1.Write) bool { return writes.Permit(w) != nil })
}

func (s *Store) leaseRightsOf(state *access.State, who caller.Caller) access.MayWriteLease {
	return func(lease int64) (int, error) { return s.MayWriteLease(state, who, lease) }
}

func (s *Store) weighOnce(ctx context.Context, most int, weigh func(judge) error) (err error) {
	v, err := s.view(ctx)
	if err != nil {
		return err
	}
	defer v.close()
	defer s.guard(&err)
	v.most = most
	return weigh(judge{view: v, newest: v.revision})
}

func batchHasSpan(batch *kvv1.WriteBatch) bool {
	for _, write := range batch.GetWrites() {
		if len(write.GetDelete().GetRangeEnd()) > 0 || hasSpan(write.GetTxn(), 0) {
			return true
		}
	}
	return false
}

// hasSpan says that a transaction looks at more than single keys.
func hasSpan(txn *kvv1.TxnRequest, depth int) bool {
	if depth == maxTxnDepth {
		return false // It will be refused for that.
	}
	for _, c := range txn.GetCompare() {
		if len(c.GetRangeEnd()) > 0 {
			return true
		}
	}
	for _, ops := range [][]*kvv1.Op{txn.GetSuccess(), txn.GetFailure()} {
		for _, op := range ops {
			if len(op.GetRange().GetRangeEnd()) > 0 || len(op.GetDelete().GetRangeEnd()) > 0 || hasSpan(op.GetTxn(), depth+1) {
				return true
			}
		}
	}
	return false
}

func (j judge) weighBatch(writes []*kvv1.Write) error {
	for _, write := range writes {
		if d := write.GetDelete(); d != nil {
			if err := j.weighSpan(d.GetKey(), d.GetRangeEnd()); err != nil {
				return err
			}
		}
		if err := j.weigh(write.GetTxn(), 0); err != nil {
			return err
		}
	}
	return nil
}

// weigh walks as applying would. Which branch that takes may change until then: the
// heavier one counts.
func (j judge) weigh(txn *kvv1.TxnRequest, depth int) error {
	if depth == maxTxnDepth {
		return nil
	}
	for _, c := range txn.GetCompare() {
		if len(c.GetRangeEnd()) == 0 {
			continue
		}
		if _, err := j.compare(c); err != nil {
			return err
		}
	}
	before, heaviest := j.view.steps, 0
	for _, ops := range [][]*kvv1.Op{txn.GetSuccess(), txn.GetFailure()} {
		j.view.steps = before
		for _, op := range ops {
			if err := j.weighOp(op, depth); err != nil {
				return err
			}
		}
		heaviest = max(heaviest, j.view.steps)
	}
	j.view.steps = heaviest
	return nil
}

func (j judge) weighOp(op *kvv1.Op, depth int) error {
	switch o := op.GetOp().(type) {
	case *kvv1.Op_Range:
		if len(o.Range.GetRangeEnd()) == 0 {
			return nil
		}
		keys := &kvv1.RangeRequest{
			Key: o.Range.GetKey(), RangeEnd: o.Range.GetRangeEnd(), Limit: o.Range.GetLimit(),
			Reverse: o.Range.GetReverse(), CountOnly: o.Range.GetCountOnly(), KeysOnly: true,
		}
		_, err := j.page(keys)
		return err
	case *kvv1.Op_Delete:
		return j.weighSpan(o.Delete.GetKey(), o.Delete.GetRangeEnd())
	case *kvv1.Op_Txn:
		return j.weigh(o.Txn, depth+1)
	}
	return nil
}

func (j judge) weighSpan(key, end []byte) error {
	if len(end) == 0 {
		return nil
	}
	return j.view.ascend(newSpan(key, end), j.newest, func([]byte, *version) (bool, error) { return true, nil })
}
