package turn

import "sync"

// Lock is a sync.Locker; New makes one. A sync.Mutex would do as well, but not in
// virtual time (testing/synctest), which stands still while somebody waits for one.
type Lock chan struct{}

var _ sync.Locker = Lock(nil)

// New makes a lock that nobody holds.
func New() Lock { return make(Lock, 1) }

// Lock waits until nobody holds it, and holds it.
func (l Lock) Lock() { l <- struct{}{} }

// Unlock lets another one hold it.
func (l Lock) Unlock() { <-l }
