package store

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// model is what a store should do, written to be obviously right: it keeps the
// whole content at every revision in a map of its own.
type model struct {
	revision, compacted int64
	at                  []contents      // By revision.
	events              [][]*kvv1.Event // By revision, with previous values.
	leases              map[int64]int64
	requests            []modelRequest // All that were ever to be remembered.
	rights              *access.State
	uncounted           map[string][]byte // By tenant: the first key that is not counted; not in it: all are.
	floor               int64             // No request that is not remembered was known before.

	// While a command runs:
	now    contents
	fresh  []*kvv1.Event
	caller caller.Caller
}

type contents map[string]*kvv1.KeyValue

type modelRequest struct {
	id       string
	result   *kvv1.Result
	revision int64
}

func newModel() *model {
	return &model{revision: 1, at: []contents{nil, {}}, events: make([][]*kvv1.Event, 2), leases: map[int64]int64{}, uncounted: map[string][]byte{}}
}

// refused is a result: Message and Metadata are not modelled.
func refused(reason kvv1.ErrorReason) *kvv1.Result {
	return &kvv1.Result{Result: &kvv1.Result_Error{Error: &kvv1.Error{Code: uint32(refusal.Code(&refusal.Error{Reason: reason})), Reason: reason}}}
}

// oldestRequest is the number of the oldest request that is remembered.
func (m *model) oldestRequest() int {
	return max(0, len(m.requests)/requestBlock-requestBlocks) * requestBlock
}

func (m *model) apply(command *kvv1.Command) *kvv1.Result {
	user := ""
	if m.rights.Enabled() {
		m.caller = access.Of(command.GetIdentity())
		if err := m.rights.Known(m.caller); err != nil {
			return refused(refusal.Reason(err))
		}
		user = m.caller.User
	}
	id := requestID(command)
	if id == nil {
		return m.permitted(command)
	}
	if len(id.ClientId) != clientIDBytes {
		return refused(kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST)
	}
	name, oldest := user+"|"+string(id.ClientId)+string(orderKey(id.Sequence)), m.oldestRequest()
	for i := len(m.requests) - 1; i >= oldest; i-- {
		if m.requests[i].id == name {
			first := proto.Clone(m.requests[i].result).(*kvv1.Result)
			if header := resultHeader(first); header != nil {
				header.Replayed = true
			}
			return first
		}
	}
	floor := m.floor
	if oldest > 0 {
		floor = max(floor, m.requests[oldest-1].revision)
	}
	if id.KnownRevision < floor {
		return refused(kvv1.ErrorReason_ERROR_REASON_REQUEST_ID_EXPIRED)
	}
	result := m.permitted(command)
	if couldChange(command) {
		kept := proto.Clone(result).(*kvv1.Result)
		if proto.Size(kept) > maxKeptResult {
			stripResult(kept)
		}
		m.requests = append(m.requests, modelRequest{id: name, result: kept, revision: m.revision})
	}
	return result
}

