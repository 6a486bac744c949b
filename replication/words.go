package replication

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/google/uuid"
)

// Role of a pod.
type Role string

const (
	// RoleNone: not a member yet, or not started.
	RoleNone Role = ""
	// RoleMaster leads and is ready to.
	RoleMaster Role = "master"
	// RoleFollower votes and does not lead.
	RoleFollower Role = "follower"
	// RoleLearner does not vote yet.
	RoleLearner Role = "learner"
)

// Status of this pod's part in the cluster.
type Status struct {
	Role Role
	// Master is the pod that is the master; empty: none is known.
	Master string
	// Term, and the last log index in the log, committed and applied.
	Term, Last, Commit, Applied uint64
	// LastContact is the time since the master was heard; zero on the master,
	// and before the first contact.
	LastContact time.Duration
	LogBytes    int64
	// Queued commands wait to be proposed or forwarded.
	Queued int
	Ready  bool
	// Because says why the pod is not ready.
	Because string
	// Cold: it is ready only so that the next pod is created, see readiness.
	Cold bool
	// Clone is there while a database is received.
	Clone *CloneProgress
}

// CloneProgress is how far the receiving of a database is.
type CloneProgress struct {
	// Source is the pod that sends.
	Source         string
	Bytes, Total   int64
	BytesPerSecond int64
}

// Mark is what a pod had after it applied an entry: the same on every pod (Raft
// paper, 5.2: state machine safety). Index 0: nothing is known.
type Mark struct {
	Index    uint64 // Of the entry.
	Revision int64
	Hash     uint64 // The running hash of all that was applied.
}

func (m Mark) String() string {
	return fmt.Sprintf("revision %d and hash %016x", m.Revision, m.Hash)
}

// Part is what can be read of a range of keys at a revision, or of a range of the history
// up to it: the same on every pod, however it lies on the disk. Equal ones have equal
// hashes.
type Part struct {
	History bool
	// From is the first key, or place in the history, and To the one after the last;
	// empty: there is no such end.
	From, To []byte
	Revision int64
	Versions int // How many were hashed; in the history, each with the one that it replaced.
	Bytes    int // Of their keys and values.
	Hash     [sha256.Size]byte
}

// Disk is what a data directory says of itself.
type Disk struct {
	Member  MemberID
	Cluster string
	// Replaces is the cluster that Cluster goes on from; mostly empty.
	Replaces string
	// Place is where the disk belongs; empty: it has not been told.
	Place string
	// Successor is the cluster whose history the data is to begin: what Recover has
	// begun and not ended. Mostly empty.
	Successor string
	// Condemned says why the data is of no use, see Node.Reclone; mostly empty.
	Condemned string
	// HasData is false of a disk that has an identity at most, or data that the
	// next Open sets aside.
	HasData bool
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

// AdoptedCluster is the cluster that a copy of cluster becomes in a place: the
// same one on each of its disks, and never the original.
func AdoptedCluster(cluster, place string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("baton adopt "+cluster+" "+place)).String()
}
