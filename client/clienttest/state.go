package clienttest

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// state is what the pods share.
type state struct {
	mu       sync.Mutex // guards all below
	revision int64
	// compacted is the oldest revision that can be read.
	compacted int64
	keys      map[string]*kvv1.KeyValue
	log       []change
	leases    map[int64]*lease
	lastLease int64
	results   map[string]proto.Message
	// forgotten is the newest revision of which request ids may be forgotten.
	forgotten int64
	// lag is how far watches are behind at their start.
	lag int64
	// cut: results are remembered without keys and values.
	cut     bool
	changed chan struct{} // closed at the next change
}

type change struct {
	revision int64
	event    *kvv1.Event
}

type lease struct {
	ttl  int64
	ends time.Time
}

func newState() *state {
	return &state{
		keys: map[string]*kvv1.KeyValue{}, leases: map[int64]*lease{},
		results: map[string]proto.Message{}, changed: make(chan struct{}), compacted: 1,
	}
}

// once applies a write unless its request id is known. The lock is held.
func once[T interface {
	proto.Message
	GetHeader() *kvv1.ResponseHeader
}](s *state, id *kvv1.RequestId, apply func() (T, error)) (T, error) {
	var none T
	if id == nil {
		return apply()
	}
	key := fmt.Sprintf("%x/%d", id.GetClientId(), id.GetSequence())
	if known, ok := s.results[key]; ok {
		answer := proto.Clone(known).(T)
		answer.GetHeader().Replayed = true
		return answer, nil
	}
	if id.GetKnownRevision() < s.forgotten {
		return none, Error(codes.FailedPrecondition, kvv1.ErrorReason_ERROR_REASON_REQUEST_ID_EXPIRED,
			"the request id is older than the store remembers", "revision", fmt.Sprint(s.revision))
	}
	answer, err := apply()
	if err == nil {
		kept := proto.Clone(answer)
		if s.cut {
			strip(kept)
		}
		s.results[key] = kept
	}
	return answer, err
}

// strip leaves keys and values out of a result.
func strip(result proto.Message) {
	switch r := result.(type) {
	case *kvv1.PutResponse:
		r.Header.Cut, r.PrevKv = r.PrevKv != nil, nil
	case *kvv1.TxnResponse:
		for _, one := range r.Results {
			if found := one.GetRange(); len(found.GetKvs()) > 0 {
				r.Header.Cut, found.Kvs = true, nil
			}
		}
	case *kvv1.WriteBatchResult:
		for _, one := range r.Results {
			if put := one.GetPut(); put.GetPrevKv() != nil {
				r.Header.Cut, one.Cut, put.PrevKv = true, true, nil
			}
		}
	}
}

func inRange(key string, first, end []byte) bool {
	switch {
	case len(end) == 0:
		return key == string(first)
	case len(end) == 1 && end[0] == 0:
		return key >= string(first)
	}
	return key >= string(first) && key < string(end)
}

// at gives the keys as they were at a revision, sorted. The lock is held.
func (s *state) at(revision int64, first, end []byte) []*kvv1.KeyValue {
	keys := s.keys
	if revision < s.revision {
		keys = map[string]*kvv1.KeyValue{}
		for _, c := range s.log {
			if c.revision > revision {
				break
			}
			if c.event.GetType() == kvv1.Event_TYPE_PUT {
				keys[string(c.event.GetKv().GetKey())] = c.event.GetKv()
			} else {
				delete(keys, string(c.event.GetKv().GetKey()))
			}
		}
	}
	var found []*kvv1.KeyValue
	for key, kv := range keys {
		if inRange(key, first, end) {
			found = append(found, kv)
		}
	}
	slices.SortFunc(found, func(a, b *kvv1.KeyValue) int { return bytes.Compare(a.GetKey(), b.GetKey()) })
	return found
}