func (m *model) run(command *kvv1.Command) *kvv1.Result {
	switch c := command.Command.(type) {
	case *kvv1.Command_Batch:
		resp := &kvv1.WriteBatchResult{}
		for _, write := range c.Batch.Writes {
			resp.Results = append(resp.Results, m.batched(write))
		}
		resp.Header = m.header()
		return &kvv1.Result{Result: &kvv1.Result_Batch{Batch: resp}}
	case *kvv1.Command_Grant:
		if c.Grant.Id <= 0 || c.Grant.TtlSeconds <= 0 {
			return refused(kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST)
		}
		if m.leases[c.Grant.Id] != 0 {
			return refused(kvv1.ErrorReason_ERROR_REASON_LEASE_EXISTS)
		}
		m.leases[c.Grant.Id] = c.Grant.TtlSeconds
		return &kvv1.Result{Result: &kvv1.Result_Grant{Grant: &kvv1.GrantResponse{
			Header: m.header(), Id: c.Grant.Id, TtlSeconds: c.Grant.TtlSeconds}}}
	case *kvv1.Command_Revoke:
		if m.leases[c.Revoke.Id] == 0 {
			return refused(kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND)
		}
		m.begin()
		deleted := int64(0)
		for _, key := range m.attached(c.Revoke.Id) {
			m.remove(key)
			deleted++
		}
		delete(m.leases, c.Revoke.Id)
		m.commit()
		return &kvv1.Result{Result: &kvv1.Result_Revoke{Revoke: &kvv1.RevokeResponse{Header: m.header(), Deleted: deleted}}}
	case *kvv1.Command_Compact:
		if c.Compact.Revision > m.revision {
			return refused(kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION)
		}
		if c.Compact.Revision <= m.compacted {
			return refused(kvv1.ErrorReason_ERROR_REASON_COMPACTED)
		}
		m.compacted = c.Compact.Revision
		return &kvv1.Result{Result: &kvv1.Result_Compact{Compact: &kvv1.CompactResponse{Header: m.header()}}}
	case *kvv1.Command_Auth:
		return m.changeAuth(c.Auth)
	case *kvv1.Command_Put:
		result, reason := m.alone(&kvv1.Op{Op: &kvv1.Op_Put{Put: c.Put}})
		if reason != 0 {
			return refused(reason)
		}
		result.GetPut().Header = m.header()
		return &kvv1.Result{Result: &kvv1.Result_Put{Put: result.GetPut()}}
	case *kvv1.Command_Delete:
		result, reason := m.alone(&kvv1.Op{Op: &kvv1.Op_Delete{Delete: c.Delete}})
		if reason != 0 {
			return refused(reason)
		}
		result.GetDelete().Header = m.header()
		return &kvv1.Result{Result: &kvv1.Result_Delete{Delete: result.GetDelete()}}
	case *kvv1.Command_Txn:
		result, reason := m.alone(&kvv1.Op{Op: &kvv1.Op_Txn{Txn: c.Txn}})
		if reason != 0 {
			return refused(reason)
		}
		result.GetTxn().Header = m.header()
		return &kvv1.Result{Result: &kvv1.Result_Txn{Txn: result.GetTxn()}}
	}
	return refused(kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST)
}

func (m *model) batched(write *kvv1.Write) *kvv1.WriteResult {
	command := &kvv1.Command{}
	switch w := write.GetWrite().(type) {
	case *kvv1.Write_Put:
		command.Command = &kvv1.Command_Put{Put: w.Put}
	case *kvv1.Write_Delete:
		command.Command = &kvv1.Command_Delete{Delete: w.Delete}
	case *kvv1.Write_Txn:
		command.Command = &kvv1.Command_Txn{Txn: w.Txn}
	}
	result := m.permittedWrite(command)
	written := &kvv1.WriteResult{Revision: m.revision}
	switch r := result.Result.(type) {
	case *kvv1.Result_Put:
		if r.Put.PrevKv != nil {
			written.Result = &kvv1.WriteResult_Put{Put: &kvv1.PutResponse{PrevKv: r.Put.PrevKv}}
		}
	case *kvv1.Result_Delete:
		written.Result = &kvv1.WriteResult_Delete{Delete: r.Delete}
	case *kvv1.Result_Txn:
		written.Result = &kvv1.WriteResult_Txn{Txn: r.Txn}
	case *kvv1.Result_Error:
		written.Result = &kvv1.WriteResult_Error{Error: r.Error}
	}
	return written
}

// alone runs one operation as a transaction.
func (m *model) alone(op *kvv1.Op) (*kvv1.OpResult, kvv1.ErrorReason) {
	m.begin()
	run, reason := m.choose(op, &modelWrites{puts: map[string]bool{}})
	if reason != 0 {
		return nil, reason
	}
	result := run()
	if m.overQuota() {
		return nil, kvv1.ErrorReason_ERROR_REASON_QUOTA_EXCEEDED
	}
	m.commit()
	return result, 0
}

func (m *model) begin() { m.now, m.fresh = maps.Clone(m.at[m.revision]), nil }

func (m *model) commit() {
	if len(m.fresh) == 0 {
		return
	}
	m.revision++
	m.at, m.events = append(m.at, m.now), append(m.events, m.fresh)
}

func (m *model) header() *kvv1.ResponseHeader { return &kvv1.ResponseHeader{Revision: m.revision} }

