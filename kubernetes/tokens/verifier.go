package tokens

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/batondb/baton/internal/caller"
)

// algorithms are those that an API server signs with, by the kind of its key.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.ES384, jose.ES512}

const (
	// maxTokenBytes: those of Kubernetes have 1 to 2 KiB.
	maxTokenBytes = 8 << 10
	// leeway is how far the clocks of the API server and of a pod may be apart when a
	// token begins.
	leeway = 10 * time.Second
	// remembered is how long a token that was checked is not checked again: the
	// signature takes longer than the call that it is for.
	remembered = 5 * time.Minute
	// reviewed is the same for the API server's answer.
	reviewed = time.Minute
	// maxRemembered tokens take about a megabyte.
	maxRemembered = 4096
	// reviewTimeout bounds one question.
	reviewTimeout = 5 * time.Second
	// maxReviews are asked at once, on behalf of tokens with a good signature.
	maxReviews = 8
)

// Options of a Verifier. Audience and Fetch are needed.
type Options struct {
	// Audience must be one of a token's: a token for anybody else proves nothing here.
	Audience string
	// Fetch reads a path of the API server.
	Fetch func(ctx context.Context, path string) ([]byte, error)
	// Review asks the API server about a token, and returns the user that it names;
	// nil: tokens are checked offline only.
	Review func(ctx context.Context, token, audience string) (user string, err error)
	Logger *slog.Logger     // nil: none
	Now    func() time.Time // nil: time.Now
}

// Verifier checks tokens. Its methods may be called by any goroutine, Close once.
type Verifier struct {
	opts    Options
	keys    *keys
	reviews chan struct{} // has a place for each that is under way

	mu    sync.Mutex // guards known
	known map[[sha256.Size]byte]verified
}

// verified is what a token has proved.
type verified struct {
	caller caller.Caller
	until  time.Time
}

// New returns a Verifier that has asked nobody yet.
func New(o Options) *Verifier {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Verifier{
		opts: o, keys: newKeys(o), reviews: make(chan struct{}, maxReviews),
		known: map[[sha256.Size]byte]verified{},
	}
}

// Close returns when nothing is asked any more.
func (v *Verifier) Close() { v.keys.close() }

// Verify says whose a token is. Its errors say what is wrong, and nothing of what is
// in the token beyond its names.
func (v *Verifier) Verify(ctx context.Context, token string) (caller.Caller, error) {
	hash := sha256.Sum256([]byte(token))
	now := v.opts.Now()
	v.mu.Lock()
	found, ok := v.known[hash]
	v.mu.Unlock()
	if ok && now.Before(found.until) {
		return found.caller, nil
	}
	c, err := v.check(ctx, token)
	if err != nil {
		return caller.Caller{}, err
	}
	until := now.Add(remembered)
	if v.opts.Review != nil {
		if err := v.review(ctx, token, c.user()); err != nil {
			return caller.Caller{}, err
		}
		until = now.Add(reviewed)
	}
	if expiry := c.Expiry.Time(); expiry.Before(until) {
		until = expiry
	}
	found = verified{caller.Caller{User: c.user(), By: caller.ServiceAccount, Pod: c.Kubernetes.Pod.Name, Until: c.Expiry.Time()}, until}
	v.remember(hash, found, now)
	return found.caller, nil
}

func (v *Verifier) remember(hash [sha256.Size]byte, what verified, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) >= maxRemembered {
		for h, old := range v.known {
			if now.After(old.until) {
				delete(v.known, h)
			}
		}
	}
	for h := range v.known { // Whichever comes: it is only checked again.
		if len(v.known) < maxRemembered {
			break
		}
		delete(v.known, h)
	}
	v.known[hash] = what
}

// claims are what is read of a token.
type claims struct {
	jwt.Claims
	Kubernetes struct {
		Namespace string `json:"namespace"`
		Pod       struct {
			Name string `json:"name"`
		} `json:"pod"`
		ServiceAccount struct {
			Name string `json:"name"`
		} `json:"serviceaccount"`
	} `json:"kubernetes.io"`
}

func (c *claims) user() string {
	return caller.ServiceAccountName(c.Kubernetes.Namespace, c.Kubernetes.ServiceAccount.Name)
}

// check is all that needs no question to anybody.
func (v *Verifier) check(ctx context.Context, token string) (*claims, error) {
	if len(token) > maxTokenBytes {
		return nil, fmt.Errorf("it has %d bytes, at most %d", len(token), maxTokenBytes)
	}
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return nil, errors.New("it is no JSON Web Token with a signature of RS256, ES256, ES384 or ES512")
	}
	// There is one header: ParseSigned takes the compact form only.
	header := parsed.Headers[0]
	if header.KeyID == "" {
		return nil, errors.New("it does not name the key that it is signed with, as those of Kubernetes do")
	}
	key, issuer, err := v.keys.find(ctx, header.KeyID)
	if err != nil {
		return nil, err
	}
	if key.Algorithm != "" && key.Algorithm != header.Algorithm {
		return nil, fmt.Errorf("it is signed with %s, and its key is for %s", header.Algorithm, key.Algorithm)
	}
	c := &claims{}
	if err := parsed.Claims(key.Key, c); err != nil {
		return nil, errors.New("its signature is wrong")
	}
	return c, v.checkClaims(c, issuer)
}

func (v *Verifier) checkClaims(c *claims, issuer string) error {
	now := v.opts.Now()
	switch {
	case c.Issuer != issuer:
		return fmt.Errorf("its issuer is %q, and this cluster's is %q", c.Issuer, issuer)
	case !c.Audience.Contains(v.opts.Audience):
		return fmt.Errorf("it is for %s: ask for one with the audience %s", strings.Join(c.Audience, ", "), v.opts.Audience)
	case c.Expiry == nil:
		return errors.New("it never expires: such tokens of Secrets are not accepted; project one into the pod")
	case !now.Before(c.Expiry.Time()):
		return fmt.Errorf("it expired %s ago", now.Sub(c.Expiry.Time()).Truncate(time.Second))
	case c.NotBefore != nil && now.Add(leeway).Before(c.NotBefore.Time()):
		return fmt.Errorf("it begins in %s: is a clock wrong?", c.NotBefore.Time().Sub(now).Truncate(time.Second))
	case c.Kubernetes.Namespace == "" || c.Kubernetes.ServiceAccount.Name == "" || c.Subject != c.user():
		return errors.New("it is not of a ServiceAccount")
	}
	return nil
}

// review asks the API server about a token that is good as far as can be seen.
func (v *Verifier) review(ctx context.Context, token, user string) error {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	select {
	case v.reviews <- struct{}{}:
		defer func() { <-v.reviews }()
	case <-ctx.Done():
		return errors.New("the Kubernetes API does not say in time whether it is still good")
	}
	name, err := v.opts.Review(ctx, token, v.opts.Audience)
	if err != nil {
		return fmt.Errorf("the Kubernetes API: %w", err)
	}
	if name != user {
		return fmt.Errorf("the Kubernetes API says that it is of %q", name)
	}
	return nil
}
