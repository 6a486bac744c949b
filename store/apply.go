package store

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	"github.com/batondb/baton/internal/turn"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// applier runs commands: it is the only writer. What it does depends on the
// commands and on the state alone.
type applier struct {
	store *Store

	// mu is held while an entry is applied, also while that waits for the flusher,
	// and to freeze the active table. It comes before every other lock of the package.
	mu      turn.Lock
	st      state
	index   uint64          // Of the entry at hand.
	table   *table          // The active one.
	view    *view           // For the time of one entry.
	broken  bool            // A read failed in the middle of an entry: nothing more is applied.
	freeze  bool            // Freeze the table as soon as the entry is done.
	changes []*tableVersion // Of the revision that is being written.
	digest  *xxhash.Digest
	caller  caller.Caller // Of the command at hand, while access control is on.
	format  int           // Of the file, at least.
}

// Apply runs the commands of one log entry, in order, and returns a result for
// each. Indexes must rise; an entry at or below Applied was applied before and
// returns nil. Only one goroutine may call Apply and ApplyConfiguration.
//
// When the disk fails, Failed tells so and the results say that the outcome is
// unknown; the process must end.
func (s *Store) Apply(index, term uint64, commands []*kvv1.Command) []*kvv1.Result {
	a := s.applier
	a.mu.Lock()
	defer a.mu.Unlock()
	if index <= a.st.Index {
		return nil
	}
	before := a.st.Revision
	results, err := a.entry(index, commands)
	if err == nil && a.st.Format > a.format {
		err = a.raiseFormat()
	}
	if err != nil {
		return a.fail(err, len(commands))
	}
	a.end(index, term, before)
	return results
}