// modelWrites finds keys that are written twice.
type modelWrites struct {
	puts    map[string]bool
	deletes []*kvv1.DeleteRequest
}

// choose checks an operation against the state before the transaction, decides
// its branches, and returns what will run it.
func (m *model) choose(op *kvv1.Op, w *modelWrites) (run func() *kvv1.OpResult, reason kvv1.ErrorReason) {
	before := m.at[m.revision]
	switch o := op.GetOp().(type) {
	case *kvv1.Op_Range:
		if o.Range.Revision > m.revision {
			return nil, kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION
		}
		if o.Range.Revision != 0 && o.Range.Revision < m.compacted {
			return nil, kvv1.ErrorReason_ERROR_REASON_COMPACTED
		}
		return func() *kvv1.OpResult {
			content := m.now
			if o.Range.Revision != 0 {
				content = m.at[o.Range.Revision]
			}
			return &kvv1.OpResult{Result: &kvv1.OpResult_Range{Range: content.page(o.Range)}}
		}, 0
	case *kvv1.Op_Put:
		key := string(o.Put.Key)
		_, exists := before[key]
		switch {
		case key == "":
			return nil, kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST
		case o.Put.Lease != 0 && !o.Put.IgnoreLease && m.leases[o.Put.Lease] == 0:
			return nil, kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND
		case (o.Put.IgnoreLease || o.Put.IgnoreValue) && !exists:
			return nil, kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND
		case w.puts[key] || slices.ContainsFunc(w.deletes, func(d *kvv1.DeleteRequest) bool { return inRange(key, d.Key, d.RangeEnd) }):
			return nil, kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST
		}
		w.puts[key] = true
		return func() *kvv1.OpResult { return &kvv1.OpResult{Result: &kvv1.OpResult_Put{Put: m.put(o.Put)}} }, 0
	case *kvv1.Op_Delete:
		if len(o.Delete.Key) == 0 {
			return nil, kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST
		}
		size := 0
		for _, key := range before.keys(o.Delete.Key, o.Delete.RangeEnd) {
			size += len(key) + len(before[key].Value) + entryOverhead
		}
		if o.Delete.PrevKv && size > MaxPageBytes {
			return nil, kvv1.ErrorReason_ERROR_REASON_TOO_LARGE
		}
		for key := range w.puts {
			if inRange(key, o.Delete.Key, o.Delete.RangeEnd) {
				return nil, kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST
			}
		}
		w.deletes = append(w.deletes, o.Delete)
		return func() *kvv1.OpResult {
			return &kvv1.OpResult{Result: &kvv1.OpResult_Delete{Delete: m.delete(o.Delete)}}
		}, 0
	case *kvv1.Op_Txn:
		resp := &kvv1.TxnResponse{Succeeded: true}
		for _, c := range o.Txn.Compare {
			if checkCompare(c) != nil {
				return nil, kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST
			}
			if !before.holds(c) {
				resp.Succeeded = false
				break
			}
		}
		ops := o.Txn.Success
		if !resp.Succeeded {
			ops = o.Txn.Failure
		}
		var runs []func() *kvv1.OpResult
		for _, op := range ops {
			run, reason := m.choose(op, w)
			if reason != 0 {
				return nil, reason
			}
			runs = append(runs, run)
		}
		return func() *kvv1.OpResult {
			for _, run := range runs {
				resp.Results = append(resp.Results, run())
			}
			return &kvv1.OpResult{Result: &kvv1.OpResult_Txn{Txn: resp}}
		}, 0
	}
	return nil, kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST
}

func (m *model) put(req *kvv1.PutRequest) *kvv1.PutResponse {
	prev := m.now[string(req.Key)]
	kv := &kvv1.KeyValue{Key: req.Key, CreateRevision: m.revision + 1, ModRevision: m.revision + 1, Version: 1, Value: req.Value, Lease: req.Lease}
	if prev != nil {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
		if req.IgnoreValue {
			kv.Value = prev.Value
		}
		if req.IgnoreLease {
			kv.Lease = prev.Lease
		}
	}
	m.now[string(req.Key)] = kv
	m.fresh = append(m.fresh, &kvv1.Event{Type: kvv1.Event_TYPE_PUT, Kv: kv, PrevKv: prev})
	if req.PrevKv {
		return &kvv1.PutResponse{PrevKv: prev}
	}
	return &kvv1.PutResponse{}
}

