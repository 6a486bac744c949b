package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/server"
	"github.com/batondb/baton/test/simulate"
)

var (
	simulateSeed   = flag.Uint64("seed", 1, "the first seed of the simulation; 0: the time")
	simulateSeeds  = flag.Int("seeds", 0, "how many seeds; 0: see -hours")
	simulateHours  = flag.Float64("hours", 0, "virtual hours to simulate; 0: see -busy")
	simulateBusy   = flag.Duration("busy", 45*time.Second, "processor time to spend")
	simulateLength = flag.Duration("length", 4*time.Minute, "virtual time that each seed is broken for")
	simulateOnly   = flag.String("only", "", "only faults whose name contains this")
	simulateKeep   = flag.String("keep", "", "keep schedules, logs and histories here, also of seeds that pass")
)

// TestSimulate runs whole pods in virtual time, seed after seed; see
// test/simulate.
func TestSimulate(t *testing.T) {
	if os.Getenv(simulateAlone) == "" {
		simulateInAnotherProcess(t)
		return
	}
	seed := *simulateSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	reached := map[string]int{}
	total, busy := time.Duration(0), processorTime()
	go watchSimulation(t)
	// One bubble for all seeds: pools of the pods and the client hand channels on.
	synctest.Test(t, func(t *testing.T) {
		for n := 0; more(n, total, processorTime()-busy); n++ {
			total += simulateOne(t, seed+uint64(n), reached)
		}
	})
	fmt.Printf("%.2f virtual hours, %s of processor time, %d states reached\n", total.Hours(), (processorTime() - busy).Round(time.Second), len(reached))
	for _, state := range slices.Sorted(maps.Keys(reached)) {
		t.Logf("%6d  %s", reached[state], state)
	}
}

// simulateAlone marks the process of a simulation. It has one to itself: pools of
// the pods and the client would hand it channels of the tests before, which are
// not of its bubble.
const simulateAlone = "BATON_SIMULATE_ALONE"

func simulateInAnotherProcess(t *testing.T) {
	arguments := []string{"-test.run=^TestSimulate$", "-test.v", "-test.timeout=0"}
	flag.Visit(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") {
			arguments = append(arguments, "-"+f.Name+"="+f.Value.String())
		}
	})
	self := exec.CommandContext(t.Context(), os.Args[0], arguments...)
	self.Env = append(os.Environ(), simulateAlone+"=1", "GOMAXPROCS=1")
	self.Stdout, self.Stderr = os.Stdout, os.Stderr
	if err := self.Run(); err != nil {
		t.Fatalf("the simulation: %v", err)
	}
}

// stuckAfter is how long, in real time, virtual time may stand still. A goroutine
// that spins, or waits for a lock whose holder waits for virtual time, stops it.
const stuckAfter = 30 * time.Second

// watchSimulation ends the process, with all stacks, when virtual time stands
// still. It is outside of the bubble.
func watchSimulation(t *testing.T) {
	last, since := int64(0), time.Now()
	for t.Context().Err() == nil {
		time.Sleep(time.Second)
		if now := simulate.Ticks(); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) > stuckAfter {
			stacks := make([]byte, 64<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			path := filepath.Join(os.TempDir(), fmt.Sprintf("baton-simulate-%d-stacks", os.Getpid()))
			_ = os.WriteFile(path, stacks, 0o600)
			fmt.Printf("virtual time has stood still for %s; the stacks are in %s\n", stuckAfter, path)
			os.Exit(2)
		}
	}
}

// more says whether another seed is due after n.
func more(n int, virtual, busy time.Duration) bool {
	switch {
	case n == 0:
		return true
	case *simulateSeeds > 0:
		return n < *simulateSeeds
	case *simulateHours > 0:
		return virtual.Hours() < *simulateHours
	}
	return busy < *simulateBusy
}

func processorTime() time.Duration {
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// simulateOne runs one seed, and says how much virtual time it took.
func simulateOne(t *testing.T, seed uint64, reached map[string]int) (virtual time.Duration) {
	dir := simulateDir(t, seed)
	busy := processorTime()
	r := simulate.Run(simulate.Options{Seed: seed, Length: *simulateLength, Dir: dir, Start: startSimulated, Only: *simulateOnly})
	fmt.Printf("seed %d: %s virtual, %s of processor time; %s; faults %v\n", seed, r.Virtual.Round(time.Second),
		(processorTime() - busy).Round(100*time.Millisecond), r.Summary, r.Faults)
	for state, n := range r.Reached {
		reached[state] += n
	}
	if len(r.Found) == 0 {
		if *simulateKeep == "" {
			_ = os.RemoveAll(dir)
		}
		return r.Virtual
	}
	for _, v := range r.Found {
		t.Errorf("seed %d: %v", seed, v)
	}
	t.Errorf("seed %d; schedule, logs and history are in %s; to repeat:\n  make simulate SEEDS=1 SEED=%d LENGTH=%s", seed, dir, seed, *simulateLength)
	return r.Virtual
}

// simulateDir is on a file system in memory, where there is one: what syncs cost
// there is not what virtual disks cost.
func simulateDir(t *testing.T, seed uint64) string {
	base := *simulateKeep
	if base == "" {
		base = os.TempDir()
		if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
			base = "/dev/shm"
		}
	}
	dir := filepath.Join(base, fmt.Sprintf("baton-simulate-%d-%d", os.Getpid(), seed))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// startSimulated is serve in a simulated world.
func startSimulated(ctx context.Context, e simulate.Environment) error {
	api, err := kubernetes.New(kubernetes.Options{Client: e.API, Namespace: simulate.Namespace, Name: e.Name})
	if err != nil {
		return err
	}
	return serve(ctx, config{
		dataDir: e.Dir, name: e.Name, service: simulate.Service, logLevel: "info",
		listenClient: ":7400", listenPeer: ":7401", listenHTTP: ":7402", kubernetes: api,
		world: world{
			stderr: e.Stderr, listen: e.Listen, dial: e.Dial, lookup: e.Lookup, logFS: e.LogFS,
			space: func(string) (server.Space, error) {
				free, total := e.Space()
				return server.Space{Free: free, Total: total}, nil
			},
			observe:  e.Observe,
			timing:   replication.Timing{Heartbeat: time.Duration(float64(500*time.Millisecond) / e.Clock)},
			logBytes: 512 << 10, tableBytes: 256 << 10,
		},
	})
}
