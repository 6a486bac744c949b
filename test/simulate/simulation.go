package simulate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/history"
	"github.com/batondb/baton/test/oracle"
	"github.com/batondb/baton/test/workload"
)

// maxPods is the largest number of pods of a cluster.
const maxPods = 7

// Options of a Simulation.
type Options struct {
	Seed uint64
	// Length is how long things break, in virtual time.
	Length time.Duration
	// Dir gets the volumes, and what explains a failure.
	Dir   string
	Start Start
	// Recover and Adopt are kvd's commands of these names, without arguments.
	Recover, Adopt Command
	// Only, if not empty, are parts of the names of the faults that come, separated
	// by commas.
	Only string
}

// Result is what a run came to.
type Result struct {
	Found   []history.Violation
	Summary string
	Virtual time.Duration
	Faults  map[string]int
	Reached map[string]int // See coverage.go.
}

// simulation is one run.
type simulation struct {
	Options
	*world
	rng        *rand.Rand
	controller *controller
	load       *workload.Workload
	conns      []*grpc.ClientConn // To each pod, of all that speaks the bare API.
	began      time.Time
	reached    map[string]int
	// pace is 1, 2 or 4: the pauses of the clients and between faults grow with it.
	pace int

	mu       sync.Mutex // Guards the fields below.
	schedule []byte
	found    []history.Violation
}

// Run runs one. It must be called within a bubble of testing/synctest, and
// returns when everything of the run has ended.
func Run(o Options) *Result {
	s := newSimulation(o)
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { s.controller.run(ctx) })
	faults := s.live(ctx)
	cancel()
	tasks.Wait()
	s.end()
	if err := s.load.Recorder.History().Save(o.Dir); err != nil {
		s.fail("save", "%v", err)
	}
	text, answered := s.load.Summary()
	if answered < 20 && len(s.found) == 0 {
		s.fail("report", "only %d ops were answered: this run says nothing", answered)
	}
	s.save()
	return &Result{
		Found: s.found, Summary: text, Virtual: time.Since(s.began),
		Faults: faults, Reached: s.reached,
	}
}

func newSimulation(o Options) *simulation {
	s := &simulation{
		Options: o, rng: source(o.Seed, "nemesis"), began: time.Now(), reached: map[string]int{},
		pace: 1 << source(o.Seed, "pace").IntN(3),
	}
	s.world = &world{
		seed: o.Seed, dir: o.Dir, start: o.Start, network: NewNetwork(), names: newNames(), api: newAPI(),
		applied: oracle.New(func(err error) { s.fail("oracle", "%v", err) }),
		say:     s.log, one: make(chan struct{}, 1),
	}
	s.logBytes.Store(shortLog)
	for i := range maxPods {
		s.pods = append(s.pods, s.newMachine(i))
	}
	s.controller = newController(s.world, []int{1, 3, 3, 3, 3, 5}[s.rng.IntN(6)], s.rng.IntN(3) == 0,
		func(format string, args ...any) { s.fail("stop", format, args...) })
	s.load = s.workload()
	for _, t := range s.load.Targets {
		conn, err := s.load.Dial(t.Address)
		if err != nil {
			panic(err) // An address that is no address.
		}
		s.conns = append(s.conns, conn)
	}
	s.load.Conns = s.conns
	return s
}

// idle is when a connection that nobody uses ends, so that clients do not look
// for ever for pods that were there once: that took a fifth of the time.
const idle = 20 * time.Second

// workload is what clients do: less in a second than on processes, for hours.
func (s *simulation) workload() *workload.Workload {
	client := s.network.Host("clients", "10.254.0.1")
	o := workload.Options{
		Seed: s.Seed, Recorder: history.NewRecorder(), Sessions: 5, Library: 2, LeaseHolders: 1, Pause: time.Duration(s.pace) * 3 * time.Second,
		Progress: 500 * time.Millisecond, Bulk: 100_000,
		Exists: func(i int) bool { return s.pods[i].process.Load().running() },
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(client.dialer(func(ctx context.Context, host string) ([]string, error) {
			return s.names.lookup(ctx, "", "", host)
		})), grpc.WithIdleTimeout(idle), grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: time.Second,
		})},
	}
	for _, m := range s.pods {
		o.Targets = append(o.Targets, workload.Target{Name: m.name, Address: m.name + "." + Service + ":7400"})
	}
	return workload.New(o)
}

func (s *simulation) log(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.schedule = fmt.Appendf(s.schedule, "%12s  %s\n", time.Since(s.began).Round(time.Microsecond), fmt.Sprintf(format, args...))
}

func (s *simulation) fail(check, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.log("FOUND %s: %s", check, text)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found = append(s.found, history.Violation{Check: check, Text: text})
}

func (s *simulation) violated() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.found) > 0
}

// readyTimeout is when all must be well after the last fault.
const readyTimeout = 60 * time.Second

