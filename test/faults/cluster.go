package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/workload"
)

const (
	podCount  = 3
	firstPort = 47400
	lastPort  = 47999
	portBlock = 40
	// host is loopback, but not the address from which Linux connects by
	// default: otherwise a port of a pod that is down, which is in the ephemeral
	// range, can be taken by a connection (also by one to itself).
	host = "127.0.74.1"
)

// Pod is one kvd, started again and again.
type Pod struct {
	Name   string
	Dir    string // Its volume.
	Log    string // What its processes print.
	Client string // The client port itself.
	Via    string // The client port through the network.
	HTTP   string
	flags  []string

	conn *grpc.ClientConn // To Client, for status.

	mu      sync.Mutex // Guards the fields below.
	process *process
	wanted  bool // It shall run: when it ends by itself it is started again.
	crashes int  // How often it ended by itself.
}

// Cluster is three pods and the network between them.
type Cluster struct {
	Pods    []*Pod
	Network *Network
	binary  string
	claim   net.Listener // Keeps the ports for this run.
	log     func(format string, args ...any)

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// newCluster makes the pods' directories under dir and the network; nothing
// runs yet.
func newCluster(dir, binary string, log func(string, ...any)) (*Cluster, error) {
	ports, err := claimPorts()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cluster{Network: newNetwork(), binary: binary, claim: ports.claim, log: log, ctx: ctx, cancel: cancel}
	peers := make([]string, podCount)
	for i := range podCount {
		name := fmt.Sprintf("kv-%d", i)
		p := &Pod{
			Name: name, Dir: filepath.Join(dir, name), Log: filepath.Join(dir, name+".log"),
			Client: ports.free(), HTTP: ports.free(),
		}
		peers[i] = ports.free()
		p.flags = []string{
			"serve", "--data-dir", p.Dir, "--name", name,
			"--listen-client", p.Client, "--listen-peer", peers[i], "--listen-http", p.HTTP,
		}
		c.Pods = append(c.Pods, p)
	}
	for i, p := range c.Pods {
		var list []string
		for j, q := range c.Pods {
			address := peers[j]
			if i != j {
				// A proxy of its own for each pair: it knows who dials whom.
				listener := ports.listen()
				c.Network.Link(p.Name, q.Name, peers[j], listener)
				address = listener.Addr().String()
			}
			list = append(list, q.Name+"="+address)
		}
		p.flags = append(p.flags, "--peers", strings.Join(list, ","))
		listener := ports.listen()
		c.Network.Link(outside, p.Name, p.Client, listener)
		p.Via = listener.Addr().String()
		if p.conn, err = new(workload.Options).Dial(p.Client); err != nil {
			return nil, err
		}
	}
	return c, ports.err
}

// ports gives out free ports on loopback, of a block that no other run has: the
// port of a pod that is down looks free, and another run's pod must not take it.
type ports struct {
	next  int
	err   error
	claim net.Listener // On the block's first port, for as long as the run lasts.
}

func claimPorts() (*ports, error) {
	for first := firstPort; first+portBlock <= lastPort; first += portBlock {
		claim, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, first))
		if err == nil {
			return &ports{next: first + 1, claim: claim}, nil
		}
	}
	return nil, fmt.Errorf("every block of ports from %d to %d is taken", firstPort, lastPort)
}

func (p *ports) listen() net.Listener {
	for p.next <= lastPort {
		listener, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, p.next))
		p.next++
		if err == nil {
			return listener
		}
	}
	p.err = errors.New("no free port")
	listener, _ := net.Listen("tcp", host+":0")
	return listener
}

func (p *ports) free() string {
	listener := p.listen()
	defer listener.Close()
	return listener.Addr().String()
}

// Start starts a pod that does not run. It is started again when it ends by
// itself, as Kubernetes would do, until Kill or Stop.
func (c *Cluster) Start(p *Pod) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = true
	return c.launch(p)
}

// launch starts a pod's process; p.mu is held.
func (c *Cluster) launch(p *Pod) error {
	if p.process != nil && p.process.running() {
		return nil
	}
	started, err := startProcess(p.Log, c.binary, p.flags)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.process = started
	c.tasks.Go(func() { c.supervise(p, started) })
	return nil
}

