package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// maxTxnDepth bounds the nesting of transactions, so that a malformed one
// cannot exhaust the stack; the server allows fewer.
const maxTxnDepth = 16

// judge decides transactions: those of the log, and those that only read.
type judge struct {
	view              *view
	newest, compacted int64
	writer            *applier // nil: nothing may be written
}

// plan is a transaction whose branches have been chosen. Every compare, a nested
// one too, looks at the state before the transaction.
type plan struct {
	succeeded bool
	ops       []*kvv1.Op
	nested    map[int]*plan // By the place in ops.
}

// Txn answers a transaction that writes nothing as applying it would, from this
// copy at its newest revision, which the header says. Any goroutine may call it.
func (s *Store) Txn(ctx context.Context, req *kvv1.TxnRequest) (*kvv1.TxnResponse, error) {
	for {
		resp, err := s.txnOnce(ctx, req)
		if !errors.Is(err, errAgain) {
			return resp, err
		}
	}
}

func (s *Store) txnOnce(ctx context.Context, req *kvv1.TxnRequest) (resp *kvv1.TxnResponse, err error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	defer s.guard(&err)
	if state := s.Access(); state.Enabled() {
		if err := state.ReadTxn(caller.From(ctx), req); err != nil {
			return nil, err
		}
	}
	resp, err = judge{view: v, newest: v.revision, compacted: s.visible.compacted.Load()}.txn(req)
	if refusal.Reason(err) == kvv1.ErrorReason_ERROR_REASON_COMPACTED && v.revision < s.visible.compacted.Load() {
		return nil, errAgain
	}
	if err != nil {
		return nil, err
	}
	resp.Header = &kvv1.ResponseHeader{Revision: v.revision}
	return resp, nil
}

// txnAlone applies a transaction: at one revision, or not at all.
func (a *applier) txnAlone(req *kvv1.TxnRequest) (*kvv1.TxnResponse, error) {
	resp, err := judge{a.view, a.st.Revision, a.st.Compacted, a}.txn(req)
	if err != nil {
		return nil, err
	}
	a.commit()
	resp.Header = a.header()
	return resp, nil
}

func (j judge) txn(req *kvv1.TxnRequest) (*kvv1.TxnResponse, error) {
	var keys writtenKeys
	p, err := j.plan(req, &keys, 0)
	if err == nil && j.writer != nil {
		err = j.writer.within(keys.puts, keys.deletes)
	}
	if err != nil {
		return nil, err
	}
	return j.execute(p)
}

