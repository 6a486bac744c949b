package faults

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/batondb/baton/test/history"
	"github.com/batondb/baton/test/workload"
)

// final is what is asked of a cluster that was healed.
type final struct {
	cluster *Cluster
	load    *workload.Workload
	alarms  map[string]int // What pods raised alarms for; the sampler's.
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
		_ = p.Resume() // An error: it does not run.
		if err := f.cluster.Start(p); err != nil {
			f.add("heal", "%v", err)
		}
	}
	begun := time.Now()
	if err := f.cluster.WaitReady(ctx, readyTimeout); err != nil {
		f.add("heal", "%v", err)
	}
	f.log("healed in %v", time.Since(begun).Round(time.Millisecond))
	if err := f.load.Last(ctx); err != nil {
		f.add("heal", "no write is accepted after the end of all faults: %v", err)
	}
}

// copies asks every pod for its hash and all its keys at a revision.
func (f *final) copies(ctx context.Context, revision int64) []history.Copy {
	var copies []history.Copy
	for _, p := range f.cluster.Pods {
		c, err := workload.Copy(ctx, p.Name, p.Conn(), revision)
		if err != nil {
			f.add("copies", "%s: %v", p.Name, err)
			continue
		}
		copies = append(copies, c)
	}
	return copies
}

// rewatch watches everything that each pod still has, up to a revision.
func (f *final) rewatch(ctx context.Context, revision int64) (seen []*history.Watch) {
	for _, p := range f.cluster.Pods {
		status, err := p.Status(ctx, true)
		if err == nil {
			var w *history.Watch
			if w, err = f.load.Rewatch(ctx, p.Name, p.Conn(), status.Pods[0].OldestRevision, revision); err == nil {
				seen = append(seen, w)
			}
		}
		if err != nil {
			f.add("rewatch", "%s: %v", p.Name, err)
		}
	}
	return seen
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
func (f *final) sample(ctx context.Context) {
	for workload.Pause(ctx, 100*time.Millisecond) == nil {
		for _, p := range f.cluster.Pods {
			ask, cancel := context.WithTimeout(ctx, time.Second) // A paused pod must not hold up the others for long.
			s, err := p.Status(ask, true)
			cancel()
			if err != nil {
				continue
			}
			f.load.Recorder.Sample(history.NewSample(s))
			for _, alarm := range s.Pods[0].Alarms {
				f.alarms[p.Name+": "+alarm]++
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
	for text, count := range f.alarms {
		f.add("alarm", "%s (%d times)", text, count)
	}
}
