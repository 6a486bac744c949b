package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication/internal/raftlog"
	"github.com/batondb/baton/replication/internal/slogger"
	"github.com/batondb/baton/replication/internal/volume"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"
)

// ErrQuorum is returned when a recovery is not needed, or would lose what
// another pod has.
var ErrQuorum = errors.New("no recovery")

// CheckRecovery says why this pod's data must not become the beginning of a
// new history: another pod is the master, or the pods that answer can choose
// one, or one of them has more. It is nil when what this pod has is the best
// there is within its reach.
func (n *Node) CheckRecovery(ctx context.Context) error {
	own := n.volume.Identity()
	if own.Stage != volume.Data || own.Retired != "" {
		return fmt.Errorf("%w: this pod has no data; run it where there is some", ErrQuorum)
	}
	if pod, ok := n.Master(); ok {
		return fmt.Errorf("%w: %s is the master", ErrQuorum, pod)
	}
	seen := n.inspect(ctx, n.neighbours())
	e := n.engine.Load()
	all, answer := []MemberID{MemberID(own.MemberID)}, 1
	if e != nil {
		all = voters(e.raft.GetConfiguration().Configuration())
	}
	for pod, s := range seen {
		switch {
		case !s.HasData || s.ClusterId != own.ClusterID:
		case s.Master:
			return fmt.Errorf("%w: %s is the master", ErrQuorum, pod)
		case e == nil:
			return fmt.Errorf("%w: %s has data and answers: start this pod too, and if they cannot choose a master, run it again then", ErrQuorum, pod)
		case longer(s, e):
			return fmt.Errorf("%w: %s has more than this pod (last_log_term %d, last_index %d): run it there", ErrQuorum, pod, s.LastLogTerm, s.LastIndex)
		}
	}
	for _, id := range all {
		if s := seen[id.Pod()]; s != nil && s.MemberId == string(id) {
			answer++
		}
	}
	if answer > len(all)/2 && len(all) > 1 {
		return fmt.Errorf("%w: %d of %d voters answer, which is a quorum: they choose a master", ErrQuorum, answer, len(all))
	}
	return nil
}

// longer says whether a pod's log has more than this one's, as votes go: by the
// term of the last entry first, for a longer log may end in what nobody confirmed.
func longer(s *peerv1.InspectResponse, e *engine) bool {
	index, term := e.lastEntry()
	return cmp.Or(cmp.Compare(s.LastLogTerm, term), cmp.Compare(s.LastIndex, index)) > 0
}

// lastEntry is the end of the log, or of the database if the log is empty.
func (e *engine) lastEntry() (index, term uint64) {
	var last raft.Log
	index, err := e.storage.log.LastIndex()
	if err == nil && index > 0 && e.storage.log.GetLog(index, &last) == nil {
		return last.Index, last.Term
	}
	at := e.storage.sm.Durable()
	return at.Index, at.Term
}

// Recovery is what Recover needs.
type Recovery struct {
	// Dir is the data directory, which no process may have open; Name the pod's.
	Dir, Name string
	// Open opens the database in Dir.
	Open func() (sm StateMachine, end func() error, err error)
	// Write makes a snapshot stream the database of a new history in dir, at
	// index 1 and term 1, with the given membership.
	Write  func(ctx context.Context, dir string, snapshot io.Reader, configuration []byte) error
	Logger *slog.Logger // nil: none
}

// Recover makes what Dir has, its whole log included, the beginning of a new
// history: a new cluster whose only member this pod is. It is for a person, when
// a majority of the volumes is lost. The old data is set aside. It asks nobody;
// see CheckRecovery.
func Recover(ctx context.Context, r Recovery) (_ Disk, err error) {
	orDefault(&r.Logger, slog.New(slog.DiscardHandler))
	v, err := volume.Open(ctx, r.Dir, r.Name, foundWait, r.Logger)
	if err != nil {
		return Disk{}, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	old := v.Identity()
	if old.Stage != volume.Data {
		return diskOf(old), fmt.Errorf("%w: %s has no data", ErrQuorum, r.Dir)
	}
	err = v.Replace(func(id *volume.Identity) {
		id.ClusterID, id.Replaces, id.Place = uuid.NewString(), old.ClusterID, old.Place
	}, func(dir string, id volume.Identity) error {
		self := raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(id.MemberID), Address: raft.ServerAddress(id.MemberID)}
		return r.rewrite(ctx, dir, raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{self}}))
	})
	return diskOf(v.Identity()), err
}

// rewrite writes the new history to dir. The old database is closed after it.
func (r Recovery) rewrite(ctx context.Context, dir string, configuration []byte) (err error) {
	sm, end, err := r.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := r.replay(ctx, sm); err != nil {
		return fmt.Errorf("replay the log: %w", err)
	}
	snapshot, err := sm.Snapshot()
	if err != nil {
		return err
	}
	return errors.Join(r.Write(ctx, dir, snapshot, configuration), snapshot.Close())
}

// replay applies all of the log: whether its last entries were acknowledged is
// not known any more, and those that were must not be lost.
func (r Recovery) replay(ctx context.Context, sm StateMachine) error {
	var failed error
	log, err := raftlog.Open(raftlog.Options{
		Dir: filepath.Join(r.Dir, "raft"), Logger: slogger.New(r.Logger),
		Limit: 1 << 62, HoldLimit: 1 << 62, Hang: time.Hour, Failed: func(err error) { failed = err },
		Floor: func() uint64 { return 0 },
	})
	if err != nil {
		return err
	}
	defer log.Close()
	if err := log.Reconcile(sm.Durable().Index, sm.Durable().Term); err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	machine := &fsm{sm: sm, applied: &appliedIndex{}, members: func(uint64, raft.Configuration) {}, fail: func(error) {}}
	for index := sm.Applied() + 1; index <= last; index++ {
		var e raft.Log
		if err := log.GetLog(index, &e); err != nil {
			return err
		}
		if e.Type == raft.LogCommand || e.Type == raft.LogConfiguration {
			machine.ApplyBatch([]*raft.Log{&e})
		}
		if err := errors.Join(machine.broken, failed, ctx.Err()); err != nil {
			return err
		}
	}
	return sm.Flush(ctx, sm.Applied())
}

// inventory says what this pod has, for a person who looks at all of them.
func (n *Node) inventory(e *engine) []any {
	disk := n.Disk()
	index, term := e.lastEntry()
	var missing []string
	for _, id := range e.otherVoters() {
		missing = append(missing, id.Pod())
	}
	return []any{
		"cluster", disk.Cluster, "term", e.raft.CurrentTerm(), "last_log_term", term, "last_index", index,
		"applied_index", e.applied.value.Load(), "revision", n.PodStatus(context.Background()).Revision,
		"other_voters", strings.Join(missing, ", "),
	}
}
