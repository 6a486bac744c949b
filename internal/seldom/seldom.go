package seldom

import (
	"sync"
	"time"
)

// every is how often events of one kind are said.
const every = 10 * time.Second

// Events are those of some kinds. The zero value has had none. It grows with the number
// of kinds, which must not be for others to choose. Any goroutine may use it.
type Events struct {
	mu   sync.Mutex // guards last
	last map[string]last
}

type last struct {
	said   time.Time
	unsaid int // Since then.
}

// Due notes an event, and says whether it is worth a line now; unsaid others of its kind
// have had none since the last one that was.
func (e *Events) Due(kind string) (unsaid int, due bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l, again := e.last[kind]
	if again && time.Since(l.said) < every {
		l.unsaid++
		e.last[kind] = l
		return 0, false
	}
	if e.last == nil {
		e.last = map[string]last{}
	}
	e.last[kind] = last{said: time.Now()}
	return l.unsaid, true
}
