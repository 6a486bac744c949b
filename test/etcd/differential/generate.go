package differential

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/test/etcd/answers"
)

// names are few, so that requests meet; among them are the first possible key,
// keys that are prefixes of others, and keys whose last byte cannot grow.
var names = []string{
	"\x00", "\x00\x00", "a", "a/", "a/1", "a/2", "a/2/x", "a/3", "a0", "b", "b/1", "b/2", "b\xff", "b\xff\xff", "c", "m/1", "m/2",
	"m/3", "m/4", "m/5", "m/6", "m/7", "m/8", "m/9", "m/10", "m/11", "m/12", "m/13", "m/14", "z", "\xff", "\xff\xff",
}

// leases are granted and revoked under these ids.
const leases = 5

// generator makes requests that are about what is there.
type generator struct {
	*rand.Rand
	revision  int64 // The newest.
	compacted int64
}

func newGenerator(seed uint64) *generator {
	return &generator{Rand: rand.New(rand.NewPCG(seed, 0)), revision: 1}
}

// learn takes note of what an answer tells.
func (g *generator) learn(r request, a answers.Answer) {
	if a.Err != nil {
		return
	}
	if m, ok := a.Message.(interface{ GetHeader() *pb.ResponseHeader }); ok && m.GetHeader() != nil {
		g.revision = max(g.revision, m.GetHeader().GetRevision())
	}
	if m, ok := r.message.(*pb.CompactionRequest); ok {
		g.compacted = m.GetRevision()
	}
}

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func (g *generator) next() request {
	switch n := g.IntN(100); {
	case n < 30:
		return request{message: g.readRange(false)}
	case n < 34:
		return request{message: g.streamable(), streamed: true}
	case n < 60:
		return request{message: g.put()}
	case n < 67:
		return request{message: g.remove()}
	case n < 91:
		return request{message: g.allowedTxn()}
	case n < 93:
		return request{message: g.compaction()}
	}
	return request{message: g.lease()}
}

func (g *generator) key() []byte {
	if g.chance(1) {
		return nil
	}
	return []byte(names[g.IntN(len(names))])
}

// bounds are of one key, a prefix, everything after, everything, two keys in
// either order, or what has no key in it.
func (g *generator) bounds() (key, end []byte) {
	key = g.key()
	switch g.IntN(9) {
	case 0, 1:
		return key, prefixEnd(key)
	case 2:
		return key, []byte{0}
	case 3:
		return []byte{0}, []byte{0}
	case 4:
		return key, g.key()
	case 5:
		return []byte("m/"), []byte("m0")
	}
	return key, nil
}

func prefixEnd(prefix []byte) []byte {
	end := bytes.TrimRight(bytes.Clone(prefix), "\xff")
	if len(end) == 0 {
		return []byte{0}
	}
	end[len(end)-1]++
	return end
}

// past is most often now; else near the ends of what can be read.
func (g *generator) past() int64 {
	switch g.IntN(12) {
	case 0:
		return g.compacted - 2 + g.Int64N(4)
	case 1:
		return g.revision - 1 + g.Int64N(4)
	case 2, 3:
		return g.compacted + g.Int64N(max(1, g.revision-g.compacted+1))
	case 4:
		return g.revision - g.Int64N(8)
	}
	return 0
}

func (g *generator) limit() int64 {
	switch g.IntN(10) {
	case 0:
		return -1
	case 1:
		return math.MaxInt64 - g.Int64N(2)
	case 2, 3, 4:
		return 1 + g.Int64N(20)
	}
	return 0
}

// bound is for the filters by revision.
func (g *generator) bound() int64 {
	if !g.chance(8) {
		return 0
	}
	return g.revision - g.Int64N(60)
}

func (g *generator) readRange(inTxn bool) *pb.RangeRequest {
	r := &pb.RangeRequest{
		Limit: g.limit(), Revision: g.past(), Serializable: g.chance(30), KeysOnly: g.chance(15), CountOnly: g.chance(10),
		MinModRevision: g.bound(), MaxModRevision: g.bound(), MinCreateRevision: g.bound(), MaxCreateRevision: g.bound(),
	}
	r.Key, r.RangeEnd = g.bounds()
	if g.chance(30) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.IntN(5))
	}
	if g.chance(1) {
		r.SortOrder = 7
	}
	if g.chance(1) {
		r.SortTarget = -1
	}
	if inTxn && r.Revision < 0 && g.compacted <= 0 {
		r.Revision = 0 // docs/etcd.md: -1 before the first compaction.
	}
	return r
}

// streamable is a range that a stream may carry, or nearly. A sort by a target
// without an order sorts each part alone: there the answers may differ.
func (g *generator) streamable() *pb.RangeRequest {
	r := g.readRange(false)
	if r.SortOrder == pb.RangeRequest_NONE {
		r.SortTarget = pb.RangeRequest_KEY
	}
	if g.chance(80) {
		r.MinModRevision, r.MaxModRevision, r.MinCreateRevision, r.MaxCreateRevision = 0, 0, 0, 0
	}
	return r
}

func (g *generator) value() []byte {
	switch n := g.IntN(300); {
	case n == 0:
		return make([]byte, 1600<<10) // Over the limit.
	case n < 4:
		return bytes.Repeat([]byte{byte(g.IntN(256))}, g.IntN(60<<10))
	case n < 20:
		return nil
	case n < 150:
		return g.smallValue()
	}
	return fmt.Appendf(nil, "%x", g.Uint64()>>g.IntN(64))
}

// smallValue is one that others are equal to.
func (g *generator) smallValue() []byte { return fmt.Appendf(nil, "%d", g.IntN(5)) }

func (g *generator) leaseID() int64 {
	if g.chance(2) {
		return -1
	}
	return 1 + g.Int64N(leases+1) // One that is never granted, too.
}

func (g *generator) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), PrevKv: g.chance(20)}
	r.IgnoreValue, r.IgnoreLease = g.chance(10), g.chance(10)
	if !r.IgnoreValue || g.chance(10) {
		r.Value = g.value()
	}
	if g.chance(25) && (!r.IgnoreLease || g.chance(20)) {
		r.Lease = g.leaseID()
	}
	return r
}

func (g *generator) remove() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{PrevKv: g.chance(30)}
	r.Key, r.RangeEnd = g.bounds()
	if len(r.RangeEnd) == 1 && r.RangeEnd[0] == 0 && g.chance(70) {
		r.RangeEnd = nil // All keys too often leave nothing to look at.
	}
	return r
}

// compaction of revision 0 is docs/etcd.md's.
func (g *generator) compaction() *pb.CompactionRequest {
	return &pb.CompactionRequest{Revision: max(1, g.compacted-1+g.Int64N(max(1, g.revision-g.compacted+4))), Physical: g.chance(20)}
}

func (g *generator) lease() proto.Message {
	switch g.IntN(10) {
	case 0, 1, 2, 3, 4:
		r := &pb.LeaseGrantRequest{ID: 1 + g.Int64N(leases), TTL: 3600 + g.Int64N(100)}
		if g.chance(3) {
			r.TTL = 9_000_000_001
		}
		return r
	case 5, 6:
		return &pb.LeaseRevokeRequest{ID: g.leaseID()}
	case 7:
		return &pb.LeaseLeasesRequest{}
	}
	return &pb.LeaseTimeToLiveRequest{ID: g.leaseID(), Keys: g.chance(50)}
}
