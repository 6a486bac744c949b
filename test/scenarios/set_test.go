//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	// whole is the promise: all pods ready again with no human.
	whole = 60 * time.Second
	// stopLimit is Kubernetes' patience with a pod that is told to stop.
	stopLimit = 30 * time.Second
	poll      = 50 * time.Millisecond
)

// set is a StatefulSet kv whose pods are processes. Each pod that starts has a
// new address, as in Kubernetes.
type set struct {
	t       *testing.T
	service string
	dir     string
	api     *api
	pods    map[int]*pod // that run, by ordinal
	load    *load
	// apart: clients are served on another address than peers.
	apart bool
	// unpublished: the addresses of pods that start do not get into DNS.
	unpublished bool
	// cluster is the uuid, once it is known; former is the one that it goes on
	// from after a recovery.
	cluster, former string
}

// pod is one process.
type pod struct {
	name, host, ip string
	log            string // the path of what it prints
	command        *exec.Cmd
	ended          chan struct{}
	conn           *grpc.ClientConn
}

var addresses, services atomic.Int64

// nextAddress is one that no pod has had.
func nextAddress() string {
	n := addresses.Add(1)
	return fmt.Sprintf("127.1.%d.%d", n/200, 1+n%200)
}

// newSet makes a StatefulSet in a namespace of a given uid, and no pod yet.
func newSet(t *testing.T, uid string, start, replicas int) *set {
	t.Helper()
	s := &set{
		t: t, dir: t.TempDir(), api: newAPI(t, uid, start, replicas), pods: map[int]*pod{},
		service: fmt.Sprintf("kv%d.%s", services.Add(1), domain),
	}
	t.Cleanup(func() {
		names.become(healthy)
		for _, p := range s.pods {
			p.kill()
			if t.Failed() {
				t.Logf("%s said:\n%s", p.name, p.tail())
			}
		}
	})
	return s
}

// newCluster is a StatefulSet whose pods are ready.
func newCluster(t *testing.T, replicas int) *set {
	t.Helper()
	s := newSet(t, "here", 0, replicas)
	s.start(ordinals(0, replicas)...)
	s.awaitWhole(ordinals(0, replicas)...)
	return s
}

// ordinals are n from start on.
func ordinals(start, n int) []int {
	var all []int
	for i := range n {
		all = append(all, start+i)
	}
	return all
}

func podName(ordinal int) string { return "kv-" + strconv.Itoa(ordinal) }

func podNames(ordinals []int) []string {
	var all []string
	for _, o := range ordinals {
		all = append(all, podName(o))
	}
	return all
}

func (s *set) volume(ordinal int) string { return filepath.Join(s.dir, podName(ordinal)) }

