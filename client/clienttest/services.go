package clienttest

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// The services, with the names of the proto.

// propose applies a command, and returns what get takes out of its result.
func propose[Answer interface {
	GetHeader() *kvv1.ResponseHeader
}](p *pod, command *kvv1.Command, get func(*kvv1.Result) Answer) (Answer, error) {
	var none Answer
	if err := p.cluster.canWrite(); err != nil {
		return none, err
	}
	result, err := p.data.apply(command)
	if err != nil {
		return none, err
	}
	answer := get(result)
	answer.GetHeader().Pod = p.name()
	return answer, nil
}

func (p *pod) Put(_ context.Context, r *kvv1.PutRequest) (*kvv1.PutResponse, error) {
	return propose(p, &kvv1.Command{Command: &kvv1.Command_Put{Put: r}}, (*kvv1.Result).GetPut)
}

func (p *pod) Delete(_ context.Context, r *kvv1.DeleteRequest) (*kvv1.DeleteResponse, error) {
	return propose(p, &kvv1.Command{Command: &kvv1.Command_Delete{Delete: r}}, (*kvv1.Result).GetDelete)
}

func (p *pod) Txn(_ context.Context, r *kvv1.TxnRequest) (*kvv1.TxnResponse, error) {
	return propose(p, &kvv1.Command{Command: &kvv1.Command_Txn{Txn: r}}, (*kvv1.Result).GetTxn)
}

// Range ends leases first: they are looked at when somebody reads.
func (p *pod) Range(ctx context.Context, r *kvv1.RangeRequest) (*kvv1.RangeResponse, error) {
	if err := p.cluster.ofCluster(r.GetRead().GetClusterId()); err != nil {
		return nil, err
	}
	p.data.endLeases()
	response, err := p.data.store.Range(ctx, r)
	if err != nil {
		return nil, err
	}
	response.GetHeader().Pod = p.name()
	return response, nil
}

// Scan sends 100 keys a message.
func (p *pod) Scan(r *kvv1.ScanRequest, stream kvv1.KVService_ScanServer) error {
	if err := p.cluster.ofCluster(r.GetRange().GetRead().GetClusterId()); err != nil {
		return err
	}
	return p.data.store.Scan(stream.Context(), r.GetRange(), func(revision int64, kvs []*kvv1.KeyValue) error {
		for part := range slices.Chunk(kvs, 100) {
			if err := stream.Send(&kvv1.ScanResponse{Header: p.header(revision), Kvs: part}); err != nil {
				return err
			}
			if err := p.ask("Scan", true); err != nil {
				return err
			}
		}
		return nil
	})
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
		response := &kvv1.BatchResponse{Id: r.GetId()}
		result, err := p.applyBatch(r.GetBatch())
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
	if err := p.ask("Batch", false); err != nil {
		return nil, err
	}
	if err := p.cluster.refuses(b); err != nil {
		return nil, err
	}
	return propose(p, &kvv1.Command{Command: &kvv1.Command_Batch{Batch: b}}, (*kvv1.Result).GetBatch)
}

func (p *pod) Watch(r *kvv1.WatchRequest, stream kvv1.WatchService_WatchServer) error {
	if err := p.cluster.ofCluster(r.GetClusterId()); err != nil {
		return err
	}
	if lag := p.cluster.lag(); r.GetStartRevision() == 0 && lag > 0 {
		r.StartRevision = max(p.data.store.Revision()-lag, 0) + 1
	}
	watcher, err := p.data.store.Watch(r)
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := stream.Send(&kvv1.WatchResponse{Header: p.header(watcher.Start()), ClusterId: p.cluster.ID()}); err != nil {
		return err
	}
	interval := time.Duration(r.GetProgressIntervalMs()) * time.Millisecond
	for {
		patience, cancel := context.WithTimeout(stream.Context(), interval)
		response, err := watcher.Next(patience)
		cancel()
		switch {
		case err == nil:
			err = p.sendEvents(stream, response)
		case errors.Is(err, context.DeadlineExceeded) && stream.Context().Err() == nil:
			err = stream.Send(&kvv1.WatchResponse{Header: p.header(watcher.Progress())})
		}
		if err != nil {
			return err
		}
	}
}

