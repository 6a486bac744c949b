package faults

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/history"
	"github.com/batondb/baton/test/workload"
)

var (
	seedFlag = flag.Uint64("seed", 0, "what is drawn; 0: the time")
	duration = flag.Duration("duration", 60*time.Second, "how long to break things")
	race     = flag.Bool("kvd-race", false, "build kvd with the race detector")
	prebuilt = flag.String("kvd", "", "a kvd to run instead of building one")
	only     = flag.String("only", "", "only faults whose name contains this")
	keep     = flag.String("keep", "", "keep logs and history in this directory, also of a run that passes")
)

// TestFaults runs a cluster, breaks it, heals it, and checks what clients saw.
//
// Scenario: S10, S16, S18, S22, S23, S28, S38, S39, S40, S41
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	again := fmt.Sprintf("go test ./test/faults -run TestFaults -count=1 -timeout 0 -args -seed=%d -duration=%v", seed, *duration)
	if *only != "" {
		again += fmt.Sprintf(" -only=%q", *only)
	}
	fmt.Printf("seed %d; to repeat:\n  %s\n", seed, again)
	r := newRun(t, seed)
	found := r.run(t)
	if len(found) == 0 {
		if *keep == "" {
			_ = os.RemoveAll(r.dir)
		}
		return
	}
	for _, v := range found {
		t.Errorf("%v", v)
	}
	t.Errorf("seed %d; logs, history and pictures are in %s; to repeat:\n  %s", seed, r.dir, again)
}

// run is one run of TestFaults.
type run struct {
	seed    uint64
	dir     string
	logMu   sync.Mutex // Guards logFile.
	logFile *os.File
	cluster *Cluster
	load    *workload.Workload
	nemesis *nemesis
	final   *final
}

func newRun(t *testing.T, seed uint64) *run {
	dir := *keep
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", fmt.Sprintf("baton-faults-%d-", seed)); err != nil {
			t.Fatal(err)
		}
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(dir, "schedule.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	r := &run{seed: seed, dir: dir, logFile: file}
	if r.cluster, err = newCluster(dir, kvd(t), r.log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.cluster.Close)
	options := workload.Options{Seed: seed, Recorder: history.NewRecorder()}
	for _, p := range r.cluster.Pods {
		options.Targets = append(options.Targets, workload.Target{Name: p.Name, Address: p.Via})
	}
	r.load = workload.New(options)
	r.nemesis = &nemesis{cluster: r.cluster, load: r.load, log: r.log, ran: map[string]int{}}
	r.final = &final{cluster: r.cluster, load: r.load, log: r.log, alarms: map[string]int{}}
	return r
}

func (r *run) log(format string, args ...any) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	fmt.Fprintf(r.logFile, time.Now().Format("15:04:05.000 ")+format+"\n", args...)
}

// kvd is the binary to test, built once.
func kvd(t *testing.T) string {
	if *prebuilt != "" {
		return *prebuilt
	}
	if err := cluster.NoteSources(); err != nil {
		t.Fatal(err)
	}
	var flags []string
	if *race {
		flags = []string{"-race"}
	}
	program, err := cluster.Build(t.Context(), t.TempDir(), cluster.Kvd, flags...)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// run starts, loads, breaks, heals and checks the cluster.
func (r *run) run(t *testing.T) []history.Violation {
	ctx := t.Context()
	for _, p := range r.cluster.Pods {
		if err := r.cluster.Start(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.cluster.WaitReady(ctx, readyTimeout); err != nil {
		return []history.Violation{{Check: "start", Text: err.Error()}}
	}
	if err := r.load.Open(ctx); err != nil {
		return []history.Violation{{Check: "start", Text: err.Error()}}
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	var watchers sync.WaitGroup
	if err := r.load.StartWatchers(watching, &watchers); err != nil {
		t.Fatal(err)
	}
	watchers.Go(func() { r.final.sample(watching) })
	r.underLoad(t, ctx)
	last, err := workload.Rest(ctx, r.cluster.Pods[0].Conn())
	if err != nil {
		r.final.add("lease", "%v", err)
	}
	if err := r.load.CatchUp(ctx, last); err != nil {
		r.final.add("watch", "%v", err)
	}
	stopWatching()
	watchers.Wait()
	r.check(ctx, last)
	return append(r.nemesis.broken, r.final.found...)
}

// underLoad breaks the cluster for the duration, while clients use it, and heals
// it before they stop.
func (r *run) underLoad(t *testing.T, ctx context.Context) {
	loading, stopLoad := context.WithCancel(ctx)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stopLoad()
	clients.Go(func() {
		if err := r.load.Run(loading); err != nil {
			t.Errorf("the clients: %v", err)
		}
	})
	breaking, stopBreaking := context.WithTimeout(ctx, *duration)
	r.nemesis.run(breaking, r.seed, *only)
	stopBreaking()
	r.final.heal(ctx)
}

// check asks the pods for what they have, and holds all that was seen together.
func (r *run) check(ctx context.Context, last int64) {
	f := r.final
	copies := f.copies(ctx, last)
	rewatched := f.rewatch(ctx, last)
	f.restartAll(ctx)
	copies = append(copies, f.copies(ctx, last)...)
	crashes := 0
	for _, p := range r.cluster.Pods {
		if err := r.cluster.Stop(p); err != nil {
			f.add("stop", "%v", err)
		}
		crashes += p.Crashes()
	}
	f.found = append(f.found, r.load.Check(copies, rewatched, r.dir)...)
	f.checkCrashes()
	f.scanLogs()
	f.checkAlarms()
	if err := r.load.Recorder.History().Save(r.dir); err != nil {
		f.add("save", "%v", err)
	}
	text, answered := r.load.Summary()
	fmt.Printf("%s; %d ends of pods by themselves\nfaults: %v\n", text, crashes, r.nemesis.ran)
	if answered < 100 {
		f.add("report", "only %d ops were answered: this run says nothing", answered)
	}
}
