package volume

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/batondb/baton/replication"
)

const (
	lockName   = "lock"
	markerName = "member.json"
	// formatVersion is raised when an older version could not read the volume.
	formatVersion = 1
	lockPoll      = 100 * time.Millisecond
)

// Stage says how far a member's disk has come.
type Stage string

const (
	// Empty: there is an identity, and no data.
	Empty Stage = "empty"
	// Bootstrapping: the cluster's uuid is decided; the first log entry may be missing.
	Bootstrapping Stage = "bootstrapping"
	// Data: there is a database.
	Data Stage = "data"
)

// Identity is the content of member.json.
type Identity struct {
	Format    int    `json:"format"`
	MemberID  string `json:"member_id"`
	ClusterID string `json:"cluster_id"`
	Stage     Stage  `json:"stage"`
	// JoinedIndex is the log index of the first committed membership with this
	// member in it; 0: never seen. A membership after it without this member
	// means that the member was removed.
	JoinedIndex uint64 `json:"joined_index,omitempty"`
	// Retired says why the data must not be used again. The next Open sets it aside.
	Retired string `json:"retired,omitempty"`
	// Condemned says why the data is of no use any more. It is kept, and the member
	// votes on, until a master has taken its vote away; then it is retired.
	Condemned string `json:"condemned,omitempty"`
	// Successor is the cluster that the data is about to be the beginning of: the
	// data must not be served any more until it is.
	Successor string `json:"successor,omitempty"`
	// Place is where the volume belongs, as Kubernetes knows it; empty: not known.
	Place string `json:"place,omitempty"`
	// Replaces is the cluster that this one goes on from, after a recovery or
	// an adoption.
	Replaces string `json:"replaces_cluster_id,omitempty"`
}

// Cluster is the cluster that this disk has data of. A disk without data may
// have heard of one, and still has nothing to prove it by.
func (id Identity) Cluster() string {
	if id.Stage == Empty {
		return ""
	}
	return id.ClusterID
}

// Volume is a locked data directory.
type Volume struct {
	dir  string
	lock *os.File

	writing sync.Mutex // Guards the marker's file. It comes before mu.
	mu      sync.Mutex // Guards id; nobody who holds it waits for the disk.
	id      Identity
}

// Open locks dir, waiting up to wait for another holder, and reads the
// identity or mints one for pod.
func Open(ctx context.Context, dir, pod string, wait time.Duration, log *slog.Logger) (*Volume, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := acquire(ctx, filepath.Join(dir, lockName), wait, log)
	if err != nil {
		return nil, err
	}
	v := &Volume{dir: dir, lock: lock}
	if err := v.load(pod, log); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

func acquire(ctx context.Context, path string, wait time.Duration, log *slog.Logger) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock file: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for logged := false; ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !logged {
			logged = true
			log.Warn("another process has this data directory open; waiting for it to end", "lock", path, "at_most", wait)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("%w: %s is held; end the other process, or give this one a directory of its own", replication.ErrLocked, path)
		case <-time.After(lockPoll):
		}
	}
}

