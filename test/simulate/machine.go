package simulate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft-wal/types"
	"k8s.io/client-go/dynamic"

	"github.com/batondb/baton/test/oracle"
)

// Environment is all that a process of a pod reaches outside of itself.
type Environment struct {
	Name, Dir string
	Listen    func(network, address string) (net.Listener, error)
	Dial      func(ctx context.Context, hostport string) (net.Conn, error)
	Lookup    func(ctx context.Context, host string) ([]string, error)
	LogFS     types.VFS
	// LogBytes is the size of the log over which it is truncated.
	LogBytes int64
	// Space is what the volume's file system has, in bytes.
	Space  func() (free, total uint64)
	API    dynamic.Interface
	Stderr *Output
	// Clock is how fast the pod's clock runs: where its timers can be set, they end
	// after 1/Clock of their time.
	Clock   float64
	Observe func(before, index, term uint64, data []byte)
	// Committed is told each transaction of the files of the database and the votes.
	Committed func(path string, transaction int)
}

// Start runs a pod until ctx ends, and returns when all of it has ended. An error
// means that the process ended by itself.
type Start func(ctx context.Context, e Environment) error

// Output keeps the end of what a machine's processes printed.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

const maxOutput = 4 << 20

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.text.Len() > maxOutput {
		o.text.Next(maxOutput / 2)
	}
	return o.text.Write(p)
}

// String is what is kept.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// machine is a pod's place: what stays when its process ends.
type machine struct {
	world  *world
	name   string
	number int
	dir    string // Holds the volumes of its incarnations.
	rng    *rand.Rand
	output *Output

	clock   float64
	volume  string
	volumes int
	ip      string
	ips     int
	wanted  bool // The pod exists: a process that ends is started again.
	process atomic.Pointer[process]
	crashes []string // Why processes ended that nobody asked to, or with an error.
	rolled  int      // The roll-out that it was started in.
	full    atomic.Bool
}

// process is one incarnation.
type process struct {
	host   *Host
	disk   *Disk
	cancel context.CancelFunc
	dead   chan struct{} // Closed when it is killed.
	ended  chan struct{}
	err    error // Once it has ended.

	environment Environment
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	case <-p.dead:
		return false
	default:
		return true
	}
}

// world is what the machines share.
type world struct {
	seed    uint64
	dir     string
	start   Start
	network *Network
	names   *Names
	api     *API
	applied *oracle.Log
	say     func(format string, args ...any)

	// one is held by whoever changes a machine: only one goroutine may wait for
	// all others to be still. A channel, for virtual time goes on.
	one     chan struct{}
	pods    []*machine
	zombies sync.WaitGroup

	logBytes atomic.Int64 // Of processes that start.
}

const (
	// shortLog makes pods that are away for a while need a snapshot.
	shortLog = 512 << 10
	// longLog is never truncated in a run.
	longLog = 1 << 30
)

func (w *world) lock()   { w.one <- struct{}{} }
func (w *world) unlock() { <-w.one }

// newMachine has an empty volume.
func (w *world) newMachine(number int) *machine {
	name := fmt.Sprintf("kv-%d", number)
	m := &machine{
		world: w, name: name, number: number, dir: filepath.Join(w.dir, name),
		rng: source(w.seed, name), output: &Output{}, clock: 1,
	}
	if m.rng.IntN(2) == 0 {
		m.clock = 0.8 + 0.4*m.rng.Float64()
	}
	m.nextVolume()
	return m
}

// nextVolume names a directory that no process knows yet.
func (m *machine) nextVolume() {
	m.volumes++
	m.volume = filepath.Join(m.dir, fmt.Sprint(m.volumes))
}

// move gives the pod another address. Sometimes it was another pod's before.
func (m *machine) move() {
	m.ips++
	m.ip = fmt.Sprintf("10.%d.%d.1", m.number, m.ips)
	for _, other := range m.world.pods {
		if other != m && m.rng.IntN(8) == 0 && other.ips > 1 {
			if old := fmt.Sprintf("10.%d.%d.1", other.number, other.ips-1); m.world.network.free(old) {
				m.ip = old
			}
		}
	}
}

// run starts a process over the volume. The world is locked.
func (m *machine) run() {
	if m.process.Load().running() {
		return
	}
	if m.ip == "" {
		m.move()
	}
	w := m.world
	m.wanted = true
	p := &process{
		host: w.network.Host(m.name, m.ip), disk: newDisk(m.rng),
		dead: make(chan struct{}), ended: make(chan struct{}),
	}
	p.disk.full = m.full.Load()
	w.names.point(m.name, m.ip)
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.environment = m.environment(p)
	m.process.Store(p)
	w.say("%s starts at %s on volume %d", m.name, m.ip, m.volumes)
	w.zombies.Go(func() {
		defer close(p.ended)
		p.err = w.start(ctx, p.environment)
		p.host.Vanish(false)
	})
	w.zombies.Go(func() { m.supervise(p) })
}

