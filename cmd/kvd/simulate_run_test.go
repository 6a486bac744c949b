package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simulateSeed  = flag.Uint64("seed", 0, "the first seed of the simulation; 0: those that are kept, and then from 1 on")
	simulateSeeds = flag.Int("seeds", 0, "how many seeds; 0: see -hours")
	simulateHours = flag.Float64("hours", 0, "virtual hours to simulate; 0: see -busy")
	simulateBusy  = flag.Duration("busy", time.Minute, "processor time to spend")
	simulateLearn = flag.Bool("learn", false, "keep the seeds that reach states of pods that no kept one does")

	simulating atomic.Bool // In a process that simulates: a seed is under way.
)

// keptSeeds holds seeds that reached what those before them did not.
var keptSeeds = filepath.Join("..", "..", "test", "simulate", "testdata", "seeds")

// simulateRun hands seeds to processes, and sums up what comes of them.
type simulateRun struct {
	t *testing.T

	mu      sync.Mutex // Guards the fields below.
	kept    []uint64   // Come before all others.
	drawn   map[uint64]bool
	begun   int
	next    uint64
	virtual time.Duration
	busy    time.Duration
	done    int
	failed  []uint64
	faults  map[string]int
	reached map[string]int
}

func newSimulateRun(t *testing.T) *simulateRun {
	r := &simulateRun{t: t, next: *simulateSeed, drawn: map[uint64]bool{}, faults: map[string]int{}, reached: map[string]int{}}
	if r.next == 0 || *simulateLearn {
		r.kept = readKeptSeeds(t)
	}
	r.next = max(1, r.next)
	return r
}

func readKeptSeeds(t *testing.T) []uint64 {
	text, err := os.ReadFile(keptSeeds)
	if err != nil {
		t.Fatal(err)
	}
	var seeds []uint64
	for line := range strings.Lines(string(text)) {
		number, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if seed, err := strconv.ParseUint(number, 10, 64); err == nil {
			seeds = append(seeds, seed)
		}
	}
	return seeds
}

func (r *simulateRun) run() {
	var workers sync.WaitGroup
	for range runtime.NumCPU() {
		workers.Go(func() {
			for r.work() {
			}
		})
	}
	workers.Wait()
	fmt.Printf("%d seeds, %.2f virtual hours, %s of processor time, %d faults, %d states reached\n",
		r.done, r.virtual.Hours(), r.busy.Round(time.Second), total(r.faults), len(r.reached))
	for _, name := range slices.Sorted(maps.Keys(r.reached)) {
		r.t.Logf("%7d  %s", r.reached[name], name)
	}
	if len(r.failed) > 0 {
		slices.Sort(r.failed)
		r.t.Errorf("seeds that failed: %v", r.failed)
	}
}

func total(counts map[string]int) int {
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return sum
}

// draw gives the next seed, if one is due.
func (r *simulateRun) draw() (seed uint64, due bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.begun == 0:
	case *simulateSeeds > 0:
		if r.begun >= *simulateSeeds {
			return 0, false
		}
	case *simulateHours > 0:
		if r.virtual.Hours() >= *simulateHours {
			return 0, false
		}
	case r.busy >= *simulateBusy:
		return 0, false
	}
	r.begun++
	if len(r.kept) > 0 {
		seed, r.kept = r.kept[0], r.kept[1:]
		r.drawn[seed] = true
		return seed, true
	}
	for r.drawn[r.next] {
		r.next++
	}
	r.next++
	return r.next - 1, true
}

// work has one process simulate seeds until none is due, or the process ends. It
// is false when none is due any more.
func (r *simulateRun) work() bool {
	self := exec.CommandContext(r.t.Context(), os.Args[0],
		"-test.run=^TestSimulate$", "-test.timeout=0", "-length="+simulateLength.String(), "-only="+*simulateOnly, "-keep="+*simulateKeep)
	self.Env = append(os.Environ(), simulateAlone+"=1", "GOMAXPROCS=1")
	self.Stderr = os.Stderr
	to, err := self.StdinPipe()
	if err != nil {
		r.t.Error(err)
		return false
	}
	from, err := self.StdoutPipe()
	if err != nil {
		r.t.Error(err)
		return false
	}
	if err := self.Start(); err != nil {
		r.t.Error(err)
		return false
	}
	again := r.feed(to, bufio.NewReader(from))
	_ = to.Close()
	_, _ = io.Copy(os.Stdout, from)
	if err := self.Wait(); err != nil && !again {
		r.t.Errorf("not all that the last seeds started has ended: %v", err)
	}
	return again
}

// feed is false when no seed is due any more.
func (r *simulateRun) feed(to io.Writer, from *bufio.Reader) bool {
	for {
		seed, due := r.draw()
		if !due {
			return false
		}
		result, err := askSeed(to, from, seed)
		r.take(seed, result, err)
		if err != nil {
			return true
		}
	}
}

// askSeed has a process simulate a seed.
func askSeed(to io.Writer, from *bufio.Reader, seed uint64) (seedResult, error) {
	var result seedResult
	if _, err := fmt.Fprintln(to, seed); err != nil {
		return result, err
	}
	for {
		line, err := from.ReadString('\n')
		if raw, answered := strings.CutPrefix(line, simulateAnswer); answered {
			return result, json.Unmarshal([]byte(raw), &result)
		}
		fmt.Print(line)
		if err != nil {
			return result, fmt.Errorf("stopped: the process of the simulation has ended: %w", err)
		}
	}
}

// take adds up, and says what there is to say about the seed.
func (r *simulateRun) take(seed uint64, result seedResult, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done++
	r.virtual += result.Virtual
	r.busy += result.Busy
	var news []string
	for _, name := range slices.Sorted(maps.Keys(result.Reached)) {
		if r.reached[name] == 0 {
			news = append(news, name)
		}
		r.reached[name] += result.Reached[name]
	}
	for name, n := range result.Faults {
		r.faults[name] += n
	}
	fmt.Printf("seed %d: %s virtual, %s of processor time; %s; faults %v; new states %d\n", seed, result.Virtual.Round(time.Second),
		result.Busy.Round(100*time.Millisecond), result.Summary, result.Faults, len(news))
	if err != nil {
		result.Found = append(result.Found, err.Error())
	}
	if len(result.Found) > 0 {
		r.failed = append(r.failed, seed)
		for _, text := range result.Found {
			r.t.Errorf("seed %d: %s", seed, text)
		}
		r.t.Errorf("seed %d; schedule, logs and history are in %s; to repeat:\n  make simulate SEEDS=1 SEED=%d LENGTH=%s",
			seed, cmp.Or(result.Dir, "the directory that the process was to remove"), seed, *simulateLength)
		return
	}
	if *simulateLearn && len(news) > 0 && len(r.kept) == 0 {
		r.keep(seed, news)
	}
}

func (r *simulateRun) keep(seed uint64, news []string) {
	file, err := os.OpenFile(keptSeeds, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer file.Close() //nolint:errcheck // The write's error counts.
	if _, err := fmt.Fprintf(file, "%d  # %s\n", seed, strings.Join(news, "; ")); err != nil {
		r.t.Error(err)
	}
}