// command is kvd in a pod of this set.
func (s *set) command(ordinal int, ip, clientIP string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(s.api.server.Listener.Addr().String())
	c := exec.Command(filepath.Join(os.Getenv(programsVariable), "kvd"), "serve", "--name", podName(ordinal), "--data-dir", s.volume(ordinal),
		"--service", s.service, "--listen-client", clientIP+":7400", "--listen-peer", ip+":7401", "--listen-http", ip+":7402")
	c.Env = append(os.Environ(), "KUBERNETES_SERVICE_HOST="+host, "KUBERNETES_SERVICE_PORT="+port)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

// start creates pods, one right after the other.
func (s *set) start(ordinals ...int) {
	s.t.Helper()
	for _, o := range ordinals {
		p := s.startAt(o, nextAddress())
		if !s.unpublished {
			names.set(p.host, p.ip)
		}
	}
}

func (s *set) startAt(ordinal int, ip string) *pod {
	s.t.Helper()
	p := &pod{name: podName(ordinal), host: podName(ordinal) + "." + s.service, ip: ip, log: s.volume(ordinal) + ".log", ended: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	clientIP := ip
	if s.apart {
		clientIP = nextAddress()
	}
	p.command = s.command(ordinal, ip, clientIP)
	p.command.Stdout, p.command.Stderr = log, log
	if err := p.command.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		p.command.Wait() //nolint:errcheck // Its state is looked at.
		close(p.ended)
	}()
	p.conn, err = grpc.NewClient("passthrough:///"+clientIP+":7400", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.pods[ordinal] = p
	s.load.follow(ordinal, p)
	return p
}

// kill ends a process at once.
func (p *pod) kill() {
	p.command.Process.Kill() //nolint:errcheck // It may have ended.
	<-p.ended
	p.conn.Close() //nolint:errcheck // Nothing is under way.
}

// kill ends pods as a node without power does; their names stay in DNS until
// they are created again.
func (s *set) kill(ordinals ...int) {
	for _, o := range ordinals {
		s.pods[o].kill()
		delete(s.pods, o)
	}
}

// stop deletes pods, all at once: they end by themselves, and their names go.
func (s *set) stop(ordinals ...int) {
	s.t.Helper()
	for _, o := range ordinals {
		if err := s.pods[o].command.Process.Signal(syscall.SIGTERM); err != nil {
			s.t.Errorf("stop %s: %v", podName(o), err)
		}
	}
	for _, o := range ordinals {
		p := s.pods[o]
		select {
		case <-p.ended:
		case <-time.After(stopLimit):
			s.t.Errorf("%s does not end within %s", p.name, stopLimit)
		}
		if code := p.command.ProcessState.ExitCode(); code != 0 {
			s.t.Errorf("%s ended with status %d", p.name, code)
		}
		names.set(p.host, "")
		p.conn.Close() //nolint:errcheck // Nothing is under way.
		delete(s.pods, o)
	}
}

// wipe loses the volumes of pods that do not run.
func (s *set) wipe(ordinals ...int) {
	s.t.Helper()
	for _, o := range ordinals {
		if err := os.RemoveAll(s.volume(o)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// eventually repeats a check until it gives no error, and says how long it took.
func (s *set) eventually(what string, within time.Duration, check func() error) time.Duration {
	s.t.Helper()
	begun := time.Now()
	for {
		err := check()
		took := time.Since(begun)
		if err == nil {
			s.t.Logf("%s: after %s", what, took.Round(10*time.Millisecond))
			return took
		}
		if took > within {
			s.t.Fatalf("not within %s: %s: %v", within, what, err)
		}
		time.Sleep(poll)
	}
}

// status is the cluster as a pod sees it, or the pod itself.
func (p *pod) status(ownOnly bool) (*kvv1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return kvv1.NewClusterServiceClient(p.conn).Status(ctx, &kvv1.StatusRequest{ThisPodOnly: ownOnly})
}

// wholeness says what is missing until these pods are the members, all of them
// ready, one the master and the others followers, in the eyes of each.
func (s *set) wholeness(want []string) error {
	for _, o := range slices.Sorted(maps.Keys(s.pods)) {
		p := s.pods[o]
		status, err := p.status(false)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if id := status.GetClusterId(); id == "" || id == s.former {
			return fmt.Errorf("%s has no data of the cluster yet", p.name)
		}
		if s.cluster == "" {
			s.cluster = status.GetClusterId()
		}
		if status.GetClusterId() != s.cluster {
			s.t.Fatalf("%s is of cluster %s, and the cluster was %s", p.name, status.GetClusterId(), s.cluster)
		}
		var members []string
		masters := 0
		for _, m := range status.GetPods() {
			members = append(members, m.GetName())
			switch {
			case !m.GetReady():
				return fmt.Errorf("%s says that %s is not ready: %s", p.name, m.GetName(), m.GetNotReadyBecause())
			case m.GetRole() == kvv1.PodStatus_ROLE_MASTER:
				masters++
			case m.GetRole() != kvv1.PodStatus_ROLE_FOLLOWER:
				return fmt.Errorf("%s says that %s is %v", p.name, m.GetName(), m.GetRole())
			}
		}
		if masters != 1 || !slices.Equal(members, want) {
			return fmt.Errorf("%s sees the members %v with %d masters", p.name, members, masters)
		}
	}
	return nil
}

// awaitWhole waits until these are the voters, and all of them ready.
func (s *set) awaitWhole(ordinals ...int) time.Duration {
	s.t.Helper()
	want := podNames(ordinals)
	return s.eventually(fmt.Sprintf("%v are the cluster", want), whole, func() error { return s.wholeness(want) })
}

// master is the ordinal of the pod that is it.
func (s *set) master() int {
	s.t.Helper()
	master := -1
	s.eventually("there is a master", whole, func() error {
		for o, p := range s.pods {
			status, err := p.status(true)
			if err == nil && len(status.GetPods()) == 1 && status.GetPods()[0].GetRole() == kvv1.PodStatus_ROLE_MASTER {
				master = o
				return nil
			}
		}
		return errors.New("none says that it is")
	})
	return master
}

// followers are the ordinals of the other pods, the lowest first.
func (s *set) followers() []int {
	s.t.Helper()
	master := s.master()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.pods)), func(o int) bool { return o == master })
}

// members are the ids that a pod sees.
func (s *set) members(ordinal int) []string {
	s.t.Helper()
	status, err := s.pods[ordinal].status(false)
	if err != nil {
		s.t.Fatal(err)
	}
	var ids []string
	for _, m := range status.GetPods() {
		ids = append(ids, m.GetMemberId())
	}
	return ids
}

func (s *set) term(ordinal int) uint64 {
	s.t.Helper()
	status, err := s.pods[ordinal].status(true)
	if err != nil || len(status.GetPods()) != 1 {
		s.t.Fatal(status, err)
	}
	return status.GetPods()[0].GetTerm()
}

// readiness is what the probe says: nil is ready.
func (p *pod) readiness() error {
	text, code, err := p.get("/readyz?verbose")
	if err == nil && code != http.StatusOK {
		err = errors.New(text)
	}
	return err
}

func (p *pod) get(path string) (text string, code int, err error) {
	c := http.Client{Timeout: 2 * time.Second}
	response, err := c.Get("http://" + p.ip + ":7402" + path)
	if err != nil {
		return "", 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), response.StatusCode, err
}

// awaitReady is what OrderedReady waits for.
func (s *set) awaitReady(ordinals ...int) {
	s.t.Helper()
	for _, o := range ordinals {
		s.eventually(podName(o)+" is ready", whole, func() error { return s.pods[o].readiness() })
	}
}

// awaitUnready waits until a pod says that it is not ready, with a reason.
func (s *set) awaitUnready(ordinal int, reason string) {
	s.t.Helper()
	s.eventually(podName(ordinal)+" is not ready: "+reason, whole, func() error {
		err := s.pods[ordinal].readiness()
		if _, code, live := s.pods[ordinal].get("/livez"); err != nil && live == nil && code != http.StatusOK {
			s.t.Errorf("%s is not alive because it is not ready", podName(ordinal))
		}
		if err == nil || !strings.Contains(err.Error(), reason) {
			return fmt.Errorf("it says %v", err)
		}
		return nil
	})
}

// refused is how many connections a pod has refused for a reason.
func (p *pod) refused(reason string) int {
	text, _, err := p.get("/metrics")
	if err != nil {
		return 0
	}
	total := 0
	for _, m := range regexp.MustCompile(`(?m)^baton_replication_handshakes_refused_total\{reason="`+reason+`",side="in"\} (\d+)`).FindAllStringSubmatch(text, -1) {
		n, _ := strconv.Atoi(m[1])
		total += n
	}
	return total
}

// awaitLine waits until a pod has printed something.
func (s *set) awaitLine(ordinal int, line string, within time.Duration) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s says %q", podName(ordinal), line), within, func() error {
		if !s.said(ordinal, line) {
			return errors.New("it does not")
		}
		return nil
	})
}

func (s *set) said(ordinal int, line string) bool {
	s.t.Helper()
	text, err := os.ReadFile(s.volume(ordinal) + ".log")
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Contains(string(text), line)
}

// tail is the end of what a pod printed, for a person.
func (p *pod) tail() string {
	text, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
