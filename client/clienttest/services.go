package clienttest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// The services, with the names of the proto. Refused transactions are undone
// nowhere: a test that needs that needs the real store.

func (p *pod) Put(_ context.Context, r *kvv1.PutRequest) (*kvv1.PutResponse, error) {
	if err := p.canWrite(); err != nil {
		return nil, err
	}
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	return once(p.state, r.GetRequestId(), func() (*kvv1.PutResponse, error) {
		w := p.state.begin()
		response, err := w.put(r)
		if err == nil {
			response.Header = p.header(w.commit())
		}
		return response, err
	})
}

func (p *pod) Delete(_ context.Context, r *kvv1.DeleteRequest) (*kvv1.DeleteResponse, error) {
	if err := p.canWrite(); err != nil {
		return nil, err
	}
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	return once(p.state, r.GetRequestId(), func() (*kvv1.DeleteResponse, error) {
		w := p.state.begin()
		response := w.delete(r.GetKey(), r.GetRangeEnd(), r.GetPrevKv())
		response.Header = p.header(w.commit())
		return response, nil
	})
}

func (p *pod) Txn(_ context.Context, r *kvv1.TxnRequest) (*kvv1.TxnResponse, error) {
	if err := p.canWrite(); err != nil {
		return nil, err
	}
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	return once(p.state, r.GetRequestId(), func() (*kvv1.TxnResponse, error) {
		w := p.state.begin()
		response, err := w.txn(r)
		if err == nil {
			response.Header = p.header(w.commit())
		}
		return response, err
	})
}

func (p *pod) Range(_ context.Context, r *kvv1.RangeRequest) (*kvv1.RangeResponse, error) {
	if err := p.cluster.ofCluster(r.GetRead().GetClusterId()); err != nil {
		return nil, err
	}
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	p.state.endLeases()
	limit := r.GetLimit()
	if limit == 0 {
		limit = 1000
	}
	response, err := p.state.read(r, limit)
	if err == nil {
		response.Header = p.header(r.GetRevision())
		if r.GetRevision() == 0 {
			response.Header.Revision = p.state.revision
		}
	}
	return response, err
}

// Scan sends 100 keys a message.
func (p *pod) Scan(r *kvv1.ScanRequest, stream kvv1.KVService_ScanServer) error {
	if err := p.cluster.ofCluster(r.GetRange().GetRead().GetClusterId()); err != nil {
		return err
	}
	p.state.mu.Lock()
	revision := r.GetRange().GetRevision()
	if revision == 0 {
		revision = p.state.revision
	}
	response, err := p.state.read(r.GetRange(), r.GetRange().GetLimit())
	p.state.mu.Unlock()
	if err != nil {
		return err
	}
	for part := range slices.Chunk(response.GetKvs(), 100) {
		if err := stream.Send(&kvv1.ScanResponse{Header: p.header(revision), Kvs: part}); err != nil {
			return err
		}
		if err := p.ask("Scan", true); err != nil {
			return err
		}
	}
	return nil
}

