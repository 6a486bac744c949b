package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Where an API server has its issuer and its keys. Every ServiceAccount may read both
// (the ClusterRole system:service-account-issuer-discovery).
const (
	discoveryPath = "/.well-known/openid-configuration"
	keysPath      = "/openid/v1/jwks"
)

const (
	// keysAge is when the keys are asked for again although nothing is missing: one
	// that was taken out should not count for ever.
	keysAge = 10 * time.Minute
	// askAgain is the least time between two questions.
	askAgain = 10 * time.Second
	// fetchTimeout bounds both answers.
	fetchTimeout = 5 * time.Second
)

// keySet is what the API server said at one time; it is never changed.
type keySet struct {
	issuer string
	byID   map[string]jose.JSONWebKey
	at     time.Time
}

// keys are the API server's, as far as they are known. Those that are known count
// while the API server does not answer.
type keys struct {
	opts   Options
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	set      *keySet    // nil: none came yet
	asked    time.Time  // when they were last asked for
	fetching chan struct{}
	failed   error // of the last question
}

func newKeys(o Options) *keys {
	k := &keys{opts: o}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

func (k *keys) close() {
	k.cancel()
	k.tasks.Wait()
}

// find returns a key and the issuer of what it signs.
func (k *keys) find(ctx context.Context, id string) (jose.JSONWebKey, string, error) {
	set, fetching := k.look(id)
	if fetching != nil {
		select {
		case <-fetching:
		case <-ctx.Done():
			return jose.JSONWebKey{}, "", ctx.Err()
		}
		set = k.current()
	}
	if set == nil {
		return jose.JSONWebKey{}, "", k.missing()
	}
	key, ok := set.byID[id]
	if !ok {
		return key, "", errors.New("it is signed with a key that this cluster's API server does not have")
	}
	return key, set.issuer, nil
}

// look returns what is known, and what to wait for if the key is not in it and is
// being asked for. Then, and when the keys are old, it begins to ask.
func (k *keys) look(id string) (*keySet, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.opts.Now()
	known := false
	if k.set != nil {
		_, known = k.set.byID[id]
	}
	due := !known || now.Sub(k.set.at) >= keysAge
	if due && k.fetching == nil && (k.asked.IsZero() || now.Sub(k.asked) >= askAgain) && k.ctx.Err() == nil {
		k.asked, k.fetching = now, make(chan struct{})
		k.tasks.Go(k.fetch)
	}
	if known {
		return k.set, nil
	}
	return k.set, k.fetching
}

func (k *keys) current() *keySet {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.set
}

func (k *keys) missing() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fmt.Errorf("this pod has not got the API server's keys yet (%w)", k.failed)
}

func (k *keys) fetch() {
	ctx, cancel := context.WithTimeout(k.ctx, fetchTimeout)
	defer cancel()
	set, err := k.ask(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failed = err
	if err == nil {
		k.set = set
	} else if k.ctx.Err() == nil {
		k.opts.Logger.Warn("the API server's keys for ServiceAccount tokens could not be read; those that are known count on", slog.Any("error", err))
	}
	close(k.fetching)
	k.fetching = nil
}

func (k *keys) ask(ctx context.Context) (*keySet, error) {
	var about struct {
		Issuer string `json:"issuer"`
	}
	var all jose.JSONWebKeySet
	for path, into := range map[string]any{discoveryPath: &about, keysPath: &all} {
		text, err := k.opts.Fetch(ctx, path)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, into); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	if about.Issuer == "" {
		return nil, fmt.Errorf("%s names no issuer", discoveryPath)
	}
	set := &keySet{issuer: about.Issuer, byID: map[string]jose.JSONWebKey{}, at: k.opts.Now()}
	for _, key := range all.Keys {
		// A secret, or a key for encryption, signs nothing.
		if key.KeyID != "" && key.Valid() && key.IsPublic() && (key.Use == "" || key.Use == "sig") {
			set.byID[key.KeyID] = key
		}
	}
	if len(set.byID) == 0 {
		return nil, fmt.Errorf("%s has no key that can be used", keysPath)
	}
	return set, nil
}
