package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/machinetest"
	"github.com/batondb/baton/replication/internal/raftlog"
)

// slowFS is the log's file system with a switch, and a power cut.
type slowFS struct {
	*fs.FS
	hang atomic.Pointer[chan struct{}]
	fail atomic.Bool
	lies atomic.Bool // A sync does nothing, and says that it did.
	dead atomic.Bool // Nothing is written any more.
	slow atomic.Bool // A sync takes up to 32 ms.

	mu       sync.Mutex // guards unsynced
	unsynced []lostWrite
}

var errDead = errors.New("no power")

type lostWrite struct {
	path  string
	at    int64
	bytes int
}

type slowFile struct {
	types.WritableFile
	fs   *slowFS
	path string
}

func (s *slowFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := s.FS.Create(dir, name, size)
	return &slowFile{f, s, filepath.Join(dir, name)}, err
}

func (s *slowFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := s.FS.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	return &slowFile{f, s, filepath.Join(dir, name)}, nil
}

func (f *slowFile) WriteAt(p []byte, at int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.fs.dead.Load() {
		return 0, errDead
	}
	f.fs.unsynced = append(f.fs.unsynced, lostWrite{f.path, at, len(p)})
	return f.WritableFile.WriteAt(p, at)
}

func (f *slowFile) Sync() error {
	if ch := f.fs.hang.Load(); ch != nil {
		<-*ch
	}
	if f.fs.fail.Load() {
		return errors.New("input/output error")
	}
	if f.fs.slow.Load() {
		time.Sleep(rand.N(time.Millisecond) << rand.N(6)) // mostly short
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	switch {
	case f.fs.dead.Load():
		return errDead
	case f.fs.lies.Load():
		return nil
	}
	f.fs.unsynced = slices.DeleteFunc(f.fs.unsynced, func(w lostWrite) bool { return w.path == f.path })
	return f.WritableFile.Sync()
}

// owed is how many writes were not synced.
func (s *slowFS) owed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.unsynced)
}

// stop makes every sync wait until goOn, which can be called again.
func (s *slowFS) stop() (goOn func()) {
	gate := make(chan struct{})
	s.hang.Store(&gate)
	return sync.OnceFunc(func() {
		s.hang.Store(nil)
		close(gate)
	})
}

