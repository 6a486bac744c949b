package store

import (
	"bytes"
	"math/rand/v2"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// generator makes random commands: often sensible ones, now and then absurd
// ones. It looks at the model so that compares and request ids hit.
type generator struct {
	*rand.Rand
	model  *model
	keys   [][]byte
	leases []int64
	sent   []*kvv1.Command // With a request id.
	large  bool
	rights bool // Commands are of users.
}

func newGenerator(r *rand.Rand, m *model) *generator {
	g := &generator{Rand: r, model: m, leases: []int64{1, 2, 3, 4}}
	for range 8 + r.IntN(40) {
		g.keys = append(g.keys, g.anyKey())
	}
	return g
}

// anyKey draws from few bytes, among them all that the key codec treats as
// special, so that keys are prefixes of each other.
func (g *generator) anyKey() []byte {
	alphabet := []byte{0x00, 0x01, 0x02, 'a', 'b', 0xfe, 0xff}
	key := make([]byte, 1+g.IntN(4))
	for i := range key {
		key[i] = alphabet[g.IntN(len(alphabet))]
	}
	if g.IntN(50) == 0 {
		key = bytes.Repeat(key, 1000)
	}
	return key
}

func (g *generator) oneIn(n int) bool { return g.IntN(n) == 0 }

func (g *generator) key() []byte {
	if g.oneIn(100) {
		return nil
	}
	if g.oneIn(10) {
		return g.anyKey()
	}
	// The first ones are hot: keys with many versions.
	return g.keys[g.IntN(1+g.IntN(len(g.keys)))]
}

func (g *generator) rangeEnd(key []byte) []byte {
	switch g.IntN(6) {
	case 0:
		return []byte{0}
	case 1:
		return g.anyKey()
	case 2: // The prefix.
		end := bytes.TrimRight(bytes.Clone(key), "\xff")
		if len(end) == 0 {
			return []byte{0}
		}
		end[len(end)-1]++
		return end
	}
	return nil
}

func (g *generator) value() []byte {
	switch {
	case g.oneIn(8):
		return nil
	case g.large && g.oneIn(40):
		return bytes.Repeat([]byte{byte(g.Uint32())}, 100_000+g.IntN(900_000))
	case g.oneIn(20):
		return bytes.Repeat([]byte{byte(g.Uint32())}, g.IntN(20_000))
	}
	value := make([]byte, g.IntN(64))
	for i := range value {
		value[i] = byte(g.Uint32())
	}
	return value
}

func (g *generator) lease() int64 {
	if g.IntN(3) > 0 {
		return 0
	}
	return g.leases[g.IntN(len(g.leases))]
}

// revision is mostly one that is kept.
func (g *generator) revision() int64 {
	if g.oneIn(20) {
		return g.Int64N(g.model.revision+3) - 1
	}
	return g.kept()
}

func (g *generator) kept() int64 {
	oldest := max(g.model.compacted, firstRevision)
	return oldest + g.Int64N(g.model.revision-oldest+1)
}

func (g *generator) rangeRequest() *kvv1.RangeRequest {
	req := &kvv1.RangeRequest{Key: g.key(), Reverse: g.oneIn(3), KeysOnly: g.oneIn(4), CountOnly: g.oneIn(6)}
	req.RangeEnd = g.rangeEnd(req.Key)
	if g.oneIn(4) {
		req.Key, req.RangeEnd = []byte{0}, []byte{0}
	}
	if g.oneIn(2) {
		req.Limit = g.Int64N(8)
	}
	if g.oneIn(2) {
		req.Revision = g.revision()
	}
	return req
}

func (g *generator) put() *kvv1.PutRequest {
	req := &kvv1.PutRequest{Key: g.key(), Lease: g.lease(), PrevKv: g.oneIn(3), IgnoreValue: g.oneIn(10), IgnoreLease: g.oneIn(10)}
	if !req.IgnoreValue {
		req.Value = g.value()
	}
	return req
}

func (g *generator) delete() *kvv1.DeleteRequest {
	req := &kvv1.DeleteRequest{Key: g.key(), PrevKv: g.oneIn(2)}
	if g.oneIn(3) {
		req.RangeEnd = g.rangeEnd(req.Key)
	}
	return req
}

func (g *generator) compare() *kvv1.Compare {
	c := &kvv1.Compare{Key: g.key(), Operator: kvv1.Compare_Operator(1 + g.IntN(4))}
	if g.oneIn(5) {
		c.RangeEnd = g.rangeEnd(c.Key)
	}
	if g.oneIn(200) {
		c.Operator = 0
	}
	now := g.model.at[g.model.revision][string(c.Key)]
	near := func(n int64) int64 { return n + g.Int64N(3) - 1 }
	switch g.IntN(6) {
	case 0:
		c.Target = &kvv1.Compare_Version{Version: near(now.GetVersion())}
	case 1:
		c.Target = &kvv1.Compare_CreateRevision{CreateRevision: near(now.GetCreateRevision())}
	case 2:
		c.Target = &kvv1.Compare_ModRevision{ModRevision: near(now.GetModRevision())}
	case 3:
		c.Target = &kvv1.Compare_Value{Value: now.GetValue()}
	case 4:
		c.Target = &kvv1.Compare_Lease{Lease: now.GetLease()}
	case 5:
		c.Target = &kvv1.Compare_Exists{Exists: g.oneIn(2)}
		if !g.oneIn(20) {
			c.Operator = kvv1.Compare_Operator(1 + g.IntN(2))
		}
	}
	return c
}

func (g *generator) txn(depth int) *kvv1.TxnRequest {
	req := &kvv1.TxnRequest{}
	for range g.IntN(3) {
		req.Compare = append(req.Compare, g.compare())
	}
	for _, branch := range []*[]*kvv1.Op{&req.Success, &req.Failure} {
		for range g.IntN(5) {
			*branch = append(*branch, g.op(depth))
		}
	}
	return req
}

func (g *generator) op(depth int) *kvv1.Op {
	switch n := g.IntN(20); {
	case n < 5:
		return &kvv1.Op{Op: &kvv1.Op_Range{Range: g.rangeRequest()}}
	case n < 14:
		return &kvv1.Op{Op: &kvv1.Op_Put{Put: g.put()}}
	case n < 17 || depth == 3:
		return &kvv1.Op{Op: &kvv1.Op_Delete{Delete: g.delete()}}
	}
	return &kvv1.Op{Op: &kvv1.Op_Txn{Txn: g.txn(depth + 1)}}
}

func (g *generator) batch() *kvv1.WriteBatch {
	batch := &kvv1.WriteBatch{}
	for range g.IntN(6) {
		write := &kvv1.Write{}
		switch g.IntN(10) {
		case 0:
			write.Write = &kvv1.Write_Txn{Txn: g.txn(0)}
		case 1, 2:
			write.Write = &kvv1.Write_Delete{Delete: g.delete()}
		case 3:
		default:
			write.Write = &kvv1.Write_Put{Put: g.put()}
		}
		batch.Writes = append(batch.Writes, write)
	}
	return batch
}

func (g *generator) command() *kvv1.Command {
	if len(g.sent) > 0 && g.oneIn(15) {
		return g.sent[g.IntN(len(g.sent))]
	}
	var id *kvv1.RequestId
	if g.oneIn(4) {
		id = &kvv1.RequestId{ClientId: bytes.Repeat([]byte{byte(g.IntN(3))}, clientIDBytes), Sequence: g.Uint64N(1000), KnownRevision: max(0, g.model.revision-g.Int64N(4))}
		if g.oneIn(50) {
			id.ClientId = id.ClientId[1:]
		}
	}
	command := g.unnamed(id)
	if g.rights {
		command = g.owned(command)
	}
	if id != nil {
		g.sent = append(g.sent, command)
		g.sent = g.sent[max(0, len(g.sent)-120):]
	}
	return command
}

func (g *generator) unnamed(id *kvv1.RequestId) *kvv1.Command {
	switch n := g.IntN(100); {
	case n < 45:
		req := g.put()
		req.RequestId = id
		return &kvv1.Command{Command: &kvv1.Command_Put{Put: req}}
	case n < 60:
		req := g.delete()
		req.RequestId = id
		return &kvv1.Command{Command: &kvv1.Command_Delete{Delete: req}}
	case n < 80:
		req := g.txn(0)
		req.RequestId = id
		return &kvv1.Command{Command: &kvv1.Command_Txn{Txn: req}}
	case n < 88:
		req := g.batch()
		req.RequestId = id
		return &kvv1.Command{Command: &kvv1.Command_Batch{Batch: req}}
	case n < 93:
		return &kvv1.Command{Command: &kvv1.Command_Grant{Grant: &kvv1.GrantRequest{
			Id: g.leases[g.IntN(len(g.leases))] - int64(g.IntN(20)/19), TtlSeconds: g.Int64N(10), RequestId: id}}}
	case n < 97:
		return &kvv1.Command{Command: &kvv1.Command_Revoke{Revoke: &kvv1.RevokeRequest{
			Id: g.leases[g.IntN(len(g.leases))], RequestId: id}}}
	case n < 98:
		return &kvv1.Command{}
	}
	oldest := g.model.compacted
	return compactTo(oldest + g.Int64N(max(1, (g.model.revision-oldest)/2+2)))
}

// entry makes the commands of one entry.
func (g *generator) entry() []*kvv1.Command {
	commands := make([]*kvv1.Command, 1+g.IntN(4)*g.IntN(4))
	for i := range commands {
		commands[i] = g.command()
	}
	return commands
}
