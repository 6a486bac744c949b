package server

import (
	"bytes"
	"time"

	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// The one gateway: after it, sizes and shapes are what the proto promises.

func checkKey(field string, key []byte) error {
	if len(key) == 0 {
		return errInvalid(field, "is empty; the first possible key is a zero byte")
	}
	if len(key) > MaxKeyBytes {
		return errTooLarge(field, MaxKeyBytes, len(key))
	}
	return nil
}

// checkBounds is for ranges: either bound may be the successor of a key.
func checkBounds(key, end []byte) error {
	if len(end) == 0 {
		return checkKey("key", key)
	}
	if len(key) == 0 {
		return errInvalid("key", "is empty; the first possible key is a zero byte")
	}
	if len(key) > maxBoundBytes {
		return errTooLarge("key", maxBoundBytes, len(key))
	}
	if len(end) > maxBoundBytes {
		return errTooLarge("range_end", maxBoundBytes, len(end))
	}
	return nil
}

func checkValue(field string, value []byte) error {
	if len(value) > MaxValueBytes {
		return errTooLarge(field, MaxValueBytes, len(value))
	}
	return nil
}

// checkRequestID lets a write without one pass; inside is true in a
// transaction or a batch, whose own id covers all of it.
func checkRequestID(id *kvv1.RequestId, inside bool) error {
	if id == nil {
		return nil
	}
	if inside {
		return errInvalid("request_id", "belongs to the whole transaction or batch, not to a part of it")
	}
	if len(id.GetClientId()) != clientIDBytes {
		return errInvalid("request_id.client_id", "has %d bytes, must have %d", len(id.GetClientId()), clientIDBytes)
	}
	if id.GetKnownRevision() < 0 {
		return errInvalid("request_id.known_revision", "is negative")
	}
	return nil
}

func checkReadOptions(options *kvv1.ReadOptions) error {
	if options == nil {
		return nil
	}
	switch options.GetConsistency() {
	case kvv1.Consistency_CONSISTENCY_UNSPECIFIED, kvv1.Consistency_CONSISTENCY_LINEARIZABLE,
		kvv1.Consistency_CONSISTENCY_LOCAL:
	case kvv1.Consistency_CONSISTENCY_BOUNDED:
		if options.GetMaxStalenessMs() < 1 {
			return errInvalid("read.max_staleness_ms", "must be at least 1 with CONSISTENCY_BOUNDED")
		}
	default:
		return errInvalid("read.consistency", "%d is not known", options.GetConsistency())
	}
	if options.GetMinRevision() < 0 {
		return errInvalid("read.min_revision", "is negative")
	}
	return nil
}

func checkRange(req *kvv1.RangeRequest) error {
	if err := checkScan(req); err != nil {
		return err
	}
	if req.GetLimit() > maxPageKeys {
		return errTooLarge("limit", maxPageKeys, int(req.GetLimit()))
	}
	return nil
}

// checkScan is checkRange for a scan, whose limit has no cap.
func checkScan(req *kvv1.RangeRequest) error {
	if err := checkBounds(req.GetKey(), req.GetRangeEnd()); err != nil {
		return err
	}
	if req.GetLimit() < 0 {
		return errInvalid("limit", "is negative")
	}
	if req.GetRevision() < 0 {
		return errInvalid("revision", "is negative")
	}
	return checkReadOptions(req.GetRead())
}

func checkPut(req *kvv1.PutRequest, inside bool) error {
	if err := checkKey("key", req.GetKey()); err != nil {
		return err
	}
	if err := checkValue("value", req.GetValue()); err != nil {
		return err
	}
	if req.GetLease() < 0 {
		return errInvalid("lease", "is negative")
	}
	if req.GetIgnoreValue() && len(req.GetValue()) > 0 {
		return errInvalid("value", "must be empty with ignore_value")
	}
	if req.GetIgnoreLease() && req.GetLease() != 0 {
		return errInvalid("lease", "must be 0 with ignore_lease")
	}
	return checkRequestID(req.GetRequestId(), inside)
}

func checkDelete(req *kvv1.DeleteRequest, inside bool) error {
	if err := checkBounds(req.GetKey(), req.GetRangeEnd()); err != nil {
		return err
	}
	return checkRequestID(req.GetRequestId(), inside)
}

func checkBatch(batch *kvv1.WriteBatch) error {
	writes := batch.GetWrites()
	if len(writes) == 0 {
		return errInvalid("writes", "is empty")
	}
	if len(writes) > maxBatchWrites {
		return errTooLarge("writes", maxBatchWrites, len(writes))
	}
	size := 0
	for _, write := range writes {
		if err := checkWrite(write); err != nil {
			return err
		}
		size += writeBytes(write)
	}
	if size > maxBatchBytes {
		return errTooLarge("batch bytes", maxBatchBytes, size)
	}
	return checkRequestID(batch.GetRequestId(), false)
}

func checkWrite(write *kvv1.Write) error {
	switch w := write.GetWrite().(type) {
	case *kvv1.Write_Put:
		return checkPut(w.Put, true)
	case *kvv1.Write_Delete:
		return checkDelete(w.Delete, true)
	case *kvv1.Write_Txn:
		return checkTxn(w.Txn, true)
	}
	return errInvalid("writes", "one of them has neither put, delete nor txn")
}

// writeBytes is the size of a write without its frame: proto.Size of a
// thousand puts would cost as much as sending them.
func writeBytes(write *kvv1.Write) int {
	switch w := write.GetWrite().(type) {
	case *kvv1.Write_Put:
		return len(w.Put.GetKey()) + len(w.Put.GetValue())
	case *kvv1.Write_Delete:
		return len(w.Delete.GetKey()) + len(w.Delete.GetRangeEnd())
	}
	return proto.Size(write)
}

func checkGrant(req *kvv1.GrantRequest) error {
	if req.GetId() < 0 {
		return errInvalid("id", "is negative")
	}
	if ttl := req.GetTtlSeconds(); ttl < 1 || ttl > MaxTTLSeconds {
		return errInvalid("ttl_seconds", "%d is not within 1 and %d", ttl, int64(MaxTTLSeconds))
	}
	return checkRequestID(req.GetRequestId(), false)
}

func checkLease(id int64) error {
	if id < 1 {
		return errInvalid("id", "must be positive")
	}
	return nil
}

func checkWatch(req *kvv1.WatchRequest) error {
	if err := checkBounds(req.GetKey(), req.GetRangeEnd()); err != nil {
		return err
	}
	if req.GetStartRevision() < 0 {
		return errInvalid("start_revision", "is negative")
	}
	ms := req.GetProgressIntervalMs()
	if ms != 0 && time.Duration(ms)*time.Millisecond < minProgress {
		return errInvalid("progress_interval_ms", "%d is less than %d", ms, minProgress.Milliseconds())
	}
	return nil
}

// InRange says that a key is within the bounds of a request.
func InRange(key, from, end []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(key, from)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(key, from) >= 0
	}
	return bytes.Compare(key, from) >= 0 && bytes.Compare(key, end) < 0
}