func (j judge) plan(req *kvv1.TxnRequest, keys *writtenKeys, depth int) (*plan, error) {
	if depth == maxTxnDepth {
		return nil, errInvalid("txn", "transactions are nested more than %d deep", maxTxnDepth)
	}
	p := &plan{succeeded: true, ops: req.GetSuccess(), nested: map[int]*plan{}}
	for _, c := range req.GetCompare() {
		ok, err := j.compare(c)
		if err != nil {
			return nil, err
		}
		if !ok {
			p.succeeded, p.ops = false, req.Failure
			break
		}
	}
	for i, op := range p.ops {
		var err error
		switch o := op.GetOp().(type) {
		case *kvv1.Op_Range:
			if err = j.checkRange(o.Range); err == nil && o.Range == nil {
				err = errInvalid("op", "an empty operation")
			}
		case *kvv1.Op_Put, *kvv1.Op_Delete:
			err = j.checkWrite(op, keys)
		case *kvv1.Op_Txn:
			p.nested[i], err = j.plan(o.Txn, keys, depth+1)
		default:
			err = errInvalid("op", "an empty operation")
		}
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (j judge) checkWrite(op *kvv1.Op, keys *writtenKeys) error {
	if j.writer == nil {
		return errInvalid("op", "a transaction that only reads must not write")
	}
	if d := op.GetDelete(); d != nil {
		if err := j.writer.checkDelete(d); err != nil {
			return err
		}
		return keys.delete(newSpan(d.Key, d.RangeEnd))
	}
	if err := j.writer.checkPut(op.GetPut()); err != nil {
		return err
	}
	return keys.put(op.GetPut())
}

func (j judge) checkRange(req *kvv1.RangeRequest) error {
	if req.GetRevision() > j.newest {
		return errFuture(req.Revision, j.newest)
	}
	if req.GetRevision() != 0 && req.Revision < j.compacted {
		return errCompacted(req.Revision, j.compacted)
	}
	return nil
}

// writtenKeys finds a key that would be written twice at one revision.
type writtenKeys struct {
	puts    []*kvv1.PutRequest
	deletes []span
}

func (w *writtenKeys) put(req *kvv1.PutRequest) error {
	key := req.GetKey()
	for _, other := range w.puts {
		if bytes.Equal(key, other.GetKey()) {
			return errInvalid("key", "key %q is written twice in one transaction", key)
		}
	}
	for _, s := range w.deletes {
		if s.contains(key) {
			return errInvalid("key", "key %q is deleted and written in one transaction", key)
		}
	}
	w.puts = append(w.puts, req)
	return nil
}

func (w *writtenKeys) delete(s span) error {
	for _, put := range w.puts {
		if s.contains(put.GetKey()) {
			return errInvalid("key", "a key is written and deleted in one transaction")
		}
	}
	w.deletes = append(w.deletes, s)
	return nil
}

func (j judge) execute(p *plan) (*kvv1.TxnResponse, error) {
	resp, revision := &kvv1.TxnResponse{Succeeded: p.succeeded}, j.newest+1
	for i, op := range p.ops {
		result := &kvv1.OpResult{}
		switch o := op.Op.(type) {
		case *kvv1.Op_Range:
			page, err := j.page(o.Range)
			if err != nil {
				return nil, err
			}
			result.Result = &kvv1.OpResult_Range{Range: page}
		case *kvv1.Op_Put:
			prev, err := j.writer.put(o.Put, revision)
			if err != nil {
				return nil, err
			}
			result.Result = &kvv1.OpResult_Put{Put: &kvv1.PutResponse{PrevKv: prev}}
		case *kvv1.Op_Delete:
			deleted, err := j.writer.delete(o.Delete, revision)
			if err != nil {
				return nil, err
			}
			result.Result = &kvv1.OpResult_Delete{Delete: deleted}
		case *kvv1.Op_Txn:
			nested, err := j.execute(p.nested[i])
			if err != nil {
				return nil, err
			}
			result.Result = &kvv1.OpResult_Txn{Txn: nested}
		}
		resp.Results = append(resp.Results, result)
	}
	return resp, nil
}

// page reads what the operations before it have left.
func (j judge) page(req *kvv1.RangeRequest) (*kvv1.RangeResponse, error) {
	v := j.view
	defer func() { v.reading = v.revision }()
	switch {
	case req.Revision != 0:
		// The transaction may have begun for a compare, after a scrub did.
		if _, err := v.disk(); err != nil {
			return nil, err
		}
		if oldest := v.store.visible.scrubbing.Load(); req.Revision < oldest {
			return nil, errCompacted(req.Revision, oldest)
		}
		v.reading = req.Revision
	case j.writer != nil:
		v.reading = j.newest + 1
	}
	return v.page(v.ctx, req, pageLimits{keys: pageKeys(req.Limit), bytes: MaxPageBytes})
}

// compare holds when it does for every key in its range, or, if there is none, for
// a key that does not exist.
func (j judge) compare(c *kvv1.Compare) (bool, error) {
	if err := checkCompare(c); err != nil {
		return false, err
	}
	holds, any := true, false
	err := j.view.ascend(newSpan(c.Key, c.RangeEnd), j.newest, func(key []byte, ver *version) (bool, error) {
		if _, ok := c.Target.(*kvv1.Compare_Value); ok {
			if err := j.view.complete(key, ver); err != nil {
				return false, err
			}
		}
		any, holds = true, holdsFor(c, ver)
		return holds, nil
	})
	if err != nil || any {
		return holds, err
	}
	if _, ok := c.Target.(*kvv1.Compare_Value); ok {
		return false, nil
	}
	return holdsFor(c, &version{}), nil
}

func checkCompare(c *kvv1.Compare) error {
	if len(c.GetKey()) == 0 {
		return errInvalid("compare.key", "a compare needs a key")
	}
	if c.Target == nil {
		return errInvalid("compare.target", "a compare needs a target: version, create_revision, mod_revision, value, lease or exists")
	}
	if c.Operator < kvv1.Compare_OPERATOR_EQUAL || c.Operator > kvv1.Compare_OPERATOR_LESS {
		return errInvalid("compare.operator", "a compare needs an operator: equal, not equal, greater or less")
	}
	_, exists := c.Target.(*kvv1.Compare_Exists)
	if exists && c.Operator > kvv1.Compare_OPERATOR_NOT_EQUAL {
		return errInvalid("compare.operator", "existence can only be compared as equal or not equal")
	}
	return nil
}

func holdsFor(c *kvv1.Compare, ver *version) bool {
	var order int
	switch t := c.Target.(type) {
	case *kvv1.Compare_Version:
		order = cmp.Compare(ver.version, t.Version)
	case *kvv1.Compare_CreateRevision:
		order = cmp.Compare(ver.create, t.CreateRevision)
	case *kvv1.Compare_ModRevision:
		order = cmp.Compare(ver.place.revision, t.ModRevision)
	case *kvv1.Compare_Value:
		order = bytes.Compare(ver.value, t.Value)
	case *kvv1.Compare_Lease:
		order = cmp.Compare(ver.lease, t.Lease)
	case *kvv1.Compare_Exists:
		if ver.exists() != t.Exists {
			order = 1
		}
	}
	switch c.Operator {
	case kvv1.Compare_OPERATOR_EQUAL:
		return order == 0
	case kvv1.Compare_OPERATOR_NOT_EQUAL:
		return order != 0
	case kvv1.Compare_OPERATOR_GREATER:
		return order > 0
	}
	return order < 0
}
