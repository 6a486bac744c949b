package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/policy"
	"github.com/batondb/baton/replication/internal/raftio"
	"github.com/batondb/baton/replication/internal/volume"
)

// CheckRecovery says why this pod's data must not become the beginning of a new
// history: another pod is the master, or the pods that answer can choose one, or
// one of them has more, or it is not known that what does not answer is lost. It
// returns nil when what this pod has is the best there is. From r it uses who is
// lost and, before Start, how to open the database.
func (n *Node) CheckRecovery(ctx context.Context, r replication.Recovery) error {
	own := n.volume.Identity()
	p := policy.Recovery{Self: n.MemberID(), Lost: r.Lost}
	if own.Stage == volume.Data && own.Retired == "" {
		p.Cluster = own.ClusterID
	}
	p.Master, _ = n.Master()
	if p.Cluster != "" && p.Master == "" {
		if err := n.askVoters(ctx, r, &p); err != nil {
			return err
		}
	}
	if because := p.Refusal(); because != "" {
		return fmt.Errorf("%w: %s", replication.ErrRecoveryRefused, because)
	}
	return nil
}

// askVoters finds out what this pod's log has, and what becomes of the other voters.
func (n *Node) askVoters(ctx context.Context, r replication.Recovery, p *policy.Recovery) (err error) {
	if p.Voters, err = n.votersOf(r); err != nil {
		return fmt.Errorf("%w: who votes is not known: %w", replication.ErrRecoveryRefused, err)
	}
	if e := n.engine.Load(); e != nil {
		p.Runs, p.Term, p.Last = true, e.replica.Raft.CurrentTerm(), lastEntry(e.replica)
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
func (n *Node) votersOf(r replication.Recovery) ([]replication.MemberID, error) {
	if e := n.engine.Load(); e != nil {
		return raftio.Voters(e.replica.Configuration()), nil
	}
	membership, err := readDisk(r)
	if err != nil || len(membership) == 0 {
		return nil, err // Without one it was the first entry, and not even that is there.
	}
	return raftio.Voters(raft.DecodeConfiguration(membership)), nil
}

// CheckData says why the data in r.Dir, its log included, cannot be read. No process
// may have r.Dir open.
func CheckData(ctx context.Context, r replication.Recovery) error {
	v, err := volume.Open(ctx, r.Dir, r.Name, foundWait, cmp.Or(r.Logger, slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	if v.Identity().Stage == volume.Data {
		_, err = readDisk(r)
	} else {
		err = fmt.Errorf("%w: %s has no data", replication.ErrRecoveryRefused, r.Dir)
	}
	return errors.Join(err, v.Close())
}

// readDisk reads the whole log, and returns the newest membership.
func readDisk(r replication.Recovery) ([]byte, error) {
	sm, end, err := r.Open()
	if err != nil {
		return nil, err
	}
	membership, err := raftio.ReadLog(r.Dir, r.Logger, sm)
	return membership, errors.Join(err, end())
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
func Recover(ctx context.Context, r replication.Recovery) (_ replication.Disk, err error) {
	r.Logger = cmp.Or(r.Logger, slog.New(slog.DiscardHandler))
	v, err := volume.Open(ctx, r.Dir, r.Name, foundWait, r.Logger)
	if err != nil {
		return replication.Disk{}, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	old := v.Identity()
	switch {
	case old.Stage != volume.Data || r.Cluster == "":
		return diskOf(old), fmt.Errorf("%w: %s has no data", replication.ErrRecoveryRefused, r.Dir)
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
		return rewrite(ctx, r, dir, raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{self}}))
	})
	return diskOf(v.Identity()), err
}

// rewrite writes the new history to dir. The old database is closed after it.
func rewrite(ctx context.Context, r replication.Recovery, dir string, configuration []byte) (err error) {
	sm, end, err := r.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := raftio.ReplayLog(ctx, r.Dir, r.Logger, sm); err != nil {
		return fmt.Errorf("replay the log: %w", err)
	}
	snapshot, err := sm.Snapshot()
	if err != nil {
		return err
	}
	return errors.Join(r.Write(ctx, dir, snapshot, configuration), snapshot.Close())
}

// inventory says what this pod has, for a person who looks at all of them.
func (n *Node) inventory(e *engine) []any {
	disk := n.Disk()
	last := lastEntry(e.replica)
	var missing []string
	for _, id := range e.replica.OtherVoters() {
		missing = append(missing, id.Pod())
	}
	return []any{
		"cluster", disk.Cluster, "term", e.replica.Raft.CurrentTerm(), "last_log_term", last.Term, "last_index", last.Index,
		"applied_index", e.replica.Applied.Value.Load(), "revision", n.PodStatus(context.Background()).Revision,
		"other_voters", strings.Join(missing, ", "),
	}
}
