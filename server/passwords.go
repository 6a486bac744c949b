package server

import (
	"context"
	"runtime"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/batondb/baton/internal/quota"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// maxPasswordBytes is all that bcrypt looks at.
const maxPasswordBytes = 72

// maxHashing is how many wait for passwords to be hashed, shared by who calls: more
// would time out.
const maxHashing = 64

// passwords hashes and compares passwords, a few at a time: each takes a processor
// about 50 ms, on purpose, and the rest of the pod goes on meanwhile.
type passwords struct {
	waiting  *quota.Quota  // Of those that wait or run.
	running  chan struct{} // Has room for those that run.
	attempts *attempts
	ttl      time.Duration // tokenTTL; shorter in tests.
}

func newPasswords() *passwords {
	return &passwords{
		waiting: quota.New("passwords to look at", maxHashing), running: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		attempts: newAttempts(time.Now), ttl: tokenTTL,
	}
}

// do runs work when it is its turn.
func (p *passwords) do(ctx context.Context, work func()) error {
	who := whoCalls(ctx)
	if err := p.waiting.Take(who, 1); err != nil {
		return err
	}
	defer p.waiting.Give(who, 1)
	select {
	case p.running <- struct{}{}:
		defer func() { <-p.running }()
	case <-ctx.Done():
		return ctx.Err()
	}
	work()
	return nil
}

// hash is what the log has of a password.
func (p *passwords) hash(ctx context.Context, password string) (hash []byte, err error) {
	if len(password) > maxPasswordBytes {
		return nil, errTooLarge("password", maxPasswordBytes, len(password))
	}
	var failed error
	err = p.do(ctx, func() { hash, failed = bcrypt.GenerateFromPassword([]byte(password), passwordCost) })
	if err == nil {
		err = failed
	}
	return hash, err
}

// matches says whether a user has this password.
func (p *passwords) matches(ctx context.Context, user *kvv1.AuthUser, password string) (matches bool, err error) {
	err = p.do(ctx, func() {
		hash := user.GetPasswordHash()
		known := !user.GetNoPassword() && len(hash) > 0
		if !known {
			hash = []byte(decoy)
		}
		matches = bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil && known
	})
	return matches, err
}

var errLoginFailed error = &refusal.Error{
	Reason:  kvv1.ErrorReason_ERROR_REASON_LOGIN_FAILED,
	Message: "there is no such user with this password",
}
