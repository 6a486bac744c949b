package client

import (
	"context"
	"errors"
	"io"
	"iter"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func (o readOptions) request(keys Keys) (*kvv1.RangeRequest, error) {
	if err := keys.check(); err != nil {
		return nil, err
	}
	read := &kvv1.ReadOptions{MinRevision: o.minRevision}
	switch {
	case o.local && o.maxStaleness != 0:
		return nil, invalid("LocalRead and MaxStaleness exclude each other")
	case o.maxStaleness < 0:
		return nil, invalid("MaxStaleness is negative")
	case o.local:
		read.Consistency = kvv1.Consistency_CONSISTENCY_LOCAL
	case o.maxStaleness > 0:
		read.Consistency = kvv1.Consistency_CONSISTENCY_BOUNDED
		read.MaxStalenessMs = uint32(max(1, o.maxStaleness.Milliseconds()))
	}
	return &kvv1.RangeRequest{
		Key: []byte(keys.first), RangeEnd: keys.endBytes(), Limit: o.limit, Revision: o.revision,
		Reverse: o.reverse, KeysOnly: o.keysOnly, Read: read,
	}, nil
}

// Get reads one key. When there is no such key it returns [ErrNotFound].
func (c *Client) Get(ctx context.Context, key string, options ...ReadOption) (*kvv1.KeyValue, error) {
	response, err := c.Range(ctx, Key(key), options...)
	if err != nil {
		return nil, err
	}
	if len(response.GetKvs()) == 0 {
		return nil, notFound(key)
	}
	return response.GetKvs()[0], nil
}

// Range reads one page of keys at one revision. When the answer says More, the
// rest is for another Range, or use Scan.
func (c *Client) Range(ctx context.Context, keys Keys, options ...ReadOption) (*kvv1.RangeResponse, error) {
	return c.readRange(ctx, keys, false, options)
}

// Count gives the number of keys, without reading them.
func (c *Client) Count(ctx context.Context, keys Keys, options ...ReadOption) (int64, error) {
	response, err := c.readRange(ctx, keys, true, options)
	return response.GetCount(), err
}

func (c *Client) readRange(ctx context.Context, keys Keys, count bool, options []ReadOption) (*kvv1.RangeResponse, error) {
	request, err := with[readOptions](options).request(keys)
	if err != nil {
		return nil, err
	}
	request.CountOnly = count
	c.pin(request)
	var response *kvv1.RangeResponse
	err = c.do(ctx, call{send: func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewKVServiceClient(conn).Range(ctx, request)
		return response.GetHeader(), err
	}})
	return response, err
}

// pin makes a read that says which revision it has seen one of this cluster only.
func (c *Client) pin(request *kvv1.RangeRequest) {
	if request.GetRead().GetMinRevision() > 0 {
		request.Read.ClusterId = c.clusterID()
	}
}

// Scan reads a whole range, however large, at one revision: each key once and
// in order. It goes on, on another pod, where a lost stream ended. The iterator
// gives one error at most, as its last pair; [ErrCompacted] when the revision
// was compacted away while it ran.
func (c *Client) Scan(ctx context.Context, keys Keys, options ...ReadOption) iter.Seq2[*kvv1.KeyValue, error] {
	return func(yield func(*kvv1.KeyValue, error) bool) {
		o := with[readOptions](options)
		request, err := o.request(keys)
		if err != nil {
			yield(nil, err)
			return
		}
		c.pin(request)
		s := scan{client: c, request: request, limit: o.limit, yield: yield}
		err = c.stream(ctx, anyPod, s.run)
		if err != nil && !s.stopped {
			yield(nil, err)
		}
	}
}

// scan is a scan on its way over one or more streams.
type scan struct {
	client  *Client
	request *kvv1.RangeRequest
	limit   int64
	given   int64
	stopped bool
	yield   func(*kvv1.KeyValue, error) bool
}

// run scans over one stream; nil when the scan is complete.
func (s *scan) run(ctx context.Context, conn *grpc.ClientConn, alive *watchdog) error {
	stream, err := kvv1.NewKVServiceClient(conn).Scan(ctx, &kvv1.ScanRequest{Range: s.request})
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		alive.pause()
		s.client.observe(response.GetHeader().GetRevision())
		for _, kv := range response.GetKvs() {
			s.given++
			if !s.yield(kv, nil) {
				s.stopped = true
				return nil
			}
		}
		if !s.advance(response) {
			return nil
		}
		alive.resume()
	}
}

// advance makes the request ask for what comes after the response, should the
// stream break; false when nothing can come.
func (s *scan) advance(response *kvv1.ScanResponse) bool {
	r := s.request
	if revision := response.GetHeader().GetRevision(); revision != 0 {
		// The revision is fixed now, so any pod that has it gives the same keys.
		r.Revision = revision
		r.Read = &kvv1.ReadOptions{Consistency: kvv1.Consistency_CONSISTENCY_LOCAL, MinRevision: revision}
		s.client.pin(r)
	}
	kvs := response.GetKvs()
	if len(kvs) == 0 {
		return true
	}
	if len(r.GetRangeEnd()) == 0 || (s.limit > 0 && s.given >= s.limit) {
		return false
	}
	if s.limit > 0 {
		r.Limit = s.limit - s.given
	}
	last := kvs[len(kvs)-1].GetKey()
	if r.GetReverse() {
		// Nothing is before the first key, which as an end would mean all keys.
		if string(last) == endOfKeys {
			return false
		}
		r.RangeEnd = last
	} else {
		r.Key = append(last[:len(last):len(last)], 0)
	}
	return true
}
