package store

import (
	"bytes"
	"cmp"
	"context"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// maxTxnDepth bounds the nesting of transactions, so that a malformed one
// cannot exhaust the stack; the server allows fewer.
const maxTxnDepth = 16

// plan is a transaction whose branches have been chosen. All compares, also the
// nested ones, look at the state before the transaction.
type plan struct {
	succeeded bool
	ops       []*kvv1.Op
	nested    map[int]*plan // By the place in ops.
}

// txnAlone applies a transaction: at one revision, or not at all.
func (a *applier) txnAlone(req *kvv1.TxnRequest) (*kvv1.TxnResponse, error) {
	var keys writtenKeys
	p, err := a.plan(req, &keys, 0)
	if err != nil {
		return nil, err
	}
	resp, err := a.execute(p, a.st.Revision+1)
	if err != nil {
		return nil, err
	}
	a.commit()
	resp.Header = a.header()
	return resp, nil
}

func (a *applier) plan(req *kvv1.TxnRequest, keys *writtenKeys, depth int) (*plan, error) {
	if depth == maxTxnDepth {
		return nil, errInvalid("txn", "transactions are nested more than %d deep", maxTxnDepth)
	}
	p := &plan{succeeded: true, ops: req.GetSuccess(), nested: map[int]*plan{}}
	for _, c := range req.GetCompare() {
		ok, err := a.compare(c)
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
			if err = a.checkRange(o.Range); err == nil && o.Range == nil {
				err = errInvalid("op", "an empty operation")
			}
		case *kvv1.Op_Put:
			if err = a.checkPut(o.Put); err == nil {
				err = keys.put(o.Put.Key)
			}
		case *kvv1.Op_Delete:
			if err = a.checkDelete(o.Delete); err == nil {
				err = keys.delete(newSpan(o.Delete.Key, o.Delete.RangeEnd))
			}
		case *kvv1.Op_Txn:
			p.nested[i], err = a.plan(o.Txn, keys, depth+1)
		default:
			err = errInvalid("op", "an empty operation")
		}
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (a *applier) checkRange(req *kvv1.RangeRequest) error {
	if req.GetRevision() > a.st.Revision {
		return errFuture(req.Revision, a.st.Revision)
	}
	if req.GetRevision() != 0 && req.Revision < a.st.Compacted {
		return errCompacted(req.Revision, a.st.Compacted)
	}
	return nil
}

// writtenKeys finds a key that would be written twice at one revision.
type writtenKeys struct {
	puts    [][]byte
	deletes []span
}

func (w *writtenKeys) put(key []byte) error {
	for _, other := range w.puts {
		if bytes.Equal(key, other) {
			return errInvalid("key", "key %q is written twice in one transaction", key)
		}
	}
	for _, s := range w.deletes {
		if s.contains(key) {
			return errInvalid("key", "key %q is deleted and written in one transaction", key)
		}
	}
	w.puts = append(w.puts, key)
	return nil
}

func (w *writtenKeys) delete(s span) error {
	for _, key := range w.puts {
		if s.contains(key) {
			return errInvalid("key", "a key is written and deleted in one transaction")
		}
	}
	w.deletes = append(w.deletes, s)
	return nil
}

func (a *applier) execute(p *plan, revision int64) (*kvv1.TxnResponse, error) {
	resp := &kvv1.TxnResponse{Succeeded: p.succeeded}
	for i, op := range p.ops {
		result := &kvv1.OpResult{}
		switch o := op.Op.(type) {
		case *kvv1.Op_Range:
			page, err := a.rangeInTxn(o.Range, revision)
			if err != nil {
				return nil, err
			}
			result.Result = &kvv1.OpResult_Range{Range: page}
		case *kvv1.Op_Put:
			prev, err := a.put(o.Put, revision)
			if err != nil {
				return nil, err
			}
			result.Result = &kvv1.OpResult_Put{Put: &kvv1.PutResponse{PrevKv: prev}}
		case *kvv1.Op_Delete:
			deleted, err := a.delete(o.Delete, revision)
			if err != nil {
				return nil, err
			}
			result.Result = &kvv1.OpResult_Delete{Delete: deleted}
		case *kvv1.Op_Txn:
			nested, err := a.execute(p.nested[i], revision)
			if err != nil {
				return nil, err
			}
			result.Result = &kvv1.OpResult_Txn{Txn: nested}
		}
		resp.Results = append(resp.Results, result)
	}
	return resp, nil
}

func (a *applier) rangeInTxn(req *kvv1.RangeRequest, revision int64) (*kvv1.RangeResponse, error) {
	a.view.reading = revision
	if req.Revision != 0 {
		a.view.reading = req.Revision
	}
	defer func() { a.view.reading = a.view.revision }()
	return a.view.page(context.Background(), req, pageLimits{keys: pageKeys(req.Limit), bytes: MaxPageBytes})
}

// compare is true when it is of every key in its range, or, when there is none,
// of the key that does not exist.
func (a *applier) compare(c *kvv1.Compare) (bool, error) {
	if err := checkCompare(c); err != nil {
		return false, err
	}
	holds, any := true, false
	err := a.view.ascend(newSpan(c.Key, c.RangeEnd), a.st.Revision, func(key []byte, ver *version) (bool, error) {
		if _, ok := c.Target.(*kvv1.Compare_Value); ok {
			if err := a.view.complete(key, ver); err != nil {
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
		order = cmp.Compare(ver.revision, t.ModRevision)
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