// live is the run from the first pod's start to the last check.
func (s *simulation) live(ctx context.Context) map[string]int {
	if !s.awaitReady(ctx, "first boot") {
		return nil
	}
	if err := s.load.Open(ctx); err != nil {
		s.fail("start", "%v", err)
		return nil
	}
	watching, stopWatching := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	if err := s.load.StartWatchers(watching, &watchers); err != nil {
		s.fail("start", "%v", err)
	}
	watchers.Go(func() { s.sample(watching) })
	loading, stopLoad := context.WithCancel(ctx)
	var clients sync.WaitGroup
	clients.Go(func() {
		if err := s.load.Run(loading); err != nil {
			s.fail("clients", "%v", err)
		}
	})
	n := &nemesis{simulation: s, ran: map[string]int{}}
	n.run(ctx)
	s.heal(ctx)
	stopLoad()
	clients.Wait()
	s.check(ctx, func() { stopWatching(); watchers.Wait() })
	return n.ran
}

// unwell says why the pods, or the members, are not as they should be.
func (s *simulation) unwell(ctx context.Context) string {
	if why := s.controller.allReady(); why != "" {
		return why
	}
	if err := workload.Whole(ctx, s.conns[0], s.controller.size()); err != nil {
		return err.Error()
	}
	return ""
}

func (s *simulation) awaitReady(ctx context.Context, when string) bool {
	deadline := time.Now().Add(readyTimeout)
	for {
		why := s.unwell(ctx)
		if why == "" {
			return true
		}
		if time.Now().After(deadline) {
			s.fail("ready", "%s: not all is well after %s: %s", when, readyTimeout, why)
			return false
		}
		if workload.Pause(ctx, 500*time.Millisecond) != nil {
			return false
		}
	}
}

// heal undoes all damage, and waits for the promised state.
func (s *simulation) heal(ctx context.Context) {
	s.log("all is healed")
	s.lock()
	s.network.Heal()
	s.names.heal()
	s.api.set(func() { s.api.silent, s.api.stale = false, false })
	s.controller.paused = false
	for _, m := range s.pods {
		m.full.Store(false)
		if p := m.process.Load(); p.running() {
			p.host.resume(nil)
			p.disk.set(func() {
				p.disk.full, p.disk.hung, p.disk.held, p.disk.latency = false, time.Time{}, time.Time{}, usualLatency
			})
		}
	}
	s.unlock()
	if s.awaitReady(ctx, "after the last fault") {
		if err := s.load.Last(ctx); err != nil {
			s.fail("heal", "no write is accepted after the end of all faults: %v", err)
		}
	}
}

// check holds all that was seen together.
func (s *simulation) check(ctx context.Context, stopWatching func()) {
	if s.violated() {
		stopWatching()
		return
	}
	last, err := workload.Rest(ctx, s.conns[0])
	if err != nil {
		s.fail("lease", "%v", err)
	}
	if err := s.load.CatchUp(ctx, last); err != nil {
		s.fail("watch", "%v", err)
	}
	stopWatching()
	var copies []history.Copy
	for i := range s.controller.size() {
		c, err := workload.Copy(ctx, s.pods[i].name, s.conns[i], last)
		if err != nil {
			s.fail("copies", "%s: %v", s.pods[i].name, err)
			continue
		}
		copies = append(copies, c)
	}
	found := s.load.Check(copies, nil, s.Dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found = append(s.found, found...)
}

// sample records what every pod says about itself, until ctx ends.
func (s *simulation) sample(ctx context.Context) {
	for workload.Pause(ctx, 3*time.Second) == nil {
		asked := map[*machine]*kvv1.PodStatus{}
		for i, m := range s.pods {
			if !m.process.Load().running() {
				continue
			}
			call, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			status, own, err := workload.Status(call, m.name, s.conns[i])
			cancel()
			if err == nil {
				s.load.Recorder.Sample(history.NewSample(status))
				asked[m] = own
			}
		}
		s.reach(asked)
	}
}

// end stops every pod, and waits until all that ever ran has ended.
func (s *simulation) end() {
	s.lock()
	s.controller.paused = true
	s.unlock()
	for i := len(s.pods) - 1; i >= 0; i-- {
		if err := s.pods[i].stop(); err != nil && !s.violated() {
			s.fail("stop", "%v", err)
		}
	}
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	s.zombies.Wait()
	s.checkEnds()
	for _, m := range s.pods {
		for _, disaster := range disasters {
			if line, ok := m.said(disaster); ok {
				s.fail("logs", "%s: %s", m.name, line)
			}
		}
	}
}

// excused are reasons for which a pod may end by itself: its disk hangs or is
// full, and what the simulation did to its data or identity.
var excused = []string{"hangs", "no space left", "the machine is off", "damaged", "restart to begin as a new member"}

// checkEnds reports pods that ended by themselves, or with an error, without a reason.
func (s *simulation) checkEnds() {
	for _, m := range s.pods {
		for _, reason := range slices.Compact(m.crashes) {
			if !slices.ContainsFunc(excused, func(e string) bool { return strings.Contains(reason, e) }) {
				s.fail("crash", "%s ended by itself, or with an error after it was told to stop: %s", m.name, reason)
			}
		}
	}
}

// disasters are lines that must not be in any log.
var disasters = []string{"panic:", "unexpected fault address", "DATA RACE"}

// save writes what explains a failure.
func (s *simulation) save() {
	_ = os.WriteFile(filepath.Join(s.Dir, "schedule.log"), s.schedule, 0o600)
	for _, m := range s.pods {
		_ = os.WriteFile(filepath.Join(s.Dir, m.name+".log"), []byte(m.output.String()), 0o600)
		_ = os.RemoveAll(m.dir)
	}
}
