package workload

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// endTimeout bounds what must come to rest when nothing breaks any more.
const endTimeout = 30 * time.Second

// Status is what a pod says about itself: of the cluster, and of the pod.
func Status(ctx context.Context, pod string, conn *grpc.ClientConn) (*kvv1.StatusResponse, *kvv1.PodStatus, error) {
	s, err := kvv1.NewClusterServiceClient(conn).Status(ctx, &kvv1.StatusRequest{ThisPodOnly: true})
	if err != nil {
		return nil, nil, err
	}
	for _, own := range s.Pods {
		if own.Name == pod {
			return s, own, nil
		}
	}
	return s, nil, fmt.Errorf("%s does not speak about itself", pod)
}

// Whole asks a pod whether the members are so many voters, one of them the master.
func Whole(ctx context.Context, conn *grpc.ClientConn, pods int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s, err := kvv1.NewClusterServiceClient(conn).Status(ctx, &kvv1.StatusRequest{})
	if err != nil {
		return err
	}
	masters, followers := 0, 0
	for _, p := range s.Pods {
		switch p.Role {
		case kvv1.PodStatus_ROLE_MASTER:
			masters++
		case kvv1.PodStatus_ROLE_FOLLOWER:
			followers++
		}
	}
	if len(s.Pods) != pods || masters != 1 || followers != pods-1 {
		return fmt.Errorf("the members are %v, and %d pods should be", s.Pods, pods)
	}
	return nil
}

// Rest waits until nothing changes any more: all leases have ended. It returns
// the newest revision.
func Rest(ctx context.Context, conn *grpc.ClientConn) (revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	// Writes whose callers have given up may be on their way. (Simulation, seed 111524.)
	_ = Pause(ctx, 2*time.Second)
	for {
		call, stop := context.WithTimeout(ctx, 3*time.Second)
		left, err := kvv1.NewKVServiceClient(conn).Range(call, &kvv1.RangeRequest{Key: []byte("lease/"), RangeEnd: []byte("lease0")})
		stop()
		revision = left.GetHeader().GetRevision()
		if err == nil && len(left.Kvs) == 0 {
			return revision, nil
		}
		if Pause(ctx, 100*time.Millisecond) != nil {
			return revision, fmt.Errorf("keys outlive their leases: %v (%v)", left.GetKvs(), err)
		}
	}
}

// CatchUp waits for all watchers to have gone through a revision.
func (w *Workload) CatchUp(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	for {
		behind := w.behind(revision)
		if len(behind) == 0 {
			return nil
		}
		if Pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("never went through revision %d: %v", revision, behind)
		}
	}
}

// Pause returns after d, or with ctx's error.
func Pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
