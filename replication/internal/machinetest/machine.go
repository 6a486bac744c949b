package machinetest

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

	"github.com/hashicorp/raft"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/entry"
)

// Machine is a state machine in memory: a map, and how often each key was put.
// What is "on its disk" is a copy that Flush makes.
type Machine struct {
	T    testing.TB
	Path string
	auto bool // flush by itself after each entry

	Mu      sync.Mutex
	State   machineState
	Disk    []byte
	Saved   replication.Position
	refuses bool // Every snapshot is damaged.
	checks  int
	Stuck   atomic.Pointer[chan struct{}] // Nothing is applied before it is closed.
}

type machineState struct {
	At   replication.Position
	Data map[string]string
	Puts map[string]int
	// Hash is of all puts, in order.
	Hash uint64
	// Pad makes snapshots large.
	Pad []byte
}

// Open opens the machine that was saved in dir, or an empty one.
func Open(t testing.TB, dir string) *Machine {
	m := &Machine{T: t, Path: filepath.Join(dir, "store.db"), State: machineState{Data: map[string]string{}, Puts: map[string]int{}}}
	if raw, err := os.ReadFile(m.Path); err == nil {
		if err := m.load(raw); err != nil {
			t.Errorf("the database cannot be read: %v", err)
		}
	}
	return m
}

func (m *Machine) load(raw []byte) error {
	var s machineState
	if err := gob.NewDecoder(bytes.NewReader(raw)).Decode(&s); err != nil {
		return err
	}
	if s.Data == nil {
		s.Data, s.Puts = map[string]string{}, map[string]int{}
	}
	m.State, m.Disk, m.Saved = s, raw, s.At
	return nil
}

// Receive is Options.Receive.
func Receive(dir string) func(io.Reader) (replication.Position, error) {
	return func(r io.Reader) (replication.Position, error) {
		raw, err := io.ReadAll(r)
		if err != nil {
			return replication.Position{}, err
		}
		var s machineState
		if err := gob.NewDecoder(bytes.NewReader(raw)).Decode(&s); err != nil {
			return replication.Position{}, err
		}
		return s.At, os.WriteFile(filepath.Join(dir, "store.db"), raw, 0o600)
	}
}

func (m *Machine) Apply(index, term uint64, commands []*kvv1.Command) []*kvv1.Result {
	if stuck := m.Stuck.Load(); stuck != nil {
		<-*stuck
	}
	m.Mu.Lock()
	defer m.Mu.Unlock()
	if index <= m.State.At.Index {
		m.T.Errorf("entry %d applied at %d", index, m.State.At.Index)
	}
	m.State.At.Index, m.State.At.Term = index, term
	results := make([]*kvv1.Result, len(commands))
	for i, c := range commands {
		put := c.GetPut()
		m.State.Data[string(put.Key)] = string(put.Value)
		m.State.Puts[string(put.Key)]++
		m.State.Hash = nextHash(m.State.Hash, put)
		results[i] = &kvv1.Result{Result: &kvv1.Result_Put{Put: &kvv1.PutResponse{Header: &kvv1.ResponseHeader{Revision: int64(index)}}}}
	}
	if m.auto {
		m.Save()
	}
	return results
}

func nextHash(hash uint64, put *kvv1.PutRequest) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%x %q %q", hash, put.Key, put.Value)
	return h.Sum64()
}

func (m *Machine) Digest() (revision int64, hash uint64) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	return int64(len(m.State.Data)), m.State.Hash
}

// Phantom is a put that no entry of the log has.
func (m *Machine) Phantom(key, value string) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.State.Data[key] = value
	m.State.Hash = nextHash(m.State.Hash, PutCommand(key, value).GetPut())
}

func (m *Machine) ApplyConfiguration(index, term uint64, configuration []byte) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.State.At = replication.Position{Index: index, Term: term, ConfigurationIndex: index, Configuration: configuration}
}

func (m *Machine) Applied() uint64 {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	return m.State.At.Index
}

func (m *Machine) Durable() replication.Position {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	return m.Saved
}

func (m *Machine) Save() {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(m.State); err != nil {
		m.T.Error(err)
	}
	if err := errors.Join(os.WriteFile(m.Path+".tmp", b.Bytes(), 0o600), os.Rename(m.Path+".tmp", m.Path)); err != nil {
		m.T.Error(err)
	}
	m.Disk, m.Saved = b.Bytes(), m.State.At
}

func (m *Machine) Flush(_ context.Context, index uint64) error {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	if m.Saved.Index < index {
		m.Save()
	}
	if m.Saved.Index < index {
		m.T.Errorf("flush to %d asked, at %d", index, m.Saved.Index)
	}
	return nil
}

type machineSnapshot struct {
	*bytes.Reader
	at replication.Position
}

func (s *machineSnapshot) Close() error                   { return nil }
func (s *machineSnapshot) Position() replication.Position { return s.at }

func (m *Machine) Snapshot() (replication.Snapshot, error) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	return &machineSnapshot{bytes.NewReader(m.Disk), m.Saved}, nil
}

func (m *Machine) Restore(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m.Mu.Lock()
	defer m.Mu.Unlock()
	if m.refuses {
		return fmt.Errorf("%w: it says", replication.ErrDamaged)
	}
	if err := m.load(raw); err != nil {
		return err
	}
	return os.WriteFile(m.Path, raw, 0o600)
}

func (m *Machine) Check(context.Context) error {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.checks++
	return nil
}

func (m *Machine) Refuse(all bool) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.refuses = all
}

func (m *Machine) Checked() int {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	return m.checks
}

func (m *Machine) Get(key string) (string, bool) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	v, ok := m.State.Data[key]
	return v, ok
}

func (m *Machine) Puts() map[string]int {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	c := map[string]int{}
	for k, n := range m.State.Puts {
		c[k] = n
	}
	return c
}

func PutCommand(key, value string) *kvv1.Command {
	return &kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

// PutEntry is an entry that puts a key.
func PutEntry(index, term uint64, key string) *raft.Log {
	b, err := entry.AppendCommand([]byte{entry.Version}, PutCommand(key, "v"))
	if err != nil {
		panic(err)
	}
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: b, Extensions: entry.Checksum(b)}
}
