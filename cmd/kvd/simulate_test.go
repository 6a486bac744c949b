package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
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
	simulateLength = flag.Duration("length", 12*time.Minute, "virtual time that each seed is broken for")
	simulateOnly   = flag.String("only", "", "only faults whose name contains this")
	simulateKeep   = flag.String("keep", "", "keep schedules, logs and histories here, also of seeds that pass")
)

// TestSimulate runs whole pods in virtual time, seed after seed; see
// test/simulate. Seeds run in processes of their own, one for each processor:
// pools of the pods and the client would hand channels of other tests to the
// bubble, and a seed on one processor repeats better.
func TestSimulate(t *testing.T) {
	if os.Getenv(simulateAlone) == "" {
		newSimulateRun(t).run()
		return
	}
	seeds := readSeeds()
	go watchSimulation(t)
	// One bubble for all seeds, for those pools.
	synctest.Test(t, func(t *testing.T) {
		for seed := range seeds {
			raw, err := json.Marshal(simulateOne(t, seed))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Printf("%s%s\n", simulateAnswer, raw)
		}
	})
}

// simulateAlone marks a process that simulates the seeds that it reads.
// simulateAnswer begins the line that it answers each with.
const (
	simulateAlone  = "BATON_SIMULATE_ALONE"
	simulateAnswer = "simulated "
)

// seedResult is what came of one seed.
type seedResult struct {
	Virtual, Busy time.Duration
	Summary       string
	Faults        map[string]int
	Reached       map[string]int
	Found         []string
	Dir           string // What explains it, if it is kept.
}

// readSeeds gives the seeds that come on standard input, one in a line. It is
// outside of the bubble. A process whose parent has ended ends with it.
func readSeeds() <-chan uint64 {
	seeds := make(chan uint64)
	go func() {
		defer close(seeds)
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			seed, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				fmt.Println(err)
				os.Exit(2)
			}
			seeds <- seed
		}
		if simulating.Load() {
			os.Exit(2) // Nobody waits for what comes of it.
		}
	}()
	return seeds
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
		if now := simulate.Ticks(); now != last || !simulating.Load() {
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

func processorTime() time.Duration {
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// simulateOne runs one seed.
func simulateOne(t *testing.T, seed uint64) seedResult {
	simulating.Store(true)
	defer simulating.Store(false)
	dir := simulateDir(t, seed)
	busy := processorTime()
	r := simulate.Run(simulate.Options{
		Seed: seed, Length: *simulateLength, Dir: dir, Only: *simulateOnly,
		Start: startSimulated, Recover: recoverSimulated, Adopt: adoptSimulated,
	})
	result := seedResult{
		Virtual: r.Virtual, Busy: processorTime() - busy, Summary: r.Summary,
		Faults: r.Faults, Reached: r.Reached, Dir: dir,
	}
	for _, v := range r.Found {
		result.Found = append(result.Found, fmt.Sprint(v))
	}
	if len(r.Found) == 0 && *simulateKeep == "" {
		_ = os.RemoveAll(dir)
		result.Dir = ""
	}
	return result
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
	c, err := simulatedConfig(e)
	if err != nil {
		return err
	}
	return serve(ctx, c)
}

func simulatedConfig(e simulate.Environment) (config, error) {
	api, err := kubernetes.New(kubernetes.Options{Client: e.API, Namespace: simulate.Namespace, Name: e.Name})
	if err != nil {
		return config{}, err
	}
	return config{
		dataDir: e.Dir, name: e.Name, service: simulate.Service, logLevel: "info",
		listenClient: ":7400", listenPeer: ":7401", listenHTTP: ":7402", kubernetes: api,
		world: world{
			stderr: e.Stderr, listen: e.Listen, dial: e.Dial, lookup: e.Lookup, logFS: e.LogFS,
			space: func(string) (server.Space, error) {
				free, total := e.Space()
				return server.Space{Free: free, Total: total}, nil
			},
			// What the network does to a connection, saying again what it heard before for
			// example, is to reach what is above TLS.
			plainPeers: true,
			committed:  e.Committed,
			observe:    e.Observe,
			timing:     replication.Timing{Heartbeat: time.Duration(float64(500*time.Millisecond) / e.Clock)},
			logBytes:   e.LogBytes, tableBytes: 256 << 10,
			// Rounds all the time, and some of them under every fault.
			verifyInterval: time.Minute,
		},
	}, nil
}
