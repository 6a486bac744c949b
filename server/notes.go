package server

import "sync"

// notes are lines that people see in /readyz?verbose.
type notes struct {
	mu   sync.Mutex // guards from
	from []func() []string
}

// Note shows what from gives in /readyz?verbose, from now on. It may be called by any
// goroutine.
func (s *Server) Note(from func() []string) {
	s.readiness.notes.mu.Lock()
	defer s.readiness.notes.mu.Unlock()
	s.readiness.notes.from = append(s.readiness.notes.from, from)
}

func (n *notes) all() (lines []string) {
	n.mu.Lock()
	from := n.from
	n.mu.Unlock()
	for _, f := range from {
		lines = append(lines, f()...)
	}
	return lines
}