// read serves a range; limit 0: all. The lock is held.
func (s *state) read(r *kvv1.RangeRequest, limit int64) (*kvv1.RangeResponse, error) {
	revision := r.GetRevision()
	switch {
	case revision == 0:
		revision = s.revision
	case revision > s.revision:
		return nil, Error(codes.OutOfRange, kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION,
			fmt.Sprintf("revision %d does not exist yet", revision), "revision", fmt.Sprint(s.revision))
	case revision < s.compacted:
		return nil, compacted(revision, s.compacted)
	}
	found := s.at(revision, r.GetKey(), r.GetRangeEnd())
	response := &kvv1.RangeResponse{Count: int64(len(found))}
	if r.GetCountOnly() {
		return response, nil
	}
	if r.GetReverse() {
		slices.Reverse(found)
	}
	if limit > 0 && int64(len(found)) > limit {
		response.More, response.NextKey = true, found[limit].GetKey()
		if r.GetReverse() {
			response.NextKey = found[limit-1].GetKey()
		}
		found = found[:limit]
	}
	for _, kv := range found {
		if r.GetKeysOnly() {
			kv = proto.Clone(kv).(*kvv1.KeyValue)
			kv.Value = nil
		}
		response.Kvs = append(response.Kvs, kv)
	}
	response.Count = int64(len(found))
	return response, nil
}

func compacted(revision, oldest int64) error {
	return Error(codes.OutOfRange, kvv1.ErrorReason_ERROR_REASON_COMPACTED,
		fmt.Sprintf("revision %d was compacted away, the oldest kept is %d", revision, oldest), "oldest_revision", fmt.Sprint(oldest))
}

// write is one transaction: all its changes have one revision. The state's lock
// is held from its making to its commit.
type write struct {
	state    *state
	revision int64
	changes  []change
}

func (s *state) begin() *write { return &write{state: s, revision: s.revision + 1} }

func (w *write) commit() int64 {
	if len(w.changes) > 0 {
		w.state.revision = w.revision
		w.state.log = append(w.state.log, w.changes...)
		close(w.state.changed)
		w.state.changed = make(chan struct{})
	}
	return w.state.revision
}

func (w *write) put(r *kvv1.PutRequest) (*kvv1.PutResponse, error) {
	key := string(r.GetKey())
	if key == "" {
		return nil, Error(codes.InvalidArgument, kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST, "the key is empty", "field", "key")
	}
	old := w.state.keys[key]
	if old == nil && (r.GetIgnoreLease() || r.GetIgnoreValue()) {
		return nil, Error(codes.NotFound, kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND, "there is no such key")
	}
	kv := &kvv1.KeyValue{Key: r.GetKey(), Value: r.GetValue(), Lease: r.GetLease(),
		CreateRevision: w.revision, ModRevision: w.revision, Version: 1}
	if old != nil {
		kv.CreateRevision, kv.Version = old.GetCreateRevision(), old.GetVersion()+1
		if r.GetIgnoreValue() {
			kv.Value = old.GetValue()
		}
		if r.GetIgnoreLease() {
			kv.Lease = old.GetLease()
		}
	}
	if kv.Lease != 0 && w.state.leases[kv.Lease] == nil {
		return nil, leaseNotFound(kv.Lease)
	}
	w.state.keys[key] = kv
	w.changes = append(w.changes, change{w.revision, &kvv1.Event{Type: kvv1.Event_TYPE_PUT, Kv: kv, PrevKv: old}})
	response := &kvv1.PutResponse{}
	if r.GetPrevKv() {
		response.PrevKv = old
	}
	return response, nil
}

func leaseNotFound(id int64) error {
	return Error(codes.NotFound, kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND, fmt.Sprintf("there is no lease %d", id))
}

func (w *write) delete(first, end []byte, prev bool) *kvv1.DeleteResponse {
	response := &kvv1.DeleteResponse{}
	for _, kv := range w.state.at(w.state.revision+1, first, end) {
		w.remove(kv)
		response.Deleted++
		if prev {
			response.PrevKvs = append(response.PrevKvs, kv)
		}
	}
	return response
}

