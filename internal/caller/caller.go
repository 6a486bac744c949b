package caller

import (
	"context"
	"time"
)

// Caller is who makes a call. The zero value is a caller who has proved nothing.
type Caller struct {
	// User is the name that rights are given to, for example "alice", or
	// "system:serviceaccount:shop:web".
	User string
	// By is how the caller proved it.
	By Proof
	// Pod is the Kubernetes pod that a ServiceAccount's token was made for; empty: for
	// none, or it is not such a token.
	Pod string
	// Generation counts the user's passwords, for Password: a token issued for an
	// earlier one proves nothing any more.
	Generation uint64
	// Until is when what proved it ends; zero: it does not.
	Until time.Time
}

// Proof is how a caller proved who it is.
type Proof string

// The proofs that there are.
const (
	Certificate    Proof = "certificate"
	ServiceAccount Proof = "serviceaccount"
	Password       Proof = "password"
	// Pod is this pod itself, or another one on the peer port: it may do everything,
	// because it has checked who asked it.
	Pod Proof = "pod"
)

type key struct{}

// With returns a context of a call by c.
func With(ctx context.Context, c Caller) context.Context { return context.WithValue(ctx, key{}, c) }

// From returns who makes the call of ctx.
func From(ctx context.Context) Caller {
	c, _ := ctx.Value(key{}).(Caller)
	return c
}
