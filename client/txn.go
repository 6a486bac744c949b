package client

import (
	"context"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Txn builds a transaction: when every comparison is true the operations added
// after Then run, otherwise those added after Else, atomically and at one
// revision. Every method returns the Txn itself. An operation added before Then
// or Else belongs to Then. It is not for concurrent use.
//
// Operators are "=", "!=", ">" and "<". A key that does not exist has version,
// revisions and lease 0; a comparison with its value is false.
type Txn struct {
	client  *Client
	request *kvv1.TxnRequest
	branch  *[]*kvv1.Op
	err     error
}

// maxTxnBytes is the server's limit.
const maxTxnBytes = 2 << 20

// Txn starts a transaction.
func (c *Client) Txn() *Txn {
	t := &Txn{client: c, request: &kvv1.TxnRequest{}}
	return t.Then()
}

var operators = map[string]kvv1.Compare_Operator{
	"=":  kvv1.Compare_OPERATOR_EQUAL,
	"!=": kvv1.Compare_OPERATOR_NOT_EQUAL,
	">":  kvv1.Compare_OPERATOR_GREATER,
	"<":  kvv1.Compare_OPERATOR_LESS,
}

// If adds a comparison as it is on the wire; for one over a range of keys.
func (t *Txn) If(compare *kvv1.Compare) *Txn {
	t.request.Compare = append(t.request.Compare, compare)
	return t
}

func (t *Txn) compare(key, operator string, compare *kvv1.Compare) *Txn {
	known, ok := operators[operator]
	if !ok {
		t.fail(invalid(`%s is not an operator; use = != > <`, quoted(operator)))
	}
	compare.Key, compare.Operator = []byte(key), known
	return t.If(compare)
}

// IfExists is true when the key exists.
func (t *Txn) IfExists(key string) *Txn {
	return t.compare(key, "=", &kvv1.Compare{Target: &kvv1.Compare_Exists{Exists: true}})
}

// IfAbsent is true when the key does not exist.
func (t *Txn) IfAbsent(key string) *Txn {
	return t.compare(key, "=", &kvv1.Compare{Target: &kvv1.Compare_Exists{Exists: false}})
}

// IfValue compares the key's value, byte by byte.
func (t *Txn) IfValue(key, operator string, value []byte) *Txn {
	return t.compare(key, operator, &kvv1.Compare{Target: &kvv1.Compare_Value{Value: value}})
}

// IfVersion compares how often the key was put since it was created.
func (t *Txn) IfVersion(key, operator string, version int64) *Txn {
	return t.compare(key, operator, &kvv1.Compare{Target: &kvv1.Compare_Version{Version: version}})
}

// IfCreateRevision compares the revision that created the key.
func (t *Txn) IfCreateRevision(key, operator string, revision int64) *Txn {
	return t.compare(key, operator, &kvv1.Compare{Target: &kvv1.Compare_CreateRevision{CreateRevision: revision}})
}

// IfModRevision compares the revision of the key's last put.
func (t *Txn) IfModRevision(key, operator string, revision int64) *Txn {
	return t.compare(key, operator, &kvv1.Compare{Target: &kvv1.Compare_ModRevision{ModRevision: revision}})
}

// IfLease compares the id of the key's lease.
func (t *Txn) IfLease(key, operator string, lease int64) *Txn {
	return t.compare(key, operator, &kvv1.Compare{Target: &kvv1.Compare_Lease{Lease: lease}})
}

// Then makes the operations that follow run when every comparison is true.
func (t *Txn) Then() *Txn {
	t.branch = &t.request.Success
	return t
}

// Else makes the operations that follow run when a comparison is false.
func (t *Txn) Else() *Txn {
	t.branch = &t.request.Failure
	return t
}

func (t *Txn) add(op *kvv1.Op) *Txn {
	*t.branch = append(*t.branch, op)
	return t
}

// Put writes one key.
func (t *Txn) Put(key string, value []byte, options ...WriteOption) *Txn {
	return t.add(&kvv1.Op{Op: &kvv1.Op_Put{Put: with[writeOptions](options).put(key, value)}})
}

// Delete removes keys.
func (t *Txn) Delete(keys Keys, options ...WriteOption) *Txn {
	request, err := with[writeOptions](options).delete(keys)
	t.fail(err)
	return t.add(&kvv1.Op{Op: &kvv1.Op_Delete{Delete: request}})
}

// Get reads keys, as they are within the transaction.
func (t *Txn) Get(keys Keys, options ...ReadOption) *Txn {
	request, err := with[readOptions](options).request(keys)
	t.fail(err)
	return t.add(&kvv1.Op{Op: &kvv1.Op_Range{Range: request}})
}

// Txn runs another transaction within this one.
func (t *Txn) Txn(nested *Txn) *Txn {
	t.fail(nested.err)
	return t.add(&kvv1.Op{Op: &kvv1.Op_Txn{Txn: nested.request}})
}

// fail keeps the first mistake for Commit.
func (t *Txn) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// Commit runs the transaction. That its comparisons were false is not an error:
// the answer says whether it succeeded.
func (t *Txn) Commit(ctx context.Context) (*kvv1.TxnResponse, error) {
	if t.err != nil {
		return nil, t.err
	}
	request := &kvv1.TxnRequest{
		Compare: t.request.GetCompare(), Success: t.request.GetSuccess(), Failure: t.request.GetFailure(),
		RequestId: t.client.newRequestID(),
	}
	if size := proto.Size(request); size > maxTxnBytes {
		return nil, tooLarge("transaction", maxTxnBytes, size)
	}
	var response *kvv1.TxnResponse
	err := t.client.write(ctx, request.RequestId, func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewKVServiceClient(conn).Txn(ctx, request)
		return response.GetHeader(), err
	})
	return response, err
}

// quoted is a key as an error shows it.
func quoted(key string) string {
	return strconv.Quote(key)
}