// supervise starts a pod again that ended by itself.
func (c *Cluster) supervise(p *Pod, started *process) {
	<-started.ended
	p.mu.Lock()
	crashed := p.wanted && p.process == started
	if crashed {
		p.crashes++
	}
	p.mu.Unlock()
	if !crashed {
		return
	}
	c.log("%s ended by itself: %v", p.Name, started.command.ProcessState)
	if workload.Pause(c.ctx, 500*time.Millisecond) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted && p.process == started {
		if err := c.launch(p); err != nil {
			c.log("%v", err)
		}
	}
}

func (p *Pod) want(running bool) *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = running
	return p.process
}

// Crashes is how often the pod ended by itself.
func (p *Pod) Crashes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.crashes
}

// Kill is kill -9 of some pods at one time.
func (c *Cluster) Kill(pods ...*Pod) {
	var ended []*process
	for _, p := range pods {
		if running := p.want(false); running != nil {
			running.signal(syscall.SIGKILL)
			ended = append(ended, running)
		}
	}
	for _, e := range ended {
		<-e.ended
	}
}

// stopTimeout is what a pod gets to end after SIGTERM, well under Kubernetes' 30 s.
const stopTimeout = 20 * time.Second

// Stop is SIGTERM; a pod that does not end is killed, and that is an error.
func (c *Cluster) Stop(p *Pod) error {
	running := p.want(false)
	if running == nil {
		return nil
	}
	running.signal(syscall.SIGTERM)
	select {
	case <-running.ended:
		if code := running.command.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("%s ended with %v after SIGTERM", p.Name, running.command.ProcessState)
		}
		return nil
	case <-time.After(stopTimeout):
		running.signal(syscall.SIGQUIT) // For the goroutines in its log.
		select {
		case <-running.ended:
		case <-time.After(5 * time.Second):
		}
		c.Kill(p)
		return fmt.Errorf("%s did not end within %v of SIGTERM", p.Name, stopTimeout)
	}
}

// Signal sends a signal to a pod's process.
func (c *Cluster) Signal(p *Pod, s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process != nil {
		p.process.signal(s)
	}
}

// Wipe removes the data of a pod that does not run.
func (c *Cluster) Wipe(p *Pod) error { return os.RemoveAll(p.Dir) }

// Close ends everything.
func (c *Cluster) Close() {
	c.cancel()
	c.Kill(c.Pods...)
	c.tasks.Wait()
	c.Network.Close()
	_ = c.claim.Close()
	for _, p := range c.Pods {
		_ = p.conn.Close()
	}
}

// status is what a pod says about itself.
func (c *Cluster) status(ctx context.Context, p *Pod) (*kvv1.StatusResponse, *kvv1.PodStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return workload.Status(ctx, p.Name, p.conn)
}

// Master is the pod that says so in the highest term, or nil.
func (c *Cluster) Master(ctx context.Context) *Pod {
	var master *Pod
	term := uint64(0)
	for _, p := range c.Pods {
		if _, own, err := c.status(ctx, p); err == nil && own.Role == kvv1.PodStatus_ROLE_MASTER && own.Term >= term {
			master, term = p, own.Term
		}
	}
	return master
}

// WaitReady returns when all pods are ready, all are voters, and one is the
// master.
func (c *Cluster) WaitReady(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := c.ready(ctx)
		if err == nil {
			return nil
		}
		if workload.Pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("not ready after %v: %w", timeout, err)
		}
	}
}

func (c *Cluster) ready(ctx context.Context) error {
	for _, p := range c.Pods {
		if err := readyz(ctx, p); err != nil {
			return err
		}
	}
	return workload.Whole(ctx, c.Pods[0].conn, podCount)
}

// readyz asks what a readiness probe asks.
func readyz(ctx context.Context, p *Pod) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.HTTP+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body := make([]byte, 1024)
		n, _ := response.Body.Read(body)
		return fmt.Errorf("%s is not ready: %s", p.Name, strings.TrimSpace(string(body[:n])))
	}
	return nil
}