func (w *write) remove(kv *kvv1.KeyValue) {
	delete(w.state.keys, string(kv.GetKey()))
	w.changes = append(w.changes, change{w.revision, &kvv1.Event{
		Type: kvv1.Event_TYPE_DELETE, PrevKv: kv,
		Kv: &kvv1.KeyValue{Key: kv.GetKey(), ModRevision: w.revision},
	}})
}

func (w *write) txn(r *kvv1.TxnRequest) (*kvv1.TxnResponse, error) {
	response := &kvv1.TxnResponse{Succeeded: true}
	for _, c := range r.GetCompare() {
		response.Succeeded = response.Succeeded && holds(c, w.state.keys[string(c.GetKey())])
	}
	ops := r.GetSuccess()
	if !response.Succeeded {
		ops = r.GetFailure()
	}
	for _, op := range ops {
		result, err := w.op(op)
		if err != nil {
			return nil, err
		}
		response.Results = append(response.Results, result)
	}
	return response, nil
}

func (w *write) op(op *kvv1.Op) (*kvv1.OpResult, error) {
	switch {
	case op.GetPut() != nil:
		put, err := w.put(op.GetPut())
		return &kvv1.OpResult{Result: &kvv1.OpResult_Put{Put: put}}, err
	case op.GetDelete() != nil:
		d := op.GetDelete()
		return &kvv1.OpResult{Result: &kvv1.OpResult_Delete{Delete: w.delete(d.GetKey(), d.GetRangeEnd(), d.GetPrevKv())}}, nil
	case op.GetRange() != nil:
		found, err := w.state.read(op.GetRange(), op.GetRange().GetLimit())
		return &kvv1.OpResult{Result: &kvv1.OpResult_Range{Range: found}}, err
	}
	nested, err := w.txn(op.GetTxn())
	return &kvv1.OpResult{Result: &kvv1.OpResult_Txn{Txn: nested}}, err
}

// holds evaluates a compare with one key, nil when it does not exist.
func holds(c *kvv1.Compare, kv *kvv1.KeyValue) bool {
	var order int
	switch target := c.GetTarget().(type) {
	case *kvv1.Compare_Exists:
		return (kv != nil) == target.Exists == (c.GetOperator() == kvv1.Compare_OPERATOR_EQUAL)
	case *kvv1.Compare_Value:
		if kv == nil {
			return false
		}
		order = bytes.Compare(kv.GetValue(), target.Value)
	case *kvv1.Compare_Version:
		order = cmp.Compare(kv.GetVersion(), target.Version)
	case *kvv1.Compare_CreateRevision:
		order = cmp.Compare(kv.GetCreateRevision(), target.CreateRevision)
	case *kvv1.Compare_ModRevision:
		order = cmp.Compare(kv.GetModRevision(), target.ModRevision)
	case *kvv1.Compare_Lease:
		order = cmp.Compare(kv.GetLease(), target.Lease)
	}
	switch c.GetOperator() {
	case kvv1.Compare_OPERATOR_EQUAL:
		return order == 0
	case kvv1.Compare_OPERATOR_NOT_EQUAL:
		return order != 0
	case kvv1.Compare_OPERATOR_GREATER:
		return order > 0
	}
	return order < 0
}

// endLeases revokes what was not kept alive in time. The lock is held.
func (s *state) endLeases() {
	for id, l := range s.leases {
		if time.Now().After(l.ends) {
			s.revoke(id)
		}
	}
}

func (s *state) revoke(id int64) (revision, deleted int64) {
	w := s.begin()
	for _, kv := range w.state.at(s.revision, []byte{0}, []byte{0}) {
		if kv.GetLease() == id {
			w.remove(kv)
			deleted++
		}
	}
	delete(s.leases, id)
	return w.commit(), deleted
}
