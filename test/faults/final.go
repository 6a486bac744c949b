package faults

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/history"
)

// final is what is asked of a cluster that was healed.
type final struct {
	cluster *Cluster
	load    *workload
	log     func(format string, args ...any)
	found   []history.Violation
}

func (f *final) add(check, format string, args ...any) {
	f.found = append(f.found, history.Violation{Check: check, Text: fmt.Sprintf(format, args...)})
}

// heal undoes all damage, and waits for the promised state.
func (f *final) heal(ctx context.Context) {
	f.cluster.Network.Heal()
	for _, p := range f.cluster.Pods {
		f.cluster.Signal(p, syscall.SIGCONT)
		if err := f.cluster.Start(p); err != nil {
			f.add("heal", "%v", err)
		}
	}
	begun := time.Now()
	if err := f.cluster.WaitReady(ctx, readyTimeout); err != nil {
		f.add("heal", "%v", err)
	}
	f.log("healed in %v", time.Since(begun).Round(time.Millisecond))
	s, err := newSession(99, f.load.seed, f.load.recorder, f.cluster)
	if err != nil {
		f.add("heal", "%v", err)
		return
	}
	defer s.close()
	op := &history.Op{Name: "last", Writes: []history.Write{{Key: "last", Value: s.value()}}}
	s.write(ctx, op)
	if op.Outcome != history.OK {
		f.add("heal", "no write is accepted after the end of all faults: %s", op.Error)
	}
}

// rest waits until nothing changes any more: all leases have ended. It returns
// the newest revision.
func (f *final) rest(ctx context.Context) int64 {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		call, stop := context.WithTimeout(ctx, 3*time.Second)
		left, err := kvv1.NewKVServiceClient(f.cluster.Pods[0].conn).Range(call, &kvv1.RangeRequest{Key: []byte("lease/"), RangeEnd: []byte("lease0")})
		stop()
		if err == nil && len(left.Kvs) == 0 {
			return left.Header.Revision
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			f.add("lease", "keys outlive their leases: %v (%v)", left.GetKvs(), err)
			return left.GetHeader().GetRevision()
		}
	}
}

// catchUp waits for all watchers to have gone through a revision.
func (f *final) catchUp(ctx context.Context, revision int64) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		behind := f.load.caughtUp(revision)
		if len(behind) == 0 {
			return
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			f.add("watch", "never went through revision %d: %v", revision, behind)
			return
		}
	}
}

// copies asks every pod for its hash and all its keys at a revision.
func (f *final) copies(ctx context.Context, revision int64) []history.Copy {
	var copies []history.Copy
	for _, p := range f.cluster.Pods {
		c, err := f.copy(ctx, p, revision)
		if err != nil {
			f.add("copies", "%s: %v", p.Name, err)
			continue
		}
		copies = append(copies, c)
	}
	return copies
}

func (f *final) copy(ctx context.Context, p *Pod, revision int64) (history.Copy, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	read := &history.Read{Key: "\x00", End: "\x00", Consistency: history.Local, MinRevision: revision, At: revision}
	all, err := sendScan(read)(ctx, p.conn)
	if err != nil {
		return history.Copy{}, fmt.Errorf("scan: %w", err)
	}
	hash, err := kvv1.NewMaintenanceServiceClient(p.conn).Hash(ctx, &kvv1.HashRequest{Revision: revision})
	if err != nil {
		return history.Copy{}, fmt.Errorf("hash: %w", err)
	}
	return history.Copy{Pod: p.Name, Revision: hash.Revision, Hash: hash.Hash, KVs: all.KVs}, nil
}

// rewatch watches everything that a pod still has, up to a revision.
func (f *final) rewatch(ctx context.Context, p *Pod, revision int64) *history.Watch {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, own, err := f.cluster.status(ctx, p)
	if err != nil {
		f.add("rewatch", "%s: %v", p.Name, err)
		return nil
	}
	w := history.NewWatch("again from "+p.Name, "\x00", "\x00", max(1, own.OldestRevision), true)
	stream, err := kvv1.NewWatchServiceClient(p.conn).Watch(ctx, &kvv1.WatchRequest{
		Key: []byte("\x00"), RangeEnd: []byte("\x00"), StartRevision: w.Start, PrevKv: true, ProgressIntervalMs: 100,
	})
	w.Open()
	for err == nil && w.Through < revision {
		var m *kvv1.WatchResponse
		if m, err = stream.Recv(); err == nil {
			w.Receive(m, f.load.recorder.Now())
		}
	}
	if err != nil {
		f.add("rewatch", "%s from %d: %v", p.Name, w.Start, err)
	}
	return w
}

// restartAll kills everything once more: what was answered must be on disk.
func (f *final) restartAll(ctx context.Context) {
	f.cluster.Kill(f.cluster.Pods...)
	for _, p := range f.cluster.Pods {
		if err := f.cluster.Start(p); err != nil {
			f.add("restart", "%v", err)
		}
	}
	if err := f.cluster.WaitReady(ctx, readyTimeout); err != nil {
		f.add("restart", "%v", err)
	}
}

// sample records what every pod says about itself, until ctx ends.
func (w *workload) sample(ctx context.Context) {
	for pause(ctx, 100*time.Millisecond) == nil {
		for _, p := range w.cluster.Pods {
			s, own, err := w.cluster.status(ctx, p)
			if err != nil {
				continue
			}
			w.recorder.Sample(history.NewSample(s))
			for _, alarm := range own.Alarms {
				w.alarm(p.Name, alarm)
			}
		}
	}
}

// checkCrashes reports pods that ended without being told to: no fault here
// gives one a reason.
func (f *final) checkCrashes() {
	for _, p := range f.cluster.Pods {
		if n := p.Crashes(); n > 0 {
			f.add("crash", "%s ended by itself %d times: see %s", p.Name, n, p.Log)
		}
	}
}

// disasters are lines that must not be in any log.
var disasters = []string{"DATA RACE", "panic:", "fatal error:", "unexpected fault address"}

// scanLogs looks for disasters in what the pods printed.
func (f *final) scanLogs() {
	for _, p := range f.cluster.Pods {
		file, err := os.Open(p.Log)
		if err != nil {
			f.add("logs", "%v", err)
			continue
		}
		reader := bufio.NewReader(file)
		for {
			line, err := reader.ReadString('\n')
			for _, disaster := range disasters {
				if strings.Contains(line, disaster) {
					f.add("logs", "%s: %s", p.Log, strings.TrimSpace(line))
				}
			}
			if err == io.EOF || err != nil {
				break
			}
		}
		_ = file.Close()
	}
}

// checkAlarms reports every alarm: no fault here is one that a pod must call a
// person for.
func (f *final) checkAlarms() {
	for text, count := range f.load.alarms {
		f.add("alarm", "%s (%d times)", text, count)
	}
}
