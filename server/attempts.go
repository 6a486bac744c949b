package server

import (
	"sync"
	"time"
)

// attempts slows guessing down. Each login that fails costs its user, its address and
// the two together one of what they may fail at once, which comes back with time; one
// that has nothing left is refused before its password is looked at. Somebody who
// guesses at a user from elsewhere, or at others from the same address, does not shut the
// user out of where it has logged in before. Each pod counts for itself.
type attempts struct {
	now func() time.Time

	mu    sync.Mutex // guards the fields below
	left  map[attemptKey]*allowance
	known map[attemptKey]time.Time // When a user last logged in from an address.
}

type attemptKey struct{ user, address string }

// allowance is what is left, as of a time.
type allowance struct {
	left float64
	at   time.Time
}

// failures are how many logins may fail at once, and how soon one comes back.
type failures struct {
	burst float64
	every time.Duration
}

var (
	// failuresTogether: a person who mistypes, and a program with an old password.
	failuresTogether = failures{burst: 10, every: 5 * time.Second}
	// failuresOfUser and failuresOfAddress: all of a user's programs after a change of
	// the password, and all pods behind one address.
	failuresOfUser    = failures{burst: 100, every: time.Second}
	failuresOfAddress = failures{burst: 100, every: time.Second}
)

// maxAttempts bounds the memory: what is full again goes first.
const maxAttempts = 10_000

func newAttempts(now func() time.Time) *attempts {
	return &attempts{now: now, left: map[attemptKey]*allowance{}, known: map[attemptKey]time.Time{}}
}

func keysOf(user, address string) map[attemptKey]failures {
	return map[attemptKey]failures{
		{user, address}: failuresTogether, {user: user}: failuresOfUser, {address: address}: failuresOfAddress,
	}
}

// may says whether a login may be tried.
func (a *attempts) may(user, address string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	both := attemptKey{user, address}
	_, known := a.known[both]
	for key, limit := range keysOf(user, address) {
		if known && key != both {
			continue
		}
		if a.refill(key, limit).left < 1 {
			return false
		}
	}
	return true
}

// ended notes how a login ended.
func (a *attempts) ended(user, address string, good bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if good {
		if len(a.known) >= maxAttempts {
			clear(a.known)
		}
		a.known[attemptKey{user, address}] = a.now()
		return
	}
	if len(a.left) >= maxAttempts {
		a.forget()
	}
	for key, limit := range keysOf(user, address) {
		// Below 0, too: many may have been tried at the same time.
		left := a.refill(key, limit)
		left.left--
		a.left[key] = left
	}
}

// refill returns what is left now; a.mu is held.
func (a *attempts) refill(key attemptKey, limit failures) *allowance {
	now, left := a.now(), a.left[key]
	if left == nil {
		return &allowance{limit.burst, now}
	}
	left.left = min(limit.burst, left.left+now.Sub(left.at).Seconds()/limit.every.Seconds())
	left.at = now
	return left
}

// forget makes room; a.mu is held. Each entry took a password's check to make, so what
// has not failed for this long is full, or nearly.
func (a *attempts) forget() {
	for key, left := range a.left {
		if a.now().Sub(left.at) > time.Minute {
			delete(a.left, key)
		}
	}
	for key := range a.left {
		if len(a.left) < maxAttempts/2 {
			return
		}
		delete(a.left, key)
	}
}
