package etcd

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// A limit that ends with the last key that a user may read, which is the last one of
// the range, too: there is no rest to count, and none that would need a right.
func TestTheEndOfWhatMayBeRead(t *testing.T) {
	s := newSecured(t, permission(reading, "a", "c\x00"), permission(reading, "k", ""))
	for _, key := range []string{"a", "b", "c", "d", "k"} {
		s.must(s.kv.Put(s.root, &pb.PutRequest{Key: []byte(key)}))
	}
	for _, sort := range []pb.RangeRequest_SortOrder{pb.RangeRequest_NONE, pb.RangeRequest_DESCEND} {
		for _, limit := range []int64{0, 1, 2, 3, 4} {
			for _, r := range []struct {
				key, end string
				count    int64
			}{{"a", "c\x00", 3}, {"c", "c\x00", 1}, {"k", "k\x00", 1}} {
				req := &pb.RangeRequest{Key: []byte(r.key), RangeEnd: []byte(r.end), Limit: limit, SortOrder: sort}
				what := fmt.Sprintf("%q to %q, limit %d, %s", r.key, r.end, limit, sort)
				found, err := s.kv.Range(s.alice, req)
				s.want(what, nil, err)
				if err == nil && (found.Count != r.count || found.More != (limit > 0 && limit < r.count)) {
					t.Errorf("%s: count %d, more %v", what, found.Count, found.More)
				}
				if sort == pb.RangeRequest_NONE {
					s.want(what+", in parts", nil, firstOf(s.kv.RangeStream(s.alice, req)))
				}
			}
		}
	}
}
