package place

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/batondb/baton/internal/sleep"
	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/node"
)

const (
	// askPlace bounds what a pod with data asks before it starts. Without an
	// answer it goes on, and asks again while it runs.
	askPlace = time.Second
	// Pause lies between two looks at a volume that is out of place.
	Pause = time.Second
)

// Settler holds a pod back while its data must not be served.
type Settler struct {
	Pod *kubernetes.Pod
	// Dir is the data directory, Name the pod's.
	Dir, Name string
	// Say is called with the reason why the pod waits, and with "" when the wait is over.
	Say func(because string)
	// Begin makes the data the beginning of a cluster, in a place.
	Begin  func(ctx context.Context, cluster, place string) error
	Logger *slog.Logger
}

// Settle returns when the data may be served: when it belongs to this place, and to
// the cluster of this StatefulSet. Until then it waits for a person; or it does
// what a person has decided, here or in another pod. A new volume has nothing to
// settle.
func (s *Settler) Settle(ctx context.Context) error {
	defer s.Say("")
	for said, labelled := "", true; ; {
		disk, err := node.Examine(s.Dir)
		if err != nil || !disk.HasData {
			return nil // An error: opening it reports the same.
		}
		f := s.facts(ctx, disk)
		v := Judge(f)
		if v.Because == "" {
			return nil
		}
		if v.Because != said {
			said = v.Because
			s.Say(said)
			s.Logger.Error("this pod does not serve: " + said)
		}
		if labelled {
			labelled = s.unlabel(ctx) != nil
		}
		if err := s.carryOut(ctx, v, f.Place); err != nil && !errors.Is(err, replication.ErrLocked) {
			return err
		}
		if !sleep.For(ctx, Pause) {
			return ctx.Err()
		}
	}
}

// facts asks what can be known at once.
func (s *Settler) facts(ctx context.Context, disk replication.Disk) Facts {
	ctx, cancel := context.WithTimeout(ctx, askPlace)
	defer cancel()
	f := Facts{Disk: disk, Namespace: s.Pod.Namespace()}
	var err error
	f.Place, err = s.Pod.Place(ctx)
	if err != nil && s.Pod.InPlace(disk.Place) {
		f.Place = disk.Place // As far as can be known now.
	}
	f.Record, f.RecordErr = s.Pod.Record(ctx)
	if errors.Is(f.RecordErr, kubernetes.ErrNoRecord) {
		f.RecordErr = nil
	}
	return f
}

// unlabel removes the label of an earlier process, or of the pod that a backup was
// made of: others give up their copies when a pod is the master.
func (s *Settler) unlabel(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askPlace)
	defer cancel()
	return s.Pod.SetRole(ctx, "")
}

// carryOut does with the data what was decided.
func (s *Settler) carryOut(ctx context.Context, v Verdict, place string) error {
	switch {
	case v.Begins != "":
		return s.Begin(ctx, v.Begins, place)
	case v.Joins != "":
		// Before it leads it is not known that the copy that was chosen is whole.
		if led, err := s.Pod.Led(ctx); err != nil || !led {
			return nil //nolint:nilerr // It is asked again.
		}
		return node.SetAside(ctx, s.Dir, s.Name, v.Joins, v.Because)
	}
	return nil
}
