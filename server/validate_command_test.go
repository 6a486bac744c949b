package server

import (
	"strings"
	"testing"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func txnCommand(txn *kvv1.TxnRequest) *kvv1.Command {
	return &kvv1.Command{Command: &kvv1.Command_Txn{Txn: txn}}
}

func putCommand(put *kvv1.PutRequest) *kvv1.Command {
	return &kvv1.Command{Command: &kvv1.Command_Put{Put: put}}
}

// Forwarded commands pass what clients of either API may send, and nothing else.
func TestCheckCommand(t *testing.T) {
	id := &kvv1.RequestId{ClientId: filled(16), Sequence: 1}
	batch := func(b *kvv1.WriteBatch) *kvv1.Command {
		return &kvv1.Command{Command: &kvv1.Command_Batch{Batch: b}}
	}
	grant := func(g *kvv1.GrantRequest) *kvv1.Command {
		return &kvv1.Command{Command: &kvv1.Command_Grant{Grant: g}}
	}
	revoke := func(r *kvv1.RevokeRequest) *kvv1.Command {
		return &kvv1.Command{Command: &kvv1.Command_Revoke{Revoke: r}}
	}
	remove := func(d *kvv1.DeleteRequest) *kvv1.Command {
		return &kvv1.Command{Command: &kvv1.Command_Delete{Delete: d}}
	}
	owned := func(id *kvv1.Identity) *kvv1.Command {
		c := putCommand(&kvv1.PutRequest{Key: filled(1)})
		c.Identity = id
		return c
	}
	long, value := strings.Repeat("k", MaxKeyBytes+1), filled(MaxValueBytes)
	for _, test := range []struct {
		name    string
		command *kvv1.Command
		want    kvv1.ErrorReason
	}{
		{"nothing", nil, invalid},
		{"an empty command", &kvv1.Command{}, invalid},
		{"the largest put", putCommand(&kvv1.PutRequest{Key: filled(MaxKeyBytes), Value: value, RequestId: id}), fine},
		{"a lease that the store refuses", putCommand(&kvv1.PutRequest{Key: filled(1), Lease: -1}), fine},
		{"no key", putCommand(&kvv1.PutRequest{}), invalid},
		{"a key too long", putCommand(&kvv1.PutRequest{Key: filled(MaxKeyBytes + 1)}), tooLarge},
		{"a value too large", putCommand(&kvv1.PutRequest{Key: filled(1), Value: filled(MaxValueBytes + 1)}), tooLarge},
		{"a short client id", putCommand(&kvv1.PutRequest{Key: filled(1), RequestId: &kvv1.RequestId{ClientId: filled(15)}}), invalid},
		{"a deletion with long bounds", remove(&kvv1.DeleteRequest{Key: filled(9 << 10), RangeEnd: filled(10 << 10)}), fine},
		{"a deletion of nothing", remove(&kvv1.DeleteRequest{}), invalid},
		{"a deletion with a bad id", remove(&kvv1.DeleteRequest{Key: filled(1), RequestId: &kvv1.RequestId{}}), invalid},
		{"the deepest of etcd's", txnCommand(nested(maxForwardedDepth)), fine},
		{"too deep", txnCommand(nested(maxForwardedDepth + 1)), tooLarge},
		{"the most of etcd's", txnCommand(&kvv1.TxnRequest{Success: manyOps(maxForwardedOps)}), fine},
		{"too many operations", txnCommand(&kvv1.TxnRequest{Success: manyOps(maxForwardedOps + 1)}), tooLarge},
		{"too large a transaction", txnCommand(&kvv1.TxnRequest{Success: ops(putOp("a")), Compare: []*kvv1.Compare{{Key: filled(maxTxnBytes)}}}), tooLarge},
		{"a range in the past", txnCommand(&kvv1.TxnRequest{Success: ops(rangeOpAt(3))}), fine},
		{"an empty operation", txnCommand(&kvv1.TxnRequest{Failure: ops(&kvv1.Op{})}), invalid},
		{"a long key inside", txnCommand(&kvv1.TxnRequest{Success: ops(txnOp(nil, ops(putOp(long))))}), tooLarge},
		{"an id inside", txnCommand(&kvv1.TxnRequest{Success: ops(&kvv1.Op{Op: &kvv1.Op_Txn{Txn: &kvv1.TxnRequest{RequestId: id}}})}), invalid},
		{"one key twice", txnCommand(&kvv1.TxnRequest{Success: ops(putOp("a"), putOp("a"))}), invalid},
		{"the largest batch", batch(batchOf(maxBatchWrites, 8)), fine},
		{"too many writes", batch(batchOf(maxBatchWrites+1, 8)), tooLarge},
		{"a lease", grant(&kvv1.GrantRequest{Id: 1, TtlSeconds: MaxTTLSeconds}), fine},
		{"a lease without an id", grant(&kvv1.GrantRequest{TtlSeconds: 1}), invalid},
		{"a lease too long", grant(&kvv1.GrantRequest{Id: 1, TtlSeconds: MaxTTLSeconds + 1}), invalid},
		{"the end of a lease", revoke(&kvv1.RevokeRequest{Id: 1, RequestId: id}), fine},
		{"the end of no lease", revoke(&kvv1.RevokeRequest{}), invalid},
		{"a compaction", &kvv1.Command{Command: &kvv1.Command_Compact{Compact: &kvv1.CompactRequest{Revision: -1}}}, fine},
		{"a user's put", owned(&kvv1.Identity{User: "a", Generation: 1}), fine},
		{"a put in the master's own name", owned(&kvv1.Identity{Pod: true}), invalid},
		{"too many ranges", owned(&kvv1.Identity{Reads: make([]*kvv1.KeyRange, maxForwardedOps+1)}), tooLarge},
		{"no change of users", &kvv1.Command{Command: &kvv1.Command_Auth{Auth: &kvv1.AuthChange{}}}, invalid},
		{"a password for a hash", &kvv1.Command{Command: &kvv1.Command_Auth{Auth: &kvv1.AuthChange{
			Change: &kvv1.AuthChange_SetPassword{SetPassword: &kvv1.SetPassword{PasswordHash: filled(maxSecretBytes + 1)}},
		}}}, tooLarge},
	} {
		if err := checkCommand(test.command); refusal.Reason(err) != test.want {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}