// sendEvents sends each revision in a message of its own, and the first event of
// several apart from the rest. The headers say how far the pod is.
func (p *pod) sendEvents(stream kvv1.WatchService_WatchServer, response *kvv1.WatchResponse) error {
	events := response.GetEvents()
	same := func(i, j int) bool {
		return events[i].GetKv().GetModRevision() == events[j].GetKv().GetModRevision()
	}
	for from := 0; from < len(events); {
		to := from + 1
		for from > 0 && same(from-1, from) && to < len(events) && same(from, to) {
			to++
		}
		partial := response.GetPartial()
		if to < len(events) {
			partial = same(from, to)
		}
		part := &kvv1.WatchResponse{Header: p.header(p.data.store.Revision()), Events: events[from:to], Partial: partial}
		if err := stream.Send(part); err != nil {
			return err
		}
		if err := p.ask("Watch", true); err != nil {
			return err
		}
		from = to
	}
	return nil
}

func (p *pod) Grant(_ context.Context, r *kvv1.GrantRequest) (*kvv1.GrantResponse, error) {
	if r.GetId() == 0 {
		r.Id = p.data.nextLease()
	}
	response, err := propose(p, &kvv1.Command{Command: &kvv1.Command_Grant{Grant: r}}, (*kvv1.Result).GetGrant)
	if l := p.data.lease(response.GetId()); l != nil {
		p.data.left(l)
	}
	return response, err
}

func (p *pod) Revoke(_ context.Context, r *kvv1.RevokeRequest) (*kvv1.RevokeResponse, error) {
	return propose(p, &kvv1.Command{Command: &kvv1.Command_Revoke{Revoke: r}}, (*kvv1.Result).GetRevoke)
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
		response := &kvv1.KeepAliveResponse{Header: p.header(p.data.store.Revision()), Id: r.GetId()}
		if l := p.data.lease(r.GetId()); l != nil {
			response.TtlSeconds = l.GetTtlSeconds()
			p.data.keepAlive(l)
		}
		if err := p.ask("KeepAlive", true); err != nil {
			return err
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

func (p *pod) TimeToLive(_ context.Context, r *kvv1.TimeToLiveRequest) (response *kvv1.TimeToLiveResponse, err error) {
	l := p.data.lease(r.GetId())
	if l == nil {
		return nil, refusal.LeaseNotFound(r.GetId())
	}
	left := p.data.left(l)
	response = &kvv1.TimeToLiveResponse{
		Header: p.header(p.data.store.Revision()), Id: r.GetId(), GrantedTtlSeconds: l.GetTtlSeconds(),
		RemainingSeconds: int64((left + time.Second - 1) / time.Second),
		RemainingMs:      left.Milliseconds(),
	}
	if r.GetKeys() {
		response.Keys, err = p.data.store.LeaseKeys(r.GetId(), 0)
	}
	return response, err
}

func (p *pod) ListLeases(context.Context, *kvv1.ListLeasesRequest) (*kvv1.ListLeasesResponse, error) {
	leases, _ := p.data.store.Leases()
	return &kvv1.ListLeasesResponse{Header: p.header(p.data.store.Revision()), Leases: leases}, nil
}

func (p *pod) Compact(_ context.Context, r *kvv1.CompactRequest) (*kvv1.CompactResponse, error) {
	return propose(p, &kvv1.Command{Command: &kvv1.Command_Compact{Compact: r}}, (*kvv1.Result).GetCompact)
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
	revision, hash, err := p.data.store.Hash(r.GetRevision())
	return &kvv1.HashResponse{Header: p.header(revision), Revision: revision, Hash: hash}, err
}