// cutPower loses what was not synced, and gives power again: a file of the log is
// zeros where nothing was written.
func (s *slowFS) cutPower() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.unsynced {
		f, err := os.OpenFile(w.path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(make([]byte, w.bytes), w.at)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	s.unsynced = nil
	s.dead.Store(false)
	s.lies.Store(false)
	return nil
}

// newClusterOnDisks is three pods, each with its log on a slowFS.
func newClusterOnDisks(t *testing.T, hang time.Duration) (*cluster, map[string]*slowFS) {
	c, disks := newCluster(t, 3), map[string]*slowFS{}
	c.adjust = func(o *replication.Options) {
		if disks[o.Name] == nil {
			disks[o.Name] = &slowFS{FS: fs.New()}
		}
		o.LogFS = disks[o.Name]
		o.Timing.Hang = hang
	}
	return c.boot(), disks
}

// A master whose disk hangs, or fails, is replaced, and says so.
//
// Scenario: S31
func TestBadDisk(t *testing.T) {
	for _, how := range []string{"hangs", "fails", "fails late"} {
		t.Run(how, func(t *testing.T) {
			c, disks := newClusterOnDisks(t, 300*time.Millisecond)
			old := c.master()
			old.mustPut("k", "v")
			goOn := func() {}
			if how != "fails" {
				goOn = disks[old.name].stop()
			}
			defer goOn()
			disks[old.name].fail.Store(how != "hangs")
			if how == "fails late" {
				// By then the pipelines to the followers are full of answers.
				time.AfterFunc(200*time.Millisecond, goOn)
			}
			ctx, cancel := context.WithTimeout(context.Background(), patient)
			defer cancel()
			write := make(chan error, 1)
			go func() {
				_, err := old.node.Propose(ctx, machinetest.PutCommand("l", "w"))
				write <- err
			}()
			select {
			case err := <-old.node.Failed():
				if how == "hangs" && !errors.Is(err, raftlog.ErrHung) {
					t.Errorf("failed with %v", err)
				}
			case <-time.After(patient):
				t.Fatal("it does not say that it failed")
			}
			next := c.master(old.name)
			next.mustPut("k", "x")
			if how == "hangs" {
				goOn()
			}
			// The followers have the entry, and are a majority.
			switch err := <-write; {
			case err == nil:
				next.mustRead("l", "w")
			case !errors.Is(err, replication.ErrUnknown):
				t.Errorf("a write to the disk that %s: %v", how, err)
			}
		})
	}
}

// The followers get an entry while the master's disk still syncs it, and the
// answer of one of them counts only when it has.
func TestSyncWhileReplicating(t *testing.T) {
	c, disks := newClusterOnDisks(t, time.Minute)
	master := c.master()
	master.mustPut("k", "v")
	before := master.node.Status().Last
	others := c.followers()
	goOn, theOther := disks[master.name].stop(), disks[others[0].name].stop()
	defer theOther()
	defer goOn()
	write := make(chan error, 1)
	go func() { write <- master.put("k", "w") }()
	c.eventually(others[1].name+" has the entry", func() error {
		if last := others[1].node.Status().Last; last <= before {
			return fmt.Errorf("its log ends at %d", last)
		}
		return nil
	})
	select {
	case err := <-write:
		t.Errorf("answered with the entry on one disk: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if s := master.node.Status(); s.Commit > before {
		t.Errorf("committed up to %d with the entry on one disk", s.Commit)
	}
	theOther()
	goOn()
	if err := <-write; err != nil {
		t.Error(err)
	}
}

// With both followers' disks an entry is acknowledged before the master's has
// it, and the master may lose its own.
func TestAcknowledgedWithoutTheMastersDisk(t *testing.T) {
	c, disks := newClusterOnDisks(t, time.Minute)
	master := c.master()
	master.mustPut("k", "v")
	disk := disks[master.name]
	goOn := disk.stop()
	defer goOn()
	master.mustPut("k", "w")
	disk.lies.Store(true)
	c.net.isolate(master.name)
	c.master(master.name).mustRead("k", "w")
	goOn()
	master.kill()
	if disk.owed() == 0 {
		t.Error("the master's disk has lost nothing")
	}
	if err := disk.cutPower(); err != nil {
		t.Fatal(err)
	}
	c.net.heal()
	master.start()
	master.awaitStart()
	c.awaitReady()
	master.mustRead("k", "w")
}

// The power of one pod, or of all, goes off while they write. What was
// acknowledged is there, also when of all the one with the longest log does not
// come back at first.
func TestPowerCuts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	c, disks := newClusterOnDisks(t, time.Minute)
	for _, d := range disks {
		d.slow.Store(true)
	}
	lost := 0
	for range 10 {
		// While a second entry waits for the master's disk, nothing is committed.
		l := c.load(1 + 4*rng.IntN(2))
		l.awaitMore(1 + rng.IntN(30))
		var cut []*pod
		for _, name := range c.list {
			cut = append(cut, c.pods[name])
		}
		if rng.IntN(4) == 0 {
			cut = cut[rng.IntN(3):][:1]
		}
		for _, p := range cut {
			disks[p.name].dead.Store(true)
		}
		l.stop.Store(true)
		log := map[*pod]int{} // About how long it is on the disk.
		for _, p := range cut {
			p.node.port.Close() // The process ends; it does not step down.
			owed := disks[p.name].owed()
			log[p] = int(p.node.Status().Last) - owed
			lost += owed
		}
		for _, p := range cut {
			p.kill()
			if err := disks[p.name].cutPower(); err != nil {
				t.Fatal(err)
			}
		}
		slices.SortFunc(cut, func(a, b *pod) int { return log[a] - log[b] })
		first := cut[:max(1, len(cut)-1)]
		c.startAll(first)
		c.master()
		l.end()
		c.startAll(cut[len(first):])
	}
	if lost == 0 {
		t.Error("no write to a disk was lost")
	}
}

func (c *cluster) startAll(pods []*pod) {
	for _, p := range pods {
		p.start()
	}
	for _, p := range pods {
		p.awaitStart()
	}
	c.awaitReady()
}
