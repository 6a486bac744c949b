package store

import (
	"bytes"
	"context"
	"errors"
	"runtime"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	// DefaultPageKeys is the size of a page when the request does not say.
	DefaultPageKeys = 1000
	// MaxPageKeys bounds a page, so that one answer stays a small message.
	MaxPageKeys = 10_000
	// MaxPageBytes bounds a page; under the 4 MiB that gRPC clients accept.
	MaxPageBytes = 2 << 20
	// scanPageBytes is how much of a scan is read before it is handed on.
	scanPageBytes = 256 << 10
	// entryOverhead is counted for a key besides its key and value.
	entryOverhead = 32
)

// errAgain says that a compaction overtook a read of the newest revision.
var errAgain = errors.New("compaction overtook the read")

// Range reads a page. The header of the answer says the revision. It fails
// with *refusal.Error for a revision that is not there, and when data is corrupt. Any
// goroutine may call it.
func (s *Store) Range(ctx context.Context, req *kvv1.RangeRequest) (*kvv1.RangeResponse, error) {
	for {
		resp, err := s.rangeOnce(ctx, req)
		if !errors.Is(err, errAgain) {
			return resp, err
		}
	}
}

func (s *Store) rangeOnce(ctx context.Context, req *kvv1.RangeRequest) (resp *kvv1.RangeResponse, err error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	defer s.guard(&err)
	if err := s.mayRead(ctx, req); err != nil {
		return nil, err
	}
	if err := v.at(req.Revision); err != nil {
		return nil, err
	}
	resp, err = v.page(ctx, req, pageLimits{keys: pageKeys(req.Limit), bytes: MaxPageBytes})
	if req.Revision == 0 && refusal.Reason(err) == kvv1.ErrorReason_ERROR_REASON_COMPACTED {
		return nil, errAgain
	}
	if err != nil {
		return nil, err
	}
	resp.Header = &kvv1.ResponseHeader{Revision: v.reading}
	return resp, nil
}

func pageKeys(limit int64) int64 {
	if limit <= 0 {
		return DefaultPageKeys
	}
	return min(limit, MaxPageKeys)
}

type pageLimits struct {
	keys  int64
	bytes int
	sizes bool // Values are blank.
}

// blank is what values are sized with.
var blank [4 << 20]byte

// sized is a key without its value, in whose place is a blank one of its size.
func (v *view) sized(key []byte, ver *version) (*kvv1.KeyValue, error) {
	size, known := ver.valueSize()
	if !known {
		if err := v.complete(key, ver); err != nil {
			return nil, err
		}
		size = int64(len(ver.value))
	}
	kv := ver.keyValue(key, true)
	if kv.Value = blank[:min(size, int64(len(blank)))]; size > int64(len(blank)) {
		kv.Value = make([]byte, size)
	}
	return kv, nil
}

// read is a key with its value, unless that is not asked for.
func (v *view) read(key []byte, ver *version, keysOnly bool) (*kvv1.KeyValue, error) {
	if !keysOnly {
		if err := v.complete(key, ver); err != nil {
			return nil, err
		}
		if len(ver.value) >= yieldBytes {
			runtime.Gosched() // To copy it takes as long again.
		}
	}
	return ver.keyValue(key, keysOnly), nil
}

const (
	// cancelEvery is how many keys are visited between looks at the context.
	cancelEvery = 1024
	// yieldBytes are read between chances for others to run: a page takes milliseconds,
	// and what is a write's turn takes microseconds.
	yieldBytes = 64 << 10
	// visitBytes is what visiting a key takes as long as.
	visitBytes = 256
)