// Read gives the identity in dir, without its lock. A directory without one
// gives the zero Identity, of Stage Empty. A member id that no pod writes is
// refused: parts of it become names of directories.
func Read(dir string) (Identity, error) {
	id := Identity{Stage: Empty}
	raw, err := os.ReadFile(filepath.Join(dir, markerName))
	if errors.Is(err, os.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(raw, &id); err != nil {
		return id, fmt.Errorf("%w: %s cannot be read (%v); restore it, or empty the directory to start as a new member", replication.ErrForeign, markerName, err)
	}
	if id.Format != formatVersion {
		return id, fmt.Errorf("%w: format %d, this version knows %d", replication.ErrForeign, id.Format, formatVersion)
	}
	if !replication.MemberID(id.MemberID).Valid() {
		return id, fmt.Errorf("%w: %s has the member id %q, which no pod writes; restore the file, or empty the directory to start as a new member",
			replication.ErrForeign, markerName, id.MemberID)
	}
	return id, nil
}

// readOf is Read of a directory that must be the pod's, or nobody's.
func readOf(dir, pod string) (Identity, error) {
	id, err := Read(dir)
	if err != nil {
		return id, err
	}
	if owner := replication.MemberID(id.MemberID).Pod(); id.MemberID != "" && owner != pod {
		return id, fmt.Errorf("%w: it belongs to %q, this pod is %q", replication.ErrForeign, id.MemberID, pod)
	}
	return id, nil
}

func (v *Volume) load(pod string, log *slog.Logger) error {
	if err := v.finishReplacing(pod); err != nil {
		return err
	}
	id, err := readOf(v.dir, pod)
	if err != nil {
		return err
	}
	if id.MemberID == "" {
		return v.mint(pod, "", log)
	}
	_, unique, _ := strings.Cut(id.MemberID, "/")
	if id.Retired != "" {
		log.Warn("the data of an earlier member is set aside; the pod starts as a new member", "member", id.MemberID, "because", id.Retired, "moved_to", "removed-"+unique)
		if err := v.setAside("removed-" + unique); err != nil {
			return err
		}
		if id.Stage == Data {
			v.dropOlder("removed-"+unique, log)
		}
		return v.mint(pod, id.ClusterID, log)
	}
	v.id = id
	return nil
}

// dropOlder removes what earlier members left, once a later one, which had all
// of the cluster's data, has left its own: a pod that comes and goes must not fill
// its volume. A failure costs only space.
func (v *Volume) dropOlder(keep string, log *slog.Logger) {
	older, err := filepath.Glob(filepath.Join(v.dir, "removed-*"))
	for _, path := range older {
		if filepath.Base(path) == keep {
			continue
		}
		log.Info("the data of a still earlier member is removed", "path", path)
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		log.Warn("old data could not be removed; it only takes space", "error", err)
	}
}

// mint gives the disk a new identity. It keeps the cluster of a retired one: a
// disk that has known a cluster must never found another. Files without a
// marker are of nobody knows whom: they are kept, and never used.
func (v *Volume) mint(pod, cluster string, log *slog.Logger) error {
	unique := uuid.NewString()
	strays, err := v.movable()
	if err != nil {
		return err
	}
	if len(strays) > 0 {
		log.Warn("files without a member.json are set aside", "files", strays, "moved_to", "stray-"+unique)
		if err := v.setAside("stray-" + unique); err != nil {
			return err
		}
	}
	v.id = Identity{Format: formatVersion, MemberID: pod + "/" + unique, ClusterID: cluster, Stage: Empty}
	return v.write(v.id)
}

// movable lists what makes up a member's data, the marker last: as long as it
// is there, moving can be repeated after a crash.
func (v *Volume) movable() ([]string, error) {
	entries, err := os.ReadDir(v.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	marker := false
	for _, e := range entries {
		switch n := e.Name(); {
		case n == markerName:
			marker = true
		case n == "raft", strings.HasPrefix(n, "store.db"):
			names = append(names, n)
		}
	}
	if marker {
		names = append(names, markerName)
	}
	return names, nil
}

func (v *Volume) setAside(name string) error {
	names, err := v.movable()
	if err != nil {
		return err
	}
	target := filepath.Join(v.dir, name)
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	if info, err := os.Lstat(target); err != nil || !info.IsDir() {
		return cmp.Or(err, fmt.Errorf("%w: %s is a link, and data would leave the directory through it; remove it", replication.ErrForeign, target))
	}
	for _, n := range names {
		if n == markerName {
			if err := syncDir(target); err != nil {
				return err
			}
		}
		if err := os.Rename(filepath.Join(v.dir, n), filepath.Join(target, n)); err != nil {
			return fmt.Errorf("set data aside: %w", err)
		}
	}
	return errors.Join(syncDir(target), syncDir(v.dir))
}

// Identity returns what member.json says.
func (v *Volume) Identity() Identity {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.id
}

func (v *Volume) set(id Identity) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.id = id
}

// Update changes the identity, atomically and durably.
func (v *Volume) Update(change func(*Identity)) error {
	v.writing.Lock()
	defer v.writing.Unlock()
	before := v.Identity()
	id := before
	change(&id)
	if id == before {
		return nil
	}
	if err := v.write(id); err != nil {
		return err
	}
	v.set(id)
	return nil
}

func (v *Volume) write(id Identity) error { return writeMarker(v.dir, id) }

func writeMarker(dir string, id Identity) error {
	raw, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, markerName)
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", markerName, err)
	}
	_, err = f.Write(append(raw, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", markerName, err)
	}
	return nil
}

// Close lets the next process in.
func (v *Volume) Close() error { return v.lock.Close() }

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