func (m *machine) environment(p *process) Environment {
	w, ip := m.world, m.ip
	lookup := func(ctx context.Context, host string) ([]string, error) {
		if err := p.host.awake(ctx); err != nil {
			return nil, err
		}
		return w.names.lookup(ctx, m.name, ip, host)
	}
	return Environment{
		Name: m.name, Dir: m.volume, Stderr: m.output, LogFS: p.disk, LogBytes: w.logBytes.Load(), Lookup: lookup,
		Listen: func(_, address string) (net.Listener, error) { return p.host.Listen(address) },
		Dial:   p.host.dialer(lookup),
		Space: func() (free, total uint64) {
			if m.full.Load() {
				return 1 << 20, 10 << 30
			}
			return 8 << 30, 10 << 30
		},
		API: w.api.client(p.dead, p.host.awake), Observe: w.applied.Observe(m.name), Committed: p.disk.committed, Clock: m.clock,
	}
}

// backOff is how long the kubelet waits before it starts a container again.
const backOff = time.Second

// supervise starts a process again that ended by itself.
func (m *machine) supervise(p *process) {
	select {
	case <-p.dead:
		return
	case <-p.ended:
	}
	m.world.lock()
	again := m.wanted && m.process.Load() == p
	if again {
		m.crashes = append(m.crashes, fmt.Sprint(p.err))
		m.world.say("%s ended by itself: %v", m.name, p.err)
		if _, err := m.tear(p, false); err != nil {
			m.crashes = append(m.crashes, fmt.Sprint(err))
		}
	}
	m.world.unlock()
	if !again {
		return
	}
	time.Sleep(backOff)
	m.world.lock()
	defer m.world.unlock()
	if m.wanted && m.process.Load() == p {
		m.run()
	}
}

// kill ends the process at once: as kill -9 does, or, with power, as the machine
// loses it. The world is locked.
func (m *machine) kill(power bool) error {
	m.wanted = false
	p := m.process.Load()
	if !p.running() {
		return nil
	}
	undone, err := m.tear(p, power)
	close(p.dead)
	p.host.Vanish(power)
	p.cancel()
	m.world.say("%s is killed, power %t; the last transactions of %v are not there", m.name, power, undone)
	return err
}

// tear takes the volume away from a process, which may still have goroutines, locks
// and files that an operating system would have ended: the next process gets a
// copy. It returns what is undone in the copy. The world is locked.
func (m *machine) tear(p *process, power bool) (undone []string, err error) {
	synctest.Wait() // Nobody is in the middle of a write, nor begins one before the copy is made.
	before := m.volume
	m.nextVolume()
	err = copyVolume(before, m.volume)
	if err == nil && power {
		err = p.disk.crash(before, m.volume)
	}
	if err == nil {
		undone, err = p.disk.undo(before, m.volume, power)
	}
	p.disk.set(func() { p.disk.dead = true })
	m.world.zombies.Go(func() {
		<-p.ended
		_ = os.RemoveAll(before)
	})
	return undone, err
}

// grace is what a pod gets to end after SIGTERM.
const grace = 30 * time.Second

// stop is SIGTERM, and a kill when the grace is over. The world is not locked.
func (m *machine) stop() error {
	m.world.lock()
	m.wanted = false
	p := m.process.Load()
	if !p.running() {
		m.world.unlock()
		return nil
	}
	m.world.say("%s is told to stop", m.name)
	p.cancel()
	m.world.unlock()
	select {
	case <-p.ended:
		m.world.say("%s has stopped: %v", m.name, p.err)
		return m.release(p)
	case <-p.dead:
	case <-time.After(grace):
		m.world.lock()
		defer m.world.unlock()
		m.world.say("%s does not stop in time", m.name)
		return errors.Join(fmt.Errorf("%s did not end within %s", m.name, grace), m.kill(false))
	}
	return nil
}

// release takes the volume away from a process that has ended after SIGTERM: what it
// could not close in time, an operating system would have closed.
func (m *machine) release(p *process) error {
	m.world.lock()
	defer m.world.unlock()
	if p.err != nil {
		m.crashes = append(m.crashes, p.err.Error())
	}
	if m.process.Load() != p {
		return nil
	}
	_, err := m.tear(p, false)
	return err
}

// wipe is a lost volume, whose claim a person has deleted. The process does not run.
func (m *machine) wipe() {
	m.world.say("%s loses its volume", m.name)
	_ = os.RemoveAll(m.volume)
	m.nextVolume()
	m.world.api.remove(claims, claimOf(m))
}

// valueOnDisk is a value of the workload's: the record around it has a checksum.
var valueOnDisk = regexp.MustCompile(`c[0-9]+-[0-9]+`)

// damage flips a bit of a value in the database's file. The world is locked.
func (m *machine) damage() error {
	path := filepath.Join(m.volume, "store.db")
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	places := valueOnDisk.FindAllIndex(content, -1)
	if len(places) == 0 {
		return errors.New("there is no value in the file yet")
	}
	at := places[m.rng.IntN(len(places))][0]
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt([]byte{content[at] ^ 1<<m.rng.IntN(7)}, int64(at))
	return errors.Join(err, file.Close())
}

// said tells whether the output has a line with a text.
func (m *machine) said(text string) (string, bool) {
	for line := range strings.Lines(m.output.String()) {
		if strings.Contains(line, text) {
			return strings.TrimSpace(line), true
		}
	}
	return "", false
}
