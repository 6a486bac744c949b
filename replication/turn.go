package replication

// turn is a lock for those who wait for others while they hold it: for room in a
// connection, or for an entry to be committed. A sync.Mutex would do as well, but
// not in virtual time (testing/synctest), which stands still while somebody waits
// for one.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) lock()   { t <- struct{}{} }
func (t turn) unlock() { <-t }
