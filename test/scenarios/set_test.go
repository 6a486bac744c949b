//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
)

// whole is the promise: all pods ready again with no human.
const whole = 60 * time.Second

// set is a StatefulSet kv whose pods are processes. Each pod that starts has a
// new address, as in Kubernetes.
type set struct {
	t       *testing.T
	service string
	dir     string
	api     *api
	pods    map[int]*pod // that run, by ordinal
	load    *load
	// certify gives a pod that starts its certificates; nil: it makes its own.
	certify func(*cluster.Pod)
	// apart: clients are served on another address than peers.
	apart bool
	// unpublished: the addresses of pods that start do not get into DNS.
	unpublished bool
	// cluster is the uuid, once it is known; former is the one that it goes on
	// from after a recovery.
	cluster, former string
}

// pod is what Kubernetes makes anew at each start.
type pod struct {
	*cluster.Pod
	host, ip string
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
	if err := cluster.NoteSources(); err != nil {
		t.Fatal(err)
	}
	s := &set{
		t: t, dir: t.TempDir(), api: newAPI(t, uid, start, replicas), pods: map[int]*pod{},
		service: fmt.Sprintf("kv%d.%s", services.Add(1), domain),
	}
	t.Cleanup(func() {
		for _, p := range s.pods {
			p.Close()
			if t.Failed() {
				t.Log(cluster.Last(p.Pod))
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

// pod is one that does not run yet.
func (s *set) pod(ordinal int, ip string) *pod {
	clientIP := ip
	if s.apart {
		clientIP = nextAddress()
	}
	p := &pod{host: podName(ordinal) + "." + s.service, ip: ip, Pod: &cluster.Pod{
		Name: podName(ordinal), Dir: s.volume(ordinal), Log: s.volume(ordinal) + ".log",
		Client: clientIP + ":7400", Peer: ip + ":7401", HTTP: ip + ":7402",
	}}
	if s.certify != nil {
		s.certify(p.Pod)
	}
	p.Command = p.Serve(filepath.Join(os.Getenv(programsVariable), "kvd"), "--service", s.service)
	host, port, _ := net.SplitHostPort(s.api.server.Listener.Addr().String())
	p.Env = []string{"KUBERNETES_SERVICE_HOST=" + host, "KUBERNETES_SERVICE_PORT=" + port}
	return p
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
	p := s.pod(ordinal, ip)
	if err := p.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.pods[ordinal] = p
	s.load.follow(ordinal, p)
	return p
}

// kill ends pods as a node without power does; their names stay in DNS until
// they are created again.
func (s *set) kill(ordinals ...int) {
	cluster.Kill(s.these(ordinals)...)
	s.forget(ordinals)
}

// stop deletes pods, all at once: they end by themselves, and their names go.
func (s *set) stop(ordinals ...int) {
	s.t.Helper()
	if err := cluster.Stop(s.these(ordinals)...); err != nil {
		s.t.Error(err)
	}
	for _, o := range ordinals {
		names.set(s.pods[o].host, "")
	}
	s.forget(ordinals)
}

func (s *set) these(ordinals []int) (pods []*cluster.Pod) {
	for _, o := range ordinals {
		pods = append(pods, s.pods[o].Pod)
	}
	return pods
}

func (s *set) forget(ordinals []int) {
	for _, o := range ordinals {
		s.pods[o].Close()
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
	took := cluster.Eventually(s.t, what, within, func(context.Context) error { return check() })
	s.t.Logf("%s: after %s", what, took.Round(10*time.Millisecond))
	return took
}

// status is the cluster as a pod sees it, or the pod itself.
func (p *pod) status(ownOnly bool) (*kvv1.StatusResponse, error) {
	return p.Status(context.Background(), ownOnly)
}

// wholeness says what is missing until these pods are the members, all of them
// ready, one the master and the others followers, in the eyes of each.
func (s *set) wholeness(want []string) error {
	for _, o := range slices.Sorted(maps.Keys(s.pods)) {
		p := s.pods[o]
		status, err := p.status(false)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		if id := status.GetClusterId(); id == "" || id == s.former {
			return fmt.Errorf("%s has no data of the cluster yet", p.Name)
		}
		if s.cluster == "" {
			s.cluster = status.GetClusterId()
		}
		if status.GetClusterId() != s.cluster {
			s.t.Fatalf("%s is of cluster %s, and the cluster was %s", p.Name, status.GetClusterId(), s.cluster)
		}
		var members []string
		masters := 0
		for _, m := range status.GetPods() {
			members = append(members, m.GetName())
			switch {
			case !m.GetReady():
				return fmt.Errorf("%s says that %s is not ready: %s", p.Name, m.GetName(), m.GetNotReadyBecause())
			case m.GetRole() == kvv1.PodStatus_ROLE_MASTER:
				masters++
			case m.GetRole() != kvv1.PodStatus_ROLE_FOLLOWER:
				return fmt.Errorf("%s says that %s is %v", p.Name, m.GetName(), m.GetRole())
			}
		}
		if masters != 1 || !slices.Equal(members, want) {
			return fmt.Errorf("%s sees the members %v with %d masters", p.Name, members, masters)
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
			if err == nil && status.GetPods()[0].GetRole() == kvv1.PodStatus_ROLE_MASTER {
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
	if err != nil {
		s.t.Fatal(err)
	}
	return status.GetPods()[0].GetTerm()
}

// readiness is what the probe says: nil is ready.
func (p *pod) readiness() error { return p.Ready(context.Background()) }

func (p *pod) get(path string) (text string, code int, err error) {
	return p.Get(context.Background(), path)
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
