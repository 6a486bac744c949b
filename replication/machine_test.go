package replication

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
)

// machine is a state machine in memory: a map, and how often each key was put.
// What is "on its disk" is a copy that Flush makes.
type machine struct {
	t    testing.TB
	path string
	auto bool // flush by itself after each entry

	mu      sync.Mutex
	state   machineState
	durable []byte
	at      Position
	refuses bool // Every snapshot is damaged.
	checks  int
	stuck   atomic.Pointer[chan struct{}] // Nothing is applied before it is closed.
}

type machineState struct {
	At   Position
	Data map[string]string
	Puts map[string]int
	// Hash is of all puts, in order.
	Hash uint64
	// Pad makes snapshots large.
	Pad []byte
}

func openMachine(t testing.TB, dir string) *machine {
	m := &machine{t: t, path: filepath.Join(dir, "store.db"), state: machineState{Data: map[string]string{}, Puts: map[string]int{}}}
	if raw, err := os.ReadFile(m.path); err == nil {
		if err := m.load(raw); err != nil {
			t.Errorf("the database cannot be read: %v", err)
		}
	}
	return m
}

func (m *machine) load(raw []byte) error {
	var s machineState
	if err := gob.NewDecoder(bytes.NewReader(raw)).Decode(&s); err != nil {
		return err
	}
	if s.Data == nil {
		s.Data, s.Puts = map[string]string{}, map[string]int{}
	}
	m.state, m.durable, m.at = s, raw, s.At
	return nil
}

// receiveMachine is Options.Receive.
func receiveMachine(dir string) func(io.Reader) (Position, error) {
	return func(r io.Reader) (Position, error) {
		raw, err := io.ReadAll(r)
		if err != nil {
			return Position{}, err
		}
		var s machineState
		if err := gob.NewDecoder(bytes.NewReader(raw)).Decode(&s); err != nil {
			return Position{}, err
		}
		return s.At, os.WriteFile(filepath.Join(dir, "store.db"), raw, 0o600)
	}
}

func (m *machine) Apply(index, term uint64, commands []*kvv1.Command) []*kvv1.Result {
	if stuck := m.stuck.Load(); stuck != nil {
		<-*stuck
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if index <= m.state.At.Index {
		m.t.Errorf("entry %d applied at %d", index, m.state.At.Index)
	}
	m.state.At.Index, m.state.At.Term = index, term
	results := make([]*kvv1.Result, len(commands))
	for i, c := range commands {
		put := c.GetPut()
		m.state.Data[string(put.Key)] = string(put.Value)
		m.state.Puts[string(put.Key)]++
		m.state.Hash = nextHash(m.state.Hash, put)
		results[i] = &kvv1.Result{Result: &kvv1.Result_Put{Put: &kvv1.PutResponse{Header: &kvv1.ResponseHeader{Revision: int64(index)}}}}
	}
	if m.auto {
		m.flush()
	}
	return results
}

func nextHash(hash uint64, put *kvv1.PutRequest) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%x %q %q", hash, put.Key, put.Value)
	return h.Sum64()
}

func (m *machine) Digest() (revision int64, hash uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.state.Data)), m.state.Hash
}

// phantom is a put that no entry of the log has.
func (m *machine) phantom(key, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Data[key] = value
	m.state.Hash = nextHash(m.state.Hash, putCommand(key, value).GetPut())
}

func (m *machine) ApplyConfiguration(index, term uint64, configuration []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.At = Position{Index: index, Term: term, ConfigurationIndex: index, Configuration: configuration}
}

func (m *machine) Applied() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.At.Index
}

func (m *machine) Durable() Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at
}

func (m *machine) flush() {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(m.state); err != nil {
		m.t.Error(err)
	}
	if err := errors.Join(os.WriteFile(m.path+".tmp", b.Bytes(), 0o600), os.Rename(m.path+".tmp", m.path)); err != nil {
		m.t.Error(err)
	}
	m.durable, m.at = b.Bytes(), m.state.At
}

func (m *machine) Flush(_ context.Context, index uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at.Index < index {
		m.flush()
	}
	if m.at.Index < index {
		m.t.Errorf("flush to %d asked, at %d", index, m.at.Index)
	}
	return nil
}

type machineSnapshot struct {
	*bytes.Reader
	at Position
}

func (s *machineSnapshot) Close() error       { return nil }
func (s *machineSnapshot) Position() Position { return s.at }

func (m *machine) Snapshot() (Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &machineSnapshot{bytes.NewReader(m.durable), m.at}, nil
}

func (m *machine) Restore(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuses {
		return fmt.Errorf("%w: it says", ErrDamaged)
	}
	if err := m.load(raw); err != nil {
		return err
	}
	return os.WriteFile(m.path, raw, 0o600)
}

func (m *machine) Check(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checks++
	return nil
}

func (m *machine) refuse(all bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuses = all
}

func (m *machine) checked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.checks
}

func (m *machine) get(key string) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.state.Data[key]
	return v, ok
}

func (m *machine) puts() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := map[string]int{}
	for k, n := range m.state.Puts {
		c[k] = n
	}
	return c
}

func putCommand(key, value string) *kvv1.Command {
	return &kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

// readClone reads what a clone of these chunks gives.
func readClone(chunks []string, total int64, last error) (string, error) {
	if last == nil {
		last = io.EOF
	}
	r := &cloneReader{got: func(int64, int64) {}, complete: func() {}, recv: func() (*peerv1.CloneResponse, error) {
		if len(chunks) == 0 {
			return nil, last
		}
		c := chunks[0]
		chunks = chunks[1:]
		return &peerv1.CloneResponse{TotalBytes: total, Chunk: []byte(c)}, nil
	}}
	raw, err := io.ReadAll(r)
	return string(raw), err
}
