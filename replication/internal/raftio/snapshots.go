package raftio

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
)

const (
	databaseID = "database"
	// sentGrace is how long the log is kept from the index of a snapshot after
	// it was sent: the follower needs what comes after it.
	sentGrace = 10 * time.Second
)

// snapshots is the library's snapshot store over the state machine: the only
// snapshot is the database itself, as it is on disk. One that InstallSnapshot
// receives is a file until it is restored.
type snapshots struct {
	ctx context.Context // ends a Persist that waits for a flush
	sm  replication.StateMachine
	dir string
	// hold keeps the log from index on for d; 0: until the next call.
	hold func(holder string, index uint64, d time.Duration)
	fsm  *fsm

	mu       sync.Mutex // guards the fields below
	serial   int
	received *spool
}

// flushSnapshot is a snapshot that exists once the database on disk has
// reached its index.
type flushSnapshot struct {
	sm    replication.StateMachine
	index uint64
}

func (s *flushSnapshot) Persist(sink raft.SnapshotSink) error {
	return s.sm.Flush(sink.(*spool).store.ctx, s.index)
}

func (s *flushSnapshot) Release() {}

// List implements raft.SnapshotStore.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	at := s.sm.Durable()
	if at.Index == 0 {
		return nil, nil
	}
	return []*raft.SnapshotMeta{snapshotMeta(databaseID, at, 0)}, nil
}

func snapshotMeta(id string, at replication.Position, size int64) *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: 1, ID: id, Index: at.Index, Term: at.Term, Size: size,
		Configuration:      raft.DecodeConfiguration(at.Configuration),
		ConfigurationIndex: at.ConfigurationIndex,
	}
}

// Open implements raft.SnapshotStore: for sending, and for restoring what was received.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	received := s.received
	if received != nil && received.id == id {
		s.received = nil
	} else {
		received = nil
	}
	s.serial++
	holder := fmt.Sprintf("snapshot-%d", s.serial)
	s.mu.Unlock()
	if received != nil {
		s.fsm.restoring = received // Open and Restore run on one goroutine, one after the other
		return received.open()
	}
	snap, err := s.sm.Snapshot()
	if err != nil {
		return nil, nil, err
	}
	at := snap.Position()
	if at.Index == 0 || len(at.Configuration) == 0 {
		snap.Close()
		return nil, nil, fmt.Errorf("the database on disk is empty")
	}
	s.hold(holder, at.Index, 0)
	return snapshotMeta(databaseID, at, snap.Size()), &sending{Snapshot: snap, done: func() { s.hold(holder, at.Index, sentGrace) }}, nil
}

type sending struct {
	replication.Snapshot
	done func()
}

func (s *sending) Close() error {
	s.done()
	return s.Snapshot.Close()
}

// Create implements raft.SnapshotStore. The library makes a sink for its own
// snapshots, too; nothing is written to those, and no file is made for them.
func (s *snapshots) Create(_ raft.SnapshotVersion, index, _ uint64, c raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	return &spool{
		store: s, id: fmt.Sprintf("received-%d", s.serial),
		path:  filepath.Join(s.dir, fmt.Sprintf("store.db.install-%d", s.serial)),
		index: index, configuration: c, configurationIndex: configurationIndex,
	}, nil
}

// spool is a snapshot while it is received. It need not survive a crash: the
// master sends another.
type spool struct {
	store              *snapshots
	id, path           string
	index              uint64
	configuration      raft.Configuration
	configurationIndex uint64

	file *os.File
	size int64
}

func (s *spool) ID() string { return s.id }

func (s *spool) Write(p []byte) (int, error) {
	if s.file == nil {
		f, err := os.OpenFile(s.path, os.O_CREATE|os.O_TRUNC|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return 0, err
		}
		s.file = f
	}
	n, err := s.file.Write(p)
	s.size += int64(n)
	return n, err
}

func (s *spool) Close() error {
	if s.file == nil {
		return nil
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if old := s.store.received; old != nil {
		old.discard()
	}
	s.store.received = s
	return nil
}

func (s *spool) Cancel() error {
	s.discard()
	return nil
}

func (s *spool) discard() {
	if s.file != nil {
		s.file.Close()
		os.Remove(s.path)
	}
}

func (s *spool) open() (*raft.SnapshotMeta, io.ReadCloser, error) {
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		s.discard()
		return nil, nil, err
	}
	meta := &raft.SnapshotMeta{
		Version: 1, ID: s.id, Index: s.index, Size: s.size,
		Configuration: s.configuration, ConfigurationIndex: s.configurationIndex,
	}
	return meta, &spoolReader{Reader: bufio.NewReaderSize(s.file, 256<<10), spool: s}, nil
}

type spoolReader struct {
	io.Reader
	spool *spool
}

func (r *spoolReader) Close() error {
	r.spool.discard()
	return nil
}

// removeSpools removes what a crash left.
func removeSpools(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "store.db.install-*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

const (
	// snapshotDamaged is how a master knows, by the text that the library carries, why
	// a member does not take its snapshot.
	snapshotDamaged = "what it holds is damaged"
	// checkAgain bounds how often a master looks at its own database for that.
	checkAgain = time.Minute
)

// InstallSnapshot implements raft.Transport.
//
// What a member finds damaged was damaged before it was sent: every frame has a
// checksum. The member would be sent the same again and again, and nobody might
// read that part of the database here. So this pod looks at all of it, and gives it
// up if it is damaged. (TestADamagedSnapshot)
func (t *Transport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := t.NetworkTransport.InstallSnapshot(id, to, req, resp, data)
	if err != nil && strings.Contains(err.Error(), snapshotDamaged) {
		t.checkOwn(replication.MemberID(id))
	}
	if err == nil {
		err = t.believable(id, resp.Term)
	}
	return err
}

// audit is a check of the whole database, now and then.
type audit struct {
	mu   sync.Mutex // guards last
	last time.Time
}

// due says whether it is time for another check, which begins now.
func (a *audit) due() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.last.IsZero() && time.Since(a.last) < checkAgain {
		return false
	}
	a.last = time.Now()
	return true
}

func (t *Transport) checkOwn(refuses replication.MemberID) {
	if t.ending.ctx.Err() != nil || !t.doubts.audit.due() {
		return
	}
	t.replica.Logger.Warn("a pod finds this pod's snapshot damaged; the database is checked", "pod", refuses.Pod())
	t.ending.serving.Go(func() {
		if err := t.replica.Storage.Sm.Check(t.ending.ctx); err != nil && t.ending.ctx.Err() == nil {
			t.replica.Logger.Error("the database was checked", "error", err)
		}
	})
}
