package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strconv"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// The store remembers the requests that could change something, in blocks, and
// forgets the oldest block when there are too many. A request that is not
// remembered was either never applied, or is in a forgotten block. The client
// tells which by the revision that it knew before it sent the request for the
// first time: all that a forgotten block holds was applied at or before the
// block's last revision, so a client that knew at least that revision cannot
// have a change in it. (The idea comes from RIFL, Lee et al., SOSP 2015, with
// a revision in the place of a client's lease.)
//
// A request that was refused, or whose guards did not hold, is remembered too:
// the client was told so, perhaps by a second copy of it, while the first is
// still under way on a slow pod and would find the guards holding when it comes
// ("create if absent", after a deletion). test/faults found that. Of these the
// known revision proves less, because they move no revision: one that was
// applied at exactly the last revision of a forgotten block is taken for new.
var (
	requestBlock  = 4096
	requestBlocks = 64 // 262,144 requests: over two seconds at 100,000 a second.
)

const (
	clientIDBytes   = 16
	requestKeyBytes = clientIDBytes + 8

	// maxKeptResult bounds what is remembered of a result; over it the keys and
	// values that it carries are left out, and it says so.
	maxKeptResult = 16 << 10
)

// requestKey is a client's id and its sequence number.
type requestKey [requestKeyBytes]byte

// newRequestKey makes a request's key. Users with one client id have different keys:
// nobody is given the answer to another's request.
func newRequestKey(id *kvv1.RequestId, user string) (requestKey, bool) {
	var key requestKey
	if len(id.ClientId) != clientIDBytes {
		return key, false
	}
	copy(key[:], id.ClientId)
	if user != "" {
		owned := sha256.Sum256(append(key[:clientIDBytes:clientIDBytes], user...))
		copy(key[:clientIDBytes], owned[:])
	}
	binary.BigEndian.PutUint64(key[clientIDBytes:], id.Sequence)
	return key, true
}

// request is what is remembered.
type request struct {
	number uint64 // Requests are numbered in the order they were applied.
	index  uint64 // The log entry that carried it.
	result []byte
}

// requestWindow says which numbers are remembered. It is the same on every
// replica, whatever is still on the disk.
type requestWindow struct {
	Next   uint64  `json:"next"`   // The number of the next one.
	Blocks []int64 `json:"blocks"` // The last revision of each whole block that is remembered.
	Floor  int64   `json:"floor"`  // The last revision of the newest forgotten block, or of an earlier owner.
}

func (w *requestWindow) oldest() uint64 {
	return (w.Next/uint64(requestBlock) - uint64(len(w.Blocks))) * uint64(requestBlock)
}

// take gives out a number, and forgets a block when one is full.
func (w *requestWindow) take(revision int64) uint64 {
	number := w.Next
	w.Next++
	if w.Next%uint64(requestBlock) == 0 {
		// Never append in place: frozen tables share the slice.
		w.Blocks = append(w.Blocks[:len(w.Blocks):len(w.Blocks)], revision)
		if len(w.Blocks) > requestBlocks {
			w.Floor, w.Blocks = max(w.Floor, w.Blocks[0]), w.Blocks[1:]
		}
	}
	return number
}

func errRequestExpired(revision int64) *refusal.Error {
	return &refusal.Error{
		Reason:   kvv1.ErrorReason_ERROR_REASON_REQUEST_ID_EXPIRED,
		Message:  "the request id is older than what is remembered; whether it was applied is not known",
		Metadata: map[string]string{"revision": strconv.FormatInt(revision, 10)},
	}
}

// encodeResult is what will be remembered of a result.
func encodeResult(result *kvv1.Result) []byte {
	same := proto.MarshalOptions{Deterministic: true} // On every pod.
	encoded, err := same.Marshal(result)
	if err == nil && len(encoded) > maxKeptResult {
		stripped := proto.Clone(result).(*kvv1.Result)
		stripResult(stripped)
		encoded, err = same.Marshal(stripped)
	}
	if err != nil {
		panic("store: a result does not encode: " + err.Error())
	}
	return encoded
}

func decodeResult(encoded []byte) (*kvv1.Result, error) {
	result := &kvv1.Result{}
	if err := proto.Unmarshal(encoded, result); err != nil {
		return nil, corrupt("remembered result: %v", err)
	}
	if header := resultHeader(result); header != nil {
		header.Replayed = true
	}
	return result, nil
}

// couldChange is false for what only reads, which needs no memory: whoever
// repeats it is as well served by a fresh result.
func couldChange(command *kvv1.Command) bool {
	c, ok := command.Command.(*kvv1.Command_Txn)
	return !ok || txnWrites(c.Txn, 0)
}

