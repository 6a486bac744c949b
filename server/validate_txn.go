package server

import (
	"bytes"
	"slices"

	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// checkTxn checks a whole transaction: its parts, its size, its depth, and
// that no path through it puts a key twice, or both puts and deletes it: the
// order of two writes within one revision could not be seen by anybody.
func checkTxn(req *kvv1.TxnRequest, inside bool) error {
	if err := checkRequestID(req.GetRequestId(), inside); err != nil {
		return err
	}
	if size := proto.Size(req); size > maxTxnBytes {
		return errTooLarge("transaction bytes", maxTxnBytes, size)
	}
	check := txnCheck{}
	if err := check.txn(req, 1); err != nil {
		return err
	}
	_, err := check.paths(req)
	return err
}

// WrittenTwice says that some path through a transaction puts a key twice, or
// both puts and deletes it. It takes the square of the number of operations.
func WrittenTwice(req *kvv1.TxnRequest) bool {
	_, err := (&txnCheck{}).paths(req)
	return err != nil
}

// puts says that a transaction may put a key.
func puts(req *kvv1.TxnRequest) bool {
	put := func(op *kvv1.Op) bool { return op.GetPut() != nil || puts(op.GetTxn()) }
	return slices.ContainsFunc(req.GetSuccess(), put) || slices.ContainsFunc(req.GetFailure(), put)
}

// txnCheck walks one transaction.
type txnCheck struct {
	pieces int // Operations and compares so far.
}

func (c *txnCheck) txn(req *kvv1.TxnRequest, depth int) error {
	if depth > maxTxnDepth {
		return errTooLarge("transaction depth", maxTxnDepth, depth)
	}
	c.pieces += len(req.GetCompare()) + len(req.GetSuccess()) + len(req.GetFailure())
	if c.pieces > maxTxnOps {
		return errTooLarge("operations and compares", maxTxnOps, c.pieces)
	}
	for _, compare := range req.GetCompare() {
		if err := checkCompare(compare); err != nil {
			return err
		}
	}
	for _, ops := range [][]*kvv1.Op{req.GetSuccess(), req.GetFailure()} {
		for _, op := range ops {
			if err := c.op(op, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *txnCheck) op(op *kvv1.Op, depth int) error {
	switch o := op.GetOp().(type) {
	case *kvv1.Op_Range:
		// Reading the past takes a step for each later version of a key, and what a
		// transaction does every pod does in its turn.
		if o.Range.GetRevision() != 0 {
			return errInvalid("revision", "a range in a transaction reads what the transaction sees: read revision %d before it", o.Range.Revision)
		}
		return checkRange(o.Range)
	case *kvv1.Op_Put:
		return checkPut(o.Put, true)
	case *kvv1.Op_Delete:
		return checkDelete(o.Delete, true)
	case *kvv1.Op_Txn:
		if err := checkRequestID(o.Txn.GetRequestId(), true); err != nil {
			return err
		}
		return c.txn(o.Txn, depth+1)
	}
	return errInvalid("op", "one of them has neither range, put, delete nor txn")
}

func checkCompare(compare *kvv1.Compare) error {
	if err := checkBounds(compare.GetKey(), compare.GetRangeEnd()); err != nil {
		return err
	}
	switch compare.GetOperator() {
	case kvv1.Compare_OPERATOR_EQUAL, kvv1.Compare_OPERATOR_NOT_EQUAL,
		kvv1.Compare_OPERATOR_GREATER, kvv1.Compare_OPERATOR_LESS:
	default:
		return errInvalid("compare.operator", "%d is not known", compare.GetOperator())
	}
	if compare.GetTarget() == nil {
		return errInvalid("compare.target", "is missing")
	}
	return checkValue("compare.value", compare.GetValue())
}

// writeSet is what some part of a transaction may write.
type writeSet struct {
	puts    [][]byte
	deletes []*kvv1.DeleteRequest
}

// paths returns what a transaction may write on any path. Its two branches
// exclude each other, so they may name the same keys; everything within one
// branch may run together. 128 pieces at most: comparing all pairs is cheap.
func (c *txnCheck) paths(req *kvv1.TxnRequest) (writeSet, error) {
	success, err := c.branch(req.GetSuccess())
	if err != nil {
		return writeSet{}, err
	}
	failure, err := c.branch(req.GetFailure())
	if err != nil {
		return writeSet{}, err
	}
	return writeSet{
		puts:    append(success.puts, failure.puts...),
		deletes: append(success.deletes, failure.deletes...),
	}, nil
}

func (c *txnCheck) branch(ops []*kvv1.Op) (writeSet, error) {
	var all writeSet
	for _, op := range ops {
		var one writeSet
		switch o := op.GetOp().(type) {
		case *kvv1.Op_Put:
			one.puts = [][]byte{o.Put.GetKey()}
		case *kvv1.Op_Delete:
			one.deletes = []*kvv1.DeleteRequest{o.Delete}
		case *kvv1.Op_Txn:
			var err error
			if one, err = c.paths(o.Txn); err != nil {
				return writeSet{}, err
			}
		}
		if key := all.conflict(&one); key != nil {
			return writeSet{}, errInvalid("op", "key %q would be written twice", key)
		}
		all.puts = append(all.puts, one.puts...)
		all.deletes = append(all.deletes, one.deletes...)
	}
	return all, nil
}

// conflict returns a key that both write. Two deletes do not conflict.
func (w *writeSet) conflict(other *writeSet) []byte {
	for _, put := range other.puts {
		for _, mine := range w.puts {
			if bytes.Equal(put, mine) {
				return put
			}
		}
		if w.deleted(put) {
			return put
		}
	}
	for _, put := range w.puts {
		if other.deleted(put) {
			return put
		}
	}
	return nil
}

func (w *writeSet) deleted(key []byte) bool {
	for _, d := range w.deletes {
		if InRange(key, d.GetKey(), d.GetRangeEnd()) {
			return true
		}
	}
	return false
}
