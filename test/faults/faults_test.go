package faults

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/batondb/baton/test/history"
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
	load    *workload
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
	r.load = &workload{seed: seed, cluster: r.cluster, recorder: history.NewRecorder(), alarms: map[string]int{}}
	r.nemesis = &nemesis{cluster: r.cluster, load: r.load, log: r.log, ran: map[string]int{}}
	r.final = &final{cluster: r.cluster, load: r.load, log: r.log}
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
	noteSources(t)
	path := filepath.Join(t.TempDir(), "kvd")
	arguments := []string{"build", "-o", path}
	if *race {
		arguments = append(arguments, "-race")
	}
	output, err := exec.Command("go", append(arguments, "github.com/batondb/baton/cmd/kvd")...).CombinedOutput()
	if err != nil {
		t.Fatalf("build kvd: %v\n%s", err, output)
	}
	return path
}

// noteSources looks at every file that kvd is built of: go test sees that, and
// does not take an older result for this one when one of them has changed.
func noteSources(t *testing.T) {
	for _, dir := range []string{"cmd/kvd", "proto", "replication", "server", "store"} {
		err := filepath.WalkDir(filepath.Join("..", "..", dir), func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			_, err = os.Stat(path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
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
	opened, err := r.load.open(ctx)
	if err != nil {
		return []history.Violation{{Check: "start", Text: err.Error()}}
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	var watchers sync.WaitGroup
	if err := r.load.startWatchers(watching, &watchers); err != nil {
		t.Fatal(err)
	}
	watchers.Go(func() { r.load.sample(watching) })
	r.underLoad(t, ctx)
	last := r.final.rest(ctx)
	r.final.catchUp(ctx, last)
	stopWatching()
	watchers.Wait()
	r.check(ctx, opened, last)
	return append(r.nemesis.broken, r.final.found...)
}

// underLoad breaks the cluster for the duration, while clients use it, and heals
// it before they stop.
func (r *run) underLoad(t *testing.T, ctx context.Context) {
	shared, err := newLibrary(r.cluster)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := shared.close(); err != nil {
			t.Errorf("close the client: %v", err)
		}
	}()
	loading, stopLoad := context.WithCancel(ctx)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stopLoad()
	for i := range sessions + lessees {
		s, err := newSession(1+i, r.seed, r.load.recorder, r.cluster)
		if err != nil {
			t.Fatal(err)
		}
		if i < librarySessions {
			s.library = shared
		}
		if i < sessions {
			clients.Go(func() {
				defer s.close()
				r.load.run(loading, s)
			})
			continue
		}
		l := &lessee{session: s}
		r.load.lessees = append(r.load.lessees, l)
		clients.Go(func() {
			defer s.close()
			l.run(loading)
		})
	}
	breaking, stopBreaking := context.WithTimeout(ctx, *duration)
	r.nemesis.run(breaking, r.seed, *only)
	stopBreaking()
	r.final.heal(ctx)
}

// check asks the pods for what they have, and holds all that was seen together.
func (r *run) check(ctx context.Context, opened, last int64) {
	f, h, compacted := r.final, r.load.recorder.History(), r.load.compacted.Load()
	historian := r.load.historian.watch
	l := history.NewLog(historian)
	found := func(v []history.Violation) { f.found = append(f.found, v...) }
	copies := f.copies(ctx, last)
	for _, p := range r.cluster.Pods {
		if w := f.rewatch(ctx, p, last); w != nil {
			found(history.CheckWatch(l, w, compacted))
		}
	}
	f.restartAll(ctx)
	copies = append(copies, f.copies(ctx, last)...)
	for _, p := range r.cluster.Pods {
		if err := r.cluster.Stop(p); err != nil {
			f.add("stop", "%v", err)
		}
	}
	found(history.CheckLog(historian))
	for _, w := range h.Watches {
		found(history.CheckWatch(l, w, compacted))
	}
	found(history.CheckSerial(l, h, compacted))
	found(history.CheckLinearizable(h, l, groups, 2*time.Minute, r.dir))
	found(history.CheckTotal(l, &bankRange, opened, accounts*balance, amount))
	found(history.CheckSamples(h.Samples))
	found(history.CheckCopies(l, copies))
	found(checkLeases(l, historian, r.load.lessees))
	f.checkCrashes()
	f.scanLogs()
	f.checkAlarms()
	if err := h.Save(r.dir); err != nil {
		f.add("save", "%v", err)
	}
	r.report(h)
}

// report says what was done, so that a run that did nothing is seen.
func (r *run) report(h *history.History) {
	outcomes, kinds := map[history.Outcome]int{}, map[string]int{}
	replayed := 0
	for _, op := range h.Ops {
		outcomes[op.Outcome]++
		if op.Outcome == history.OK {
			kinds[op.Name]++
		}
		if op.Replayed {
			replayed++
		}
	}
	terms, leases, crashes := map[uint64]bool{}, 0, 0
	for _, s := range h.Samples {
		if s.Master {
			terms[s.Term] = true
		}
	}
	for _, each := range r.load.lessees {
		leases += len(each.leases)
	}
	for _, p := range r.cluster.Pods {
		crashes += p.Crashes()
	}
	fmt.Printf("%d ops: %v, answered %v, %d replayed; %d revisions, %d events of the restless watcher over %d streams; %d leases; %d masters seen; %d ends of pods by themselves\nfaults: %v\n",
		len(h.Ops), outcomes, kinds, replayed, r.load.historian.watch.Through, len(h.Watches[1].Events), h.Watches[1].Streams,
		leases, len(terms), crashes, r.nemesis.ran)
	if outcomes[history.OK] < 100 {
		r.final.add("report", "only %d ops were answered: this run says nothing", outcomes[history.OK])
	}
}