func txnWrites(txn *kvv1.TxnRequest, depth int) bool {
	if depth == maxTxnDepth {
		return true // It was refused for that.
	}
	for _, ops := range [][]*kvv1.Op{txn.GetSuccess(), txn.GetFailure()} {
		for _, op := range ops {
			switch o := op.GetOp().(type) {
			case *kvv1.Op_Put, *kvv1.Op_Delete:
				return true
			case *kvv1.Op_Txn:
				if txnWrites(o.Txn, depth+1) {
					return true
				}
			}
		}
	}
	return false
}

func resultHeader(result *kvv1.Result) *kvv1.ResponseHeader {
	switch r := result.Result.(type) {
	case *kvv1.Result_Put:
		return r.Put.Header
	case *kvv1.Result_Delete:
		return r.Delete.Header
	case *kvv1.Result_Txn:
		return r.Txn.Header
	case *kvv1.Result_Batch:
		return r.Batch.Header
	case *kvv1.Result_Grant:
		return r.Grant.Header
	case *kvv1.Result_Revoke:
		return r.Revoke.Header
	}
	return nil
}

// stripResult leaves out keys and values, and marks what lost some.
func stripResult(result *kvv1.Result) {
	switch r := result.Result.(type) {
	case *kvv1.Result_Put:
		r.Put.Header.Cut = stripPut(r.Put)
	case *kvv1.Result_Delete:
		r.Delete.Header.Cut = stripDelete(r.Delete)
	case *kvv1.Result_Txn:
		r.Txn.Header.Cut = stripTxn(r.Txn)
	case *kvv1.Result_Batch:
		for _, write := range r.Batch.Results {
			switch w := write.Result.(type) {
			case *kvv1.WriteResult_Put:
				write.Cut = stripPut(w.Put)
			case *kvv1.WriteResult_Delete:
				write.Cut = stripDelete(w.Delete)
			case *kvv1.WriteResult_Txn:
				write.Cut = stripTxn(w.Txn)
			}
			r.Batch.Header.Cut = r.Batch.Header.Cut || write.Cut
		}
	}
}

func stripPut(put *kvv1.PutResponse) (cut bool) {
	cut, put.PrevKv = put.PrevKv != nil, nil
	return cut
}

func stripDelete(deleted *kvv1.DeleteResponse) (cut bool) {
	cut, deleted.PrevKvs = len(deleted.PrevKvs) > 0, nil
	return cut
}

func stripTxn(txn *kvv1.TxnResponse) (cut bool) {
	for _, result := range txn.Results {
		lost := false
		switch r := result.Result.(type) {
		case *kvv1.OpResult_Range:
			lost = len(r.Range.Kvs) > 0
			r.Range.Kvs = nil
		case *kvv1.OpResult_Put:
			lost = stripPut(r.Put)
		case *kvv1.OpResult_Delete:
			lost = stripDelete(r.Delete)
		case *kvv1.OpResult_Txn:
			lost = stripTxn(r.Txn)
		}
		cut = cut || lost
	}
	return cut
}

// On disk a request stands under its requestKey, and its requestKey under
// orderKey(number). Their lengths tell them apart.
func orderKey(number uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, 8), number)
}

func (r *request) encode(key []byte) []byte {
	record := make([]byte, checksumBytes, checksumBytes+2*binary.MaxVarintLen64+len(r.result))
	record = binary.AppendUvarint(record, r.number)
	record = binary.AppendUvarint(record, r.index)
	record = append(record, r.result...)
	return seal(key, record)
}

func readRequest(key, record []byte) (request, error) {
	payload, err := unseal(key, record)
	if err != nil {
		return request{}, err
	}
	r := reader{b: payload}
	req := request{number: r.uint(), index: r.uint()}
	req.result = r.b
	if r.bad {
		return request{}, corrupt("request record under key %.64x", key)
	}
	return req, nil
}

func sortRequestKeys(keys []requestKey) {
	slices.SortFunc(keys, func(a, b requestKey) int { return bytes.Compare(a[:], b[:]) })
}

func putRequests(bucket *bbolt.Bucket, keys []requestKey, requests map[requestKey]request) error {
	for _, key := range keys {
		r := requests[key]
		if err := bucket.Put(key[:], r.encode(key[:])); err != nil {
			return err
		}
		order := orderKey(r.number)
		record := append(make([]byte, checksumBytes), key[:]...)
		if err := bucket.Put(order, seal(order, record)); err != nil {
			return err
		}
	}
	return nil
}

// forgetRequests removes the requests with numbers from up to before to.
func forgetRequests(tx *bbolt.Tx, from, to uint64) error {
	bucket := tx.Bucket(bucketRequests)
	for number := from; number < to; number++ {
		order := orderKey(number)
		record := bucket.Get(order)
		if record == nil {
			continue
		}
		key, err := unseal(order, record)
		if err != nil {
			return err
		}
		key = bytes.Clone(key)
		if err := bucket.Delete(order); err != nil {
			return err
		}
		// A client may have used the key again since.
		if r, err := readRequest(key, bucket.Get(key)); err != nil || r.number != number {
			continue
		}
		if err := bucket.Delete(key); err != nil {
			return err
		}
	}
	return nil
}
