package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication/internal/policy"
	"github.com/batondb/baton/replication/internal/raftlog"
	"github.com/batondb/baton/replication/internal/slogger"
	"github.com/batondb/baton/replication/internal/volume"
)

// ErrRecoveryRefused is returned when a recovery is not needed, or would lose what
// another pod has.
var ErrRecoveryRefused = errors.New("no recovery")

// CheckRecovery says why this pod's data must not become the beginning of a
// new history: another pod is the master, or the pods that answer can choose
// one, or one of them has more, or it is not known that what does not answer is
// lost. It is nil when what this pod has is the best there is. Of r it takes who
// is lost, and, before Start, how to open the database.
func (n *Node) CheckRecovery(ctx context.Context, r Recovery) error {
	own := n.volume.Identity()
	p := policy.Recovery{Self: n.MemberID(), Lost: r.Lost}
	if own.Stage == volume.Data && own.Retired == "" {
		p.Cluster = own.ClusterID
	}
	p.Master, _ = n.Master()
	if p.Cluster != "" && p.Master == "" {
		if err := r.ask(ctx, n, &p); err != nil {
			return err
		}
	}
	if because := p.Refusal(); because != "" {
		return fmt.Errorf("%w: %s", ErrRecoveryRefused, because)
	}
	return nil
}

// ask finds out what this pod's log has, and what becomes of the other voters.
func (r Recovery) ask(ctx context.Context, n *Node, p *policy.Recovery) (err error) {
	if p.Voters, err = r.votersOf(n); err != nil {
		return fmt.Errorf("%w: who votes is not known: %w", ErrRecoveryRefused, err)
	}
	if e := n.engine.Load(); e != nil {
		p.Runs, p.Last = true, e.replica.storage.lastEntry()
	}
	pods := n.candidatePods()
	for _, id := range p.Voters {
		if pod := id.Pod(); pod != n.opts.Name && !slices.Contains(pods, pod) {
			pods = append(pods, pod)
		}
	}
	p.Seen, p.Fate = seenAs(n.inspect(ctx, pods)), map[string]policy.Fate{}
	if r.Gone == nil {
		return nil
	}
	for _, pod := range p.Silent() {
		gone, err := r.Gone(ctx, pod)
		fate := policy.Fate{Gone: gone}
		if err != nil {
			fate.Doubt = err.Error()
		}
		p.Fate[pod] = fate
	}
	return nil
}

// votersOf are the voters of the newest membership in the node's log.
func (r Recovery) votersOf(n *Node) ([]MemberID, error) {
	if e := n.engine.Load(); e != nil {
		return voters(e.replica.configuration()), nil
	}
	membership, err := r.read()
	if err != nil || len(membership) == 0 {
		return nil, err // Without one it was the first entry, and not even that is there.
	}
	return voters(raft.DecodeConfiguration(membership)), nil
}