func (p *pod) Batch(stream kvv1.KVService_BatchServer) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := p.canWrite(); err != nil {
			return err
		}
		response := &kvv1.BatchResponse{Id: r.GetId()}
		err = p.ask("Batch", false)
		var result *kvv1.WriteBatchResult
		if err == nil {
			result, err = p.applyBatch(r.GetBatch())
		}
		if err != nil {
			response.Outcome = &kvv1.BatchResponse_Error{Error: message(err)}
		} else {
			response.Outcome = &kvv1.BatchResponse_Result{Result: result}
			if err := p.ask("Batch", true); err != nil {
				return err
			}
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

func (p *pod) applyBatch(b *kvv1.WriteBatch) (*kvv1.WriteBatchResult, error) {
	if err := p.cluster.spoiled(b); err != nil {
		return nil, err
	}
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	return once(p.state, b.GetRequestId(), func() (*kvv1.WriteBatchResult, error) {
		response := &kvv1.WriteBatchResult{Results: make([]*kvv1.WriteResult, 0, len(b.GetWrites()))}
		for _, one := range b.GetWrites() {
			response.Results = append(response.Results, p.applyOne(one))
		}
		response.Header = p.header(p.state.revision)
		return response, nil
	})
}

func (p *pod) applyOne(one *kvv1.Write) *kvv1.WriteResult {
	w := p.state.begin()
	result := &kvv1.WriteResult{}
	var err error
	switch {
	case one.GetPut() != nil:
		var put *kvv1.PutResponse
		if put, err = w.put(one.GetPut()); err == nil && one.GetPut().GetPrevKv() {
			result.Result = &kvv1.WriteResult_Put{Put: put}
		}
	case one.GetDelete() != nil:
		d := one.GetDelete()
		result.Result = &kvv1.WriteResult_Delete{Delete: w.delete(d.GetKey(), d.GetRangeEnd(), d.GetPrevKv())}
	default:
		var txn *kvv1.TxnResponse
		txn, err = w.txn(one.GetTxn())
		result.Result = &kvv1.WriteResult_Txn{Txn: txn}
	}
	if err != nil {
		result.Result = &kvv1.WriteResult_Error{Error: message(err)}
	}
	result.Revision = w.commit()
	return result
}

// Watch sends each change in a message of its own, the first event of a
// revision of several apart from the rest.
func (p *pod) Watch(r *kvv1.WatchRequest, stream kvv1.WatchService_WatchServer) error {
	if err := p.cluster.ofCluster(r.GetClusterId()); err != nil {
		return err
	}
	p.state.mu.Lock()
	after, oldest := r.GetStartRevision()-1, p.state.compacted
	if r.GetStartRevision() == 0 {
		after = max(p.state.revision-p.state.lag, 0)
	}
	p.state.mu.Unlock()
	if after+1 < oldest {
		return compacted(after+1, oldest)
	}
	if err := stream.Send(&kvv1.WatchResponse{Header: p.header(after), ClusterId: p.cluster.ID()}); err != nil {
		return err
	}
	interval := time.Duration(r.GetProgressIntervalMs()) * time.Millisecond
	for {
		news := p.state.waitUntil(stream.Context(), interval, func() bool { return p.state.revision > after })
		if stream.Context().Err() != nil {
			return stream.Context().Err()
		}
		if !news {
			if err := stream.Send(&kvv1.WatchResponse{Header: p.header(after)}); err != nil {
				return err
			}
			continue
		}
		after++
		for _, response := range p.changesAt(after, r) {
			if err := stream.Send(response); err != nil {
				return err
			}
			if err := p.ask("Watch", true); err != nil {
				return err
			}
		}
	}
}

// changesAt gives the messages for the changes of one revision.
func (p *pod) changesAt(revision int64, r *kvv1.WatchRequest) (responses []*kvv1.WatchResponse) {
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	var events []*kvv1.Event
	for _, c := range p.state.log {
		e := c.event
		if c.revision != revision || slices.Contains(r.GetExclude(), e.GetType()) ||
			!inRange(string(e.GetKv().GetKey()), r.GetKey(), r.GetRangeEnd()) {
			continue
		}
		shown := &kvv1.Event{Type: e.GetType(), Kv: e.GetKv()}
		if r.GetPrevKv() {
			shown.PrevKv = e.GetPrevKv()
		}
		events = append(events, shown)
	}
	switch len(events) {
	case 0:
	case 1:
		responses = append(responses, &kvv1.WatchResponse{Header: p.header(p.state.revision), Events: events})
	default:
		responses = append(responses,
			&kvv1.WatchResponse{Header: p.header(p.state.revision), Events: events[:1], Partial: true},
			&kvv1.WatchResponse{Header: p.header(p.state.revision), Events: events[1:]})
	}
	return responses
}

func (p *pod) Grant(_ context.Context, r *kvv1.GrantRequest) (*kvv1.GrantResponse, error) {
	if err := p.canWrite(); err != nil {
		return nil, err
	}
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	return once(p.state, r.GetRequestId(), func() (*kvv1.GrantResponse, error) {
		id := r.GetId()
		if id == 0 {
			p.state.lastLease++
			id = p.state.lastLease
		}
		ttl := r.GetTtlSeconds()
		p.state.leases[id] = &lease{ttl: ttl, ends: time.Now().Add(time.Duration(ttl) * time.Second)}
		return &kvv1.GrantResponse{Header: p.header(p.state.revision), Id: id, TtlSeconds: ttl}, nil
	})
}

func (p *pod) Revoke(_ context.Context, r *kvv1.RevokeRequest) (*kvv1.RevokeResponse, error) {
	if err := p.canWrite(); err != nil {
		return nil, err
	}
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	return once(p.state, r.GetRequestId(), func() (*kvv1.RevokeResponse, error) {
		if p.state.leases[r.GetId()] == nil {
			return nil, leaseNotFound(r.GetId())
		}
		revision, deleted := p.state.revoke(r.GetId())
		return &kvv1.RevokeResponse{Header: p.header(revision), Deleted: deleted}, nil
	})
}

func (p *pod) KeepAlive(stream kvv1.LeaseService_KeepAliveServer) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p.state.mu.Lock()
		response := &kvv1.KeepAliveResponse{Header: p.header(p.state.revision), Id: r.GetId()}
		if l := p.state.leases[r.GetId()]; l != nil {
			l.ends = time.Now().Add(time.Duration(l.ttl) * time.Second)
			response.TtlSeconds = l.ttl
		}
		p.state.mu.Unlock()
		if err := p.ask("KeepAlive", true); err != nil {
			return err
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

func (p *pod) TimeToLive(_ context.Context, r *kvv1.TimeToLiveRequest) (*kvv1.TimeToLiveResponse, error) {
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	l := p.state.leases[r.GetId()]
	if l == nil {
		return nil, leaseNotFound(r.GetId())
	}
	response := &kvv1.TimeToLiveResponse{
		Header: p.header(p.state.revision), Id: r.GetId(), GrantedTtlSeconds: l.ttl,
		RemainingSeconds: int64((time.Until(l.ends) + time.Second - 1) / time.Second),
		RemainingMs:      time.Until(l.ends).Milliseconds(),
	}
	for _, kv := range p.state.at(p.state.revision, []byte{0}, []byte{0}) {
		if r.GetKeys() && kv.GetLease() == r.GetId() {
			response.Keys = append(response.Keys, kv.GetKey())
		}
	}
	return response, nil
}

func (p *pod) ListLeases(context.Context, *kvv1.ListLeasesRequest) (*kvv1.ListLeasesResponse, error) {
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	response := &kvv1.ListLeasesResponse{Header: p.header(p.state.revision)}
	for id, l := range p.state.leases {
		response.Leases = append(response.Leases, &kvv1.Lease{Id: id, TtlSeconds: l.ttl})
	}
	slices.SortFunc(response.Leases, func(a, b *kvv1.Lease) int { return cmp.Compare(a.GetId(), b.GetId()) })
	return response, nil
}

func (p *pod) Compact(_ context.Context, r *kvv1.CompactRequest) (*kvv1.CompactResponse, error) {
	if err := p.canWrite(); err != nil {
		return nil, err
	}
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	switch {
	case r.GetRevision() > p.state.revision:
		return nil, Error(codes.OutOfRange, kvv1.ErrorReason_ERROR_REASON_FUTURE_REVISION,
			fmt.Sprintf("revision %d does not exist yet", r.GetRevision()), "revision", fmt.Sprint(p.state.revision))
	case r.GetRevision() <= p.state.compacted:
		return nil, compacted(r.GetRevision(), p.state.compacted)
	}
	p.state.compacted = r.GetRevision()
	return &kvv1.CompactResponse{Header: p.header(p.state.revision)}, nil
}

// Snapshot sends three chunks that are no database.
func (p *pod) Snapshot(_ *kvv1.SnapshotRequest, stream kvv1.MaintenanceService_SnapshotServer) error {
	for _, chunk := range []string{"not ", "a ", "database\n"} {
		if err := stream.Send(&kvv1.SnapshotResponse{TotalBytes: 15, Chunk: []byte(chunk)}); err != nil {
			return err
		}
		if err := p.ask("Snapshot", true); err != nil {
			return err
		}
	}
	return nil
}

func (p *pod) Hash(_ context.Context, r *kvv1.HashRequest) (*kvv1.HashResponse, error) {
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	return &kvv1.HashResponse{Header: p.header(p.state.revision), Revision: p.state.revision, Hash: uint64(p.state.revision) * 0x9e3779b97f4a7c15}, nil
}