// page reads the first page of a range at v.reading.
func (v *view) page(ctx context.Context, req *kvv1.RangeRequest, limits pageLimits) (*kvv1.RangeResponse, error) {
	resp := &kvv1.RangeResponse{}
	visited, size, busy := 0, 0, 0
	visit := func(key []byte, ver *version) (bool, error) {
		if busy += visitBytes; busy >= yieldBytes {
			busy = 0
			runtime.Gosched()
		}
		if visited++; visited%cancelEvery == 0 && ctx.Err() != nil {
			return false, ctx.Err()
		}
		if req.CountOnly {
			resp.Count++
			return true, nil
		}
		if resp.Count == limits.keys || size >= limits.bytes {
			resp.More, resp.NextKey = true, nextKey(resp.Kvs, key, req.Reverse)
			return false, nil
		}
		var kv *kvv1.KeyValue
		var err error
		if limits.sizes && !req.KeysOnly {
			kv, err = v.sized(key, ver)
			busy += len(ver.value) // If it was read for that.
		} else if kv, err = v.read(key, ver, req.KeysOnly); err == nil {
			size, busy = size+len(kv.Value), busy+len(kv.Value)
		}
		if err != nil {
			return false, err
		}
		size += len(kv.Key) + entryOverhead
		resp.Kvs = append(resp.Kvs, kv)
		resp.Count++
		return true, nil
	}
	walk := v.ascend
	if req.Reverse {
		walk = v.descend
	}
	if err := walk(newSpan(req.Key, req.RangeEnd), v.reading, visit); err != nil {
		return nil, err
	}
	return resp, nil
}

// nextKey is where the next page begins: upwards at the first key that did not
// fit; downwards the last key of this page is the next one's exclusive end.
func nextKey(kvs []*kvv1.KeyValue, key []byte, reverse bool) []byte {
	if reverse {
		return kvs[len(kvs)-1].Key
	}
	return bytes.Clone(key)
}

// Scan reads a whole range at one revision and hands it on in parts, the first
// even when it is empty. Between parts it holds nothing: a scan may take as
// long as its reader likes. It fails with COMPACTED when its revision is
// compacted away meanwhile, and with what emit returns.
func (s *Store) Scan(ctx context.Context, req *kvv1.RangeRequest, emit func(revision int64, kvs []*kvv1.KeyValue) error) error {
	return s.ScanSizes(ctx, req, func() bool { return false }, emit)
}

// ScanSizes is Scan, but the values of a part before which sizing says so are blank, and
// not to be changed: only their sizes are those of the real ones. Most are not read then.
func (s *Store) ScanSizes(ctx context.Context, req *kvv1.RangeRequest, sizing func() bool, emit func(revision int64, kvs []*kvv1.KeyValue) error) error {
	page := &kvv1.RangeRequest{
		Key: req.Key, RangeEnd: req.RangeEnd, Revision: req.Revision,
		Reverse: req.Reverse, KeysOnly: req.KeysOnly,
	}
	for left := req.Limit; ; {
		resp, err := s.scanPage(ctx, page, left, sizing())
		if err != nil {
			return err
		}
		if err := emit(resp.Header.Revision, resp.Kvs); err != nil {
			return err
		}
		if left > 0 {
			left -= resp.Count
		}
		if !resp.More || req.Limit > 0 && left == 0 {
			return nil
		}
		page.Revision = resp.Header.Revision
		if page.Reverse {
			page.RangeEnd = resp.NextKey
		} else {
			page.Key = resp.NextKey
		}
	}
}

func (s *Store) scanPage(ctx context.Context, req *kvv1.RangeRequest, left int64, sizes bool) (resp *kvv1.RangeResponse, err error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close()
	defer s.guard(&err)
	if err := s.mayRead(ctx, req); err != nil {
		return nil, err
	}
	if err := v.at(req.Revision); err != nil {
		return nil, err
	}
	limits := pageLimits{keys: MaxPageKeys, bytes: scanPageBytes, sizes: sizes}
	if left > 0 {
		limits.keys = min(limits.keys, left)
	}
	resp, err = v.page(ctx, req, limits)
	if err != nil {
		return nil, err
	}
	resp.Header = &kvv1.ResponseHeader{Revision: v.reading}
	return resp, nil
}