// CheckData says why the data in r.Dir, its log included, cannot be read. No process
// may have r.Dir open.
func CheckData(ctx context.Context, r Recovery) error {
	v, err := volume.Open(ctx, r.Dir, r.Name, foundWait, cmp.Or(r.Logger, slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	if v.Identity().Stage == volume.Data {
		_, err = r.read()
	} else {
		err = fmt.Errorf("%w: %s has no data", ErrRecoveryRefused, r.Dir)
	}
	return errors.Join(err, v.Close())
}

// read reads the whole log, and returns the newest membership.
func (r Recovery) read() ([]byte, error) {
	sm, end, err := r.Open()
	if err != nil {
		return nil, err
	}
	membership := sm.Durable().Configuration
	log, err := r.openLog()
	if err == nil {
		err = errors.Join(eachEntry(log, sm.Durable().Index, func(l *raft.Log) error {
			if l.Type == raft.LogConfiguration {
				membership = l.Data
			}
			return intact(l)
		}), log.Close())
	}
	return membership, errors.Join(err, end())
}

// Recovery is what CheckRecovery and Recover need.
type Recovery struct {
	// Dir is the data directory, which no process may have open; Name the pod's.
	Dir, Name string
	// Lost are the pods whose data a person says is lost for good.
	Lost []string
	// Gone says whether it is known otherwise that a pod that does not answer has
	// lost its data; an error says that it may not be lost, whatever a person says.
	// nil: nothing else is known.
	Gone func(ctx context.Context, pod string) (bool, error)
	// Cluster is the new one.
	Cluster string
	// Place is where the new data belongs; empty: where the old did.
	Place string
	// Open opens the database in Dir.
	Open func() (sm StateMachine, end func() error, err error)
	// Write makes a snapshot stream the database of a new history in dir, at
	// index 1 and term 1, with the given membership.
	Write  func(ctx context.Context, dir string, snapshot io.Reader, configuration []byte) error
	Logger *slog.Logger // nil: none
}

// Succeed notes that this pod's data is to become the beginning of a cluster: it
// is not served any more after the next start, and Recover is what remains to be
// done.
func (n *Node) Succeed(cluster string) error {
	return n.volume.Update(func(id *volume.Identity) { id.Successor = cluster })
}

// Recover makes what Dir has, its whole log included, the beginning of a new
// history: the cluster r.Cluster, whose only member this pod is. It is for a person,
// when a majority of the volumes is lost, and for copies. The old data is set
// aside. It asks nobody; see CheckRecovery. What a crash, or an error, has cut is
// done by calling it again; meanwhile the old data must not be used.
func Recover(ctx context.Context, r Recovery) (_ Disk, err error) {
	orDefault(&r.Logger, slog.New(slog.DiscardHandler))
	v, err := volume.Open(ctx, r.Dir, r.Name, foundWait, r.Logger)
	if err != nil {
		return Disk{}, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	old := v.Identity()
	switch {
	case old.Stage != volume.Data || r.Cluster == "":
		return diskOf(old), fmt.Errorf("%w: %s has no data", ErrRecoveryRefused, r.Dir)
	case old.ClusterID == r.Cluster:
		return diskOf(old), nil
	}
	// The replay below applies what was perhaps never committed.
	if err := v.Update(func(id *volume.Identity) { id.Successor = r.Cluster }); err != nil {
		return diskOf(old), err
	}
	err = v.Replace(func(id *volume.Identity) {
		id.ClusterID, id.Replaces, id.Place = r.Cluster, old.ClusterID, cmp.Or(r.Place, old.Place)
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
	log, err := r.openLog()
	if err != nil {
		return err
	}
	defer log.Close()
	if err := log.Reconcile(sm.Durable().Index, sm.Durable().Term); err != nil {
		return err
	}
	machine := &fsm{sm: sm, applied: &appliedIndex{}, trail: &trail{}, members: func(uint64, raft.Configuration) {}, fail: func(error) {}}
	err = eachEntry(log, sm.Applied(), func(l *raft.Log) error {
		if l.Type == raft.LogCommand || l.Type == raft.LogConfiguration {
			machine.ApplyBatch([]*raft.Log{l})
		}
		return errors.Join(machine.broken, ctx.Err())
	})
	if err != nil {
		return err
	}
	return sm.Flush(ctx, sm.Applied())
}

// openLog opens the log of a directory that no process has open. Nothing is
// written to it but what opening repairs.
func (r Recovery) openLog() (*raftlog.Log, error) {
	return raftlog.Open(raftlog.Options{
		Dir: filepath.Join(r.Dir, "raft"), Logger: slogger.New(cmp.Or(r.Logger, slog.New(slog.DiscardHandler))),
		Limit: 1 << 62, HoldLimit: 1 << 62, Hang: time.Hour, Failed: func(error) {},
		Floor: func() uint64 { return 0 },
	})
}

// eachEntry reads a log from the entry after an index to its end.
func eachEntry(log *raftlog.Log, after uint64, do func(*raft.Log) error) error {
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	for index := max(first, after+1); index <= last; index++ {
		var l raft.Log
		if err := log.GetLog(index, &l); err != nil {
			return err
		}
		if err := do(&l); err != nil {
			return err
		}
	}
	return nil
}

// inventory says what this pod has, for a person who looks at all of them.
func (n *Node) inventory(e *engine) []any {
	disk := n.Disk()
	last := e.replica.storage.lastEntry()
	var missing []string
	for _, id := range e.replica.otherVoters() {
		missing = append(missing, id.Pod())
	}
	return []any{
		"cluster", disk.Cluster, "term", e.replica.raft.CurrentTerm(), "last_log_term", last.Term, "last_index", last.Index,
		"applied_index", e.replica.applied.value.Load(), "revision", n.PodStatus(context.Background()).Revision,
		"other_voters", strings.Join(missing, ", "),
	}
}
