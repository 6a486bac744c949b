package server

import (
	"context"

	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	// maxForwardedOps and maxForwardedDepth are what the etcd API lets into the log,
	// which is more than the native one does. What is longer in it, keys that are only
	// compared, or the bounds of a deletion, is bounded by the whole transaction.
	maxForwardedOps   = 3 * maxTxnOps
	maxForwardedDepth = 16
)

// CheckForwarded says why no pod should have forwarded a command to this one, which
// is the master; nil: it may go into the log. It is replication.Options.CheckCommand.
func (s *Server) CheckForwarded(command *kvv1.Command) error {
	if err := checkCommand(command); err != nil {
		return err
	}
	if err := s.core.forwarded(command); err != nil {
		return err
	}
	st, err := s.core.needStore()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), defaultDeadline)
	defer cancel()
	return s.core.mayPropose(ctx, st, command)
}

// checkCommand says why neither API can have proposed a command; nil: one of them can
// have. What one of them refuses and the other lets the store refuse, such as a lease
// below 0, passes: the answer must not depend on the pod that a client asks.
func checkCommand(command *kvv1.Command) error {
	if err := checkIdentity(command.GetIdentity()); err != nil {
		return err
	}
	switch c := command.GetCommand().(type) {
	case *kvv1.Command_Put:
		return checkForwardedPut(c.Put, false)
	case *kvv1.Command_Delete:
		return checkForwardedDelete(c.Delete, false)
	case *kvv1.Command_Txn:
		if size := proto.Size(c.Txn); size > maxTxnBytes {
			return errTooLarge("transaction bytes", maxTxnBytes, size)
		}
		if err := checkRequestID(c.Txn.GetRequestId(), false); err != nil {
			return err
		}
		pieces := 0
		if err := checkForwardedTxn(c.Txn, &pieces, 1); err != nil {
			return err
		}
		_, err := (&txnCheck{}).paths(c.Txn)
		return err
	case *kvv1.Command_Batch:
		return checkBatch(c.Batch)
	case *kvv1.Command_Grant:
		if c.Grant.GetId() == 0 {
			return errInvalid("id", "must be chosen before the command is in the log")
		}
		return checkGrant(c.Grant)
	case *kvv1.Command_Revoke:
		if err := checkLease(c.Revoke.GetId()); err != nil {
			return err
		}
		return checkRequestID(c.Revoke.GetRequestId(), false)
	case *kvv1.Command_Compact:
		return nil // The store knows which revisions there are.
	case *kvv1.Command_Auth:
		return checkAuthChange(c.Auth)
	}
	return errInvalid("command", "is missing, or not known to this version")
}

// checkIdentity refuses what only the master says of its own commands: they are never
// another pod's.
func checkIdentity(id *kvv1.Identity) error {
	switch size := proto.Size(id); {
	case id.GetPod():
		return errInvalid("identity.pod", "only the master's own commands have it")
	case len(id.GetReads()) > maxForwardedOps:
		return errTooLarge("identity.reads", maxForwardedOps, len(id.GetReads()))
	case size > maxTxnBytes:
		return errTooLarge("identity bytes", maxTxnBytes, size)
	}
	return nil
}

// maxSecretBytes is more than a hash of a password, or a key for tokens.
const maxSecretBytes = 256

// checkAuthChange checks the sizes. What a change means is looked at where it is applied.
func checkAuthChange(change *kvv1.AuthChange) error {
	var keys, secrets [][]byte
	switch c := change.GetChange().(type) {
	case nil:
		return errInvalid("change", "is missing, or not known to this version")
	case *kvv1.AuthChange_Enable:
		secrets = [][]byte{c.Enable.GetTokenKey()}
	case *kvv1.AuthChange_AddUser:
		secrets = [][]byte{c.AddUser.GetPasswordHash()}
	case *kvv1.AuthChange_SetPassword:
		secrets = [][]byte{c.SetPassword.GetPasswordHash()}
	case *kvv1.AuthChange_SetTenant:
		keys = [][]byte{c.SetTenant.GetTenant().GetPrefix()}
	case *kvv1.AuthChange_CountTenant:
		return errInvalid("count_tenant", "only the master proposes it")
	case *kvv1.AuthChange_GrantPermission:
		keys = [][]byte{c.GrantPermission.GetPermission().GetKey(), c.GrantPermission.GetPermission().GetRangeEnd()}
	}
	for _, key := range keys {
		if len(key) > maxBoundBytes {
			return errTooLarge("permission or prefix", maxBoundBytes, len(key))
		}
	}
	for _, secret := range secrets {
		if len(secret) > maxSecretBytes {
			return errTooLarge("hash or key", maxSecretBytes, len(secret))
		}
	}
	return nil
}

func checkForwardedPut(req *kvv1.PutRequest, inside bool) error {
	if err := checkKey("key", req.GetKey()); err != nil {
		return err
	}
	if err := checkValue("value", req.GetValue()); err != nil {
		return err
	}
	return checkRequestID(req.GetRequestId(), inside)
}

func checkForwardedDelete(req *kvv1.DeleteRequest, inside bool) error {
	if len(req.GetKey()) == 0 {
		return errInvalid("key", "is empty; the first possible key is a zero byte")
	}
	return checkRequestID(req.GetRequestId(), inside)
}

func checkForwardedTxn(req *kvv1.TxnRequest, pieces *int, depth int) error {
	if depth > maxForwardedDepth {
		return errTooLarge("transaction depth", maxForwardedDepth, depth)
	}
	if *pieces += len(req.GetCompare()) + len(req.GetSuccess()) + len(req.GetFailure()); *pieces > maxForwardedOps {
		return errTooLarge("operations and compares", maxForwardedOps, *pieces)
	}
	for _, ops := range [][]*kvv1.Op{req.GetSuccess(), req.GetFailure()} {
		for _, op := range ops {
			if err := checkForwardedOp(op, pieces, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkForwardedOp(op *kvv1.Op, pieces *int, depth int) error {
	switch o := op.GetOp().(type) {
	case *kvv1.Op_Range:
		return nil // The store refuses what it cannot read.
	case *kvv1.Op_Put:
		return checkForwardedPut(o.Put, true)
	case *kvv1.Op_Delete:
		return checkForwardedDelete(o.Delete, true)
	case *kvv1.Op_Txn:
		if err := checkRequestID(o.Txn.GetRequestId(), true); err != nil {
			return err
		}
		return checkForwardedTxn(o.Txn, pieces, depth+1)
	}
	return errInvalid("op", "one of them has neither range, put, delete nor txn")
}
