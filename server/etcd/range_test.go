package etcd

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// What is encoded part by part is what would be encoded as a whole.
func TestRangesOfManyParts(t *testing.T) {
	s := newSolo(t)
	const keys = 1000
	for i := range keys {
		s.put(t, fmt.Sprintf("k%05d", i), string(make([]byte, 900)))
	}
	older := s.store.Revision() - 100
	for _, limit := range []int64{0, 1, 500, keys - 1, keys, keys + 1} {
		for _, order := range []pb.RangeRequest_SortOrder{pb.RangeRequest_NONE, pb.RangeRequest_DESCEND} {
			for _, revision := range []int64{0, older} {
				for _, keysOnly := range []bool{false, true} {
					req := &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Limit: limit, SortOrder: order, Revision: revision, KeysOnly: keysOnly}
					if !inOrder(req) {
						t.Fatal("not in order:", req)
					}
					found, err := read(t.Context(), s.store, req, revision)
					if err != nil {
						t.Fatal(err)
					}
					got, err := s.kv.Range(t.Context(), req)
					if err != nil {
						t.Fatal(err)
					}
					want := found.answer(req)
					want.Header = got.GetHeader()
					if !proto.Equal(got, want) {
						t.Errorf("%v: %d keys, more %t, count %d; want %d, %t, %d", req, len(got.GetKvs()), got.GetMore(), got.GetCount(), len(want.GetKvs()), want.GetMore(), want.GetCount())
					}
				}
			}
		}
	}
}