func (m *model) delete(req *kvv1.DeleteRequest) *kvv1.DeleteResponse {
	resp := &kvv1.DeleteResponse{}
	for _, key := range m.now.keys(req.Key, req.RangeEnd) {
		resp.Deleted++
		if req.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, m.now[key])
		}
		m.remove(key)
	}
	return resp
}

func (m *model) remove(key string) {
	m.fresh = append(m.fresh, &kvv1.Event{Type: kvv1.Event_TYPE_DELETE, PrevKv: m.now[key],
		Kv: &kvv1.KeyValue{Key: []byte(key), ModRevision: m.revision + 1}})
	delete(m.now, key)
}

// attached gives the keys of a lease, in order.
func (m *model) attached(lease int64) (keys []string) {
	for _, key := range slices.Sorted(maps.Keys(m.at[m.revision])) {
		if m.at[m.revision][key].Lease == lease {
			keys = append(keys, key)
		}
	}
	return keys
}

func inRange(key string, start, end []byte) bool {
	switch {
	case len(end) == 0:
		return key == string(start)
	case string(end) == "\x00":
		return key >= string(start)
	}
	return key >= string(start) && key < string(end)
}

func (c contents) keys(start, end []byte) (keys []string) {
	for _, key := range slices.Sorted(maps.Keys(c)) {
		if inRange(key, start, end) {
			keys = append(keys, key)
		}
	}
	return keys
}

func (c contents) page(req *kvv1.RangeRequest) *kvv1.RangeResponse {
	keys, size, resp := c.keys(req.Key, req.RangeEnd), 0, &kvv1.RangeResponse{}
	if req.CountOnly {
		return &kvv1.RangeResponse{Count: int64(len(keys))}
	}
	if req.Reverse {
		slices.Reverse(keys)
	}
	for i, key := range keys {
		if resp.Count == pageKeys(req.Limit) || size >= MaxPageBytes {
			resp.More, resp.NextKey = true, []byte(key)
			if req.Reverse {
				resp.NextKey = []byte(keys[i-1])
			}
			break
		}
		kv := proto.Clone(c[key]).(*kvv1.KeyValue)
		if req.KeysOnly {
			kv.Value = nil
		}
		size += len(kv.Key) + len(kv.Value) + entryOverhead
		resp.Kvs, resp.Count = append(resp.Kvs, kv), resp.Count+1
	}
	return resp
}

// holds says whether a compare is true of every key in its range, or of the
// absent key when there is none.
func (c contents) holds(compare *kvv1.Compare) bool {
	keys := c.keys(compare.Key, compare.RangeEnd)
	for _, key := range keys {
		if !holdsOf(compare, c[key]) {
			return false
		}
	}
	return len(keys) > 0 || holdsOf(compare, nil)
}

func holdsOf(compare *kvv1.Compare, kv *kvv1.KeyValue) bool {
	order := 0
	switch t := compare.Target.(type) {
	case *kvv1.Compare_Value:
		if kv == nil {
			return false
		}
		order = bytes.Compare(kv.Value, t.Value)
	case *kvv1.Compare_Exists:
		return (compare.Operator == kvv1.Compare_OPERATOR_EQUAL) == ((kv != nil) == t.Exists)
	case *kvv1.Compare_Version:
		order = cmp.Compare(kv.GetVersion(), t.Version)
	case *kvv1.Compare_CreateRevision:
		order = cmp.Compare(kv.GetCreateRevision(), t.CreateRevision)
	case *kvv1.Compare_ModRevision:
		order = cmp.Compare(kv.GetModRevision(), t.ModRevision)
	case *kvv1.Compare_Lease:
		order = cmp.Compare(kv.GetLease(), t.Lease)
	}
	return map[kvv1.Compare_Operator]bool{
		kvv1.Compare_OPERATOR_EQUAL: order == 0, kvv1.Compare_OPERATOR_NOT_EQUAL: order != 0,
		kvv1.Compare_OPERATOR_GREATER: order > 0, kvv1.Compare_OPERATOR_LESS: order < 0,
	}[compare.Operator]
}