func (a *applier) entry(index uint64, commands []*kvv1.Command) (results []*kvv1.Result, err error) {
	if err := a.begin(); err != nil {
		return nil, err
	}
	defer a.view.close()
	defer a.store.guard(&err)
	a.index = index
	results = make([]*kvv1.Result, len(commands))
	for i, command := range commands {
		if results[i], err = a.command(index, command); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// ApplyConfiguration records the membership that is valid from index on.
func (s *Store) ApplyConfiguration(index, term uint64, configuration []byte) {
	a := s.applier
	a.mu.Lock()
	defer a.mu.Unlock()
	if index <= a.st.Index || a.broken || a.store.failing.Load() {
		return // After an entry that could not be applied nothing may follow.
	}
	a.st.ConfigurationIndex, a.st.Configuration = index, bytes.Clone(configuration)
	a.end(index, term, a.st.Revision)
}

func (a *applier) begin() error {
	if a.broken || a.store.failing.Load() {
		return ErrClosed
	}
	if err := a.room(); err != nil {
		return err
	}
	v, err := a.store.view(context.Background())
	if err != nil {
		return err
	}
	a.view = v
	return nil
}

// end publishes an entry: first its revisions, then its index, so that whoever
// waits for the index finds the revisions.
func (a *applier) end(index, term uint64, before int64) {
	a.st.Index, a.st.Term = index, term
	a.table.state = a.st
	a.store.visible.compacted.Store(a.st.Compacted)
	a.store.visible.revision.Store(a.st.Revision)
	a.store.visible.applied.Store(index)
	a.table.tidy()
	if a.st.Revision > before {
		a.store.watches.notify(a.st.Revision, a.table.logFrom(before+1))
		a.store.revised.broadcast()
	}
	if a.freeze && a.store.tables.Load().frozen == nil {
		a.freezeTable()
	}
}

// fail gives up: an entry that was applied in part must not be acknowledged,
// and nothing may follow it.
func (a *applier) fail(err error, commands int) []*kvv1.Result {
	a.broken = true
	a.store.fail(err)
	unknown := &refusal.Error{
		Reason:  kvv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN,
		Message: fmt.Sprintf("this pod's store failed: %v", err),
	}
	results := make([]*kvv1.Result, commands)
	for i := range results {
		results[i] = &kvv1.Result{Result: &kvv1.Result_Error{Error: unknown.Proto()}}
	}
	return results
}

// command applies one command, or finds its first result.
func (a *applier) command(index uint64, command *kvv1.Command) (*kvv1.Result, error) {
	user, err := a.identify(command)
	if err != nil {
		return a.refusal(nil, err)
	}
	id := requestID(command)
	if id == nil {
		return a.refusal(a.permitted(command))
	}
	key, ok := newRequestKey(id, user)
	if !ok {
		return a.refusal(nil, errInvalid("request_id.client_id", "a client id has %d bytes, this one has %d", clientIDBytes, len(id.ClientId)))
	}
	first, found, err := a.remembered(key, index)
	if err != nil || found {
		return first, err
	}
	if id.KnownRevision < a.st.Requests.Floor {
		return a.refusal(nil, errRequestExpired(a.st.Revision))
	}
	result, err := a.refusal(a.permitted(command))
	if err != nil {
		return nil, err
	}
	if couldChange(command) {
		number := a.st.Requests.take(a.st.Revision)
		a.table.remember(key, request{number: number, index: index, result: encodeResult(result)})
	}
	return result, nil
}

// refusal makes a refusal a result, which every replica gives, and leaves other
// errors, which end this one.
func (a *applier) refusal(result *kvv1.Result, err error) (*kvv1.Result, error) {
	if err == nil {
		return result, nil
	}
	if refused := refusal.Of(err); refused != nil && refused.Everywhere() {
		return &kvv1.Result{Result: &kvv1.Result_Error{Error: refused.Proto()}}, nil
	}
	return nil, err
}

func requestID(command *kvv1.Command) *kvv1.RequestId {
	switch c := command.GetCommand().(type) {
	case *kvv1.Command_Put:
		return c.Put.GetRequestId()
	case *kvv1.Command_Delete:
		return c.Delete.GetRequestId()
	case *kvv1.Command_Txn:
		return c.Txn.GetRequestId()
	case *kvv1.Command_Batch:
		return c.Batch.GetRequestId()
	case *kvv1.Command_Grant:
		return c.Grant.GetRequestId()
	case *kvv1.Command_Revoke:
		return c.Revoke.GetRequestId()
	}
	return nil
}

// remembered looks for the first result of a request. After a crash in the
// middle of a flush the disk may hold requests of entries that are only now
// replayed: those do not count.
func (a *applier) remembered(key requestKey, index uint64) (*kvv1.Result, bool, error) {
	oldest := a.st.Requests.oldest()
	for _, t := range a.view.tables {
		if r, ok := t.requests[key]; ok {
			return a.replay(r, oldest)
		}
	}
	if _, err := a.view.disk(); err != nil {
		return nil, false, err
	}
	record := a.view.tx.Bucket(bucketRequests).Get(key[:])
	if record == nil {
		return nil, false, nil
	}
	r, err := readRequest(key[:], record)
	if err != nil || r.index >= index {
		return nil, false, err
	}
	return a.replay(r, oldest)
}

func (a *applier) replay(r request, oldest uint64) (*kvv1.Result, bool, error) {
	if r.number < oldest {
		return nil, false, nil
	}
	result, err := decodeResult(r.result)
	return result, err == nil, err
}

// run applies a command that was not applied before.
func (a *applier) run(command *kvv1.Command) (*kvv1.Result, error) {
	switch c := command.GetCommand().(type) {
	case *kvv1.Command_Put:
		return a.putCommand(c.Put)
	case *kvv1.Command_Delete:
		resp, err := a.deleteAlone(c.Delete)
		return &kvv1.Result{Result: &kvv1.Result_Delete{Delete: resp}}, err
	case *kvv1.Command_Txn:
		resp, err := a.txnAlone(c.Txn)
		return &kvv1.Result{Result: &kvv1.Result_Txn{Txn: resp}}, err
	case *kvv1.Command_Batch:
		resp, err := a.batch(c.Batch)
		return &kvv1.Result{Result: &kvv1.Result_Batch{Batch: resp}}, err
	case *kvv1.Command_Grant:
		resp, err := a.grant(c.Grant)
		return &kvv1.Result{Result: &kvv1.Result_Grant{Grant: resp}}, err
	case *kvv1.Command_Revoke:
		resp, err := a.revoke(c.Revoke)
		return &kvv1.Result{Result: &kvv1.Result_Revoke{Revoke: resp}}, err
	case *kvv1.Command_Compact:
		resp, err := a.compact(c.Compact)
		return &kvv1.Result{Result: &kvv1.Result_Compact{Compact: resp}}, err
	case *kvv1.Command_Auth:
		resp, err := a.changeAuth(c.Auth)
		return &kvv1.Result{Result: &kvv1.Result_Auth{Auth: resp}}, err
	}
	// The log decodes only what it knows; this is a command without content.
	return nil, errInvalid("command", "an empty command")
}

// putResult is a result of the most frequent command in one allocation.
type putResult struct {
	result kvv1.Result
	put    kvv1.Result_Put
	resp   kvv1.PutResponse
	header kvv1.ResponseHeader
}

func (a *applier) putCommand(req *kvv1.PutRequest) (*kvv1.Result, error) {
	prev, err := a.putAlone(req)
	if err != nil {
		return nil, err
	}
	r := &putResult{}
	r.header.Revision = a.st.Revision
	r.resp.Header, r.resp.PrevKv = &r.header, prev
	r.put.Put = &r.resp
	r.result.Result = &r.put
	return &r.result, nil
}

func (a *applier) header() *kvv1.ResponseHeader {
	return &kvv1.ResponseHeader{Revision: a.st.Revision}
}

// putAlone is a put that is a transaction of its own.
func (a *applier) putAlone(req *kvv1.PutRequest) (*kvv1.KeyValue, error) {
	if err := a.checkPut(req); err != nil {
		return nil, err
	}
	if err := a.putWithin(req); err != nil {
		return nil, err
	}
	prev, err := a.put(req, a.st.Revision+1)
	if err != nil {
		return nil, err
	}
	a.commit()
	return prev, nil
}

func (a *applier) deleteAlone(req *kvv1.DeleteRequest) (*kvv1.DeleteResponse, error) {
	if err := a.checkDelete(req); err != nil {
		return nil, err
	}
	resp, err := a.delete(req, a.st.Revision+1)
	if err != nil {
		return nil, err
	}
	a.commit()
	resp.Header = a.header()
	return resp, nil
}

// batch applies independent writes, each at a revision of its own.
func (a *applier) batch(req *kvv1.WriteBatch) (*kvv1.WriteBatchResult, error) {
	writes, permitted := req.GetWrites(), a.store.Access().Writes(a.caller, a.mayWriteLease)
	results := make([]kvv1.WriteResult, len(writes))
	resp := &kvv1.WriteBatchResult{Results: make([]*kvv1.WriteResult, len(writes))}
	for i, write := range writes {
		err := permitted.Permit(write)
		if err == nil {
			err = a.batched(write, &results[i])
		}
		if err != nil {
			refused := refusal.Of(err)
			if refused == nil || !refused.Everywhere() {
				return nil, err
			}
			results[i].Result = &kvv1.WriteResult_Error{Error: refused.Proto()}
		}
		results[i].Revision = a.st.Revision
		resp.Results[i] = &results[i]
	}
	resp.Header = a.header()
	return resp, nil
}

func (a *applier) batched(write *kvv1.Write, result *kvv1.WriteResult) error {
	switch w := write.GetWrite().(type) {
	case *kvv1.Write_Put:
		prev, err := a.putAlone(w.Put)
		if prev != nil {
			result.Result = &kvv1.WriteResult_Put{Put: &kvv1.PutResponse{PrevKv: prev}}
		}
		return err
	case *kvv1.Write_Delete:
		resp, err := a.deleteAlone(w.Delete)
		result.Result = &kvv1.WriteResult_Delete{Delete: resp}
		return err
	case *kvv1.Write_Txn:
		resp, err := a.txnAlone(w.Txn)
		result.Result = &kvv1.WriteResult_Txn{Txn: resp}
		return err
	}
	return errInvalid("writes", "an empty write")
}

// compact moves the oldest revision that can be read. The flusher removes what
// that makes unreadable, in its own time.
func (a *applier) compact(req *kvv1.CompactRequest) (*kvv1.CompactResponse, error) {
	if req.GetRevision() > a.st.Revision {
		return nil, errFuture(req.Revision, a.st.Revision)
	}
	if req.GetRevision() <= a.st.Compacted {
		e := errCompacted(req.GetRevision(), a.st.Compacted)
		e.Message = "revision " + strconv.FormatInt(req.GetRevision(), 10) + " was compacted already"
		return nil, e
	}
	a.st.Compacted = req.Revision
	a.freeze = true
	return &kvv1.CompactResponse{Header: a.header()}, nil
}
