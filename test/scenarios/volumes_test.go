//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/history"
)

// run is kvd with another verb than serve, or a second process, beside a pod. An
// error is a status other than 0, with which it has ended by itself.
func (s *set) run(ordinal int, verb string, within time.Duration, flags ...string) (string, error) {
	s.t.Helper()
	p := s.pod(ordinal, nextAddress())
	p.Log = filepath.Join(s.t.TempDir(), verb)
	p.Command = append(p.Command, flags...)
	p.Command[1] = verb
	if err := p.Start(); err != nil {
		s.t.Fatal(err)
	}
	defer p.Close()
	select {
	case <-p.Ended():
	case <-time.After(within):
		s.t.Errorf("kvd %s in %s does not end within %s", verb, p.Name, within)
		cluster.Kill(p.Pod)
	}
	var err error
	if !p.State().Success() {
		err = errors.New(p.State().String())
	}
	s.t.Logf("kvd %s in %s: %v: %s", verb, p.Name, err, p.Printed())
	return p.Printed(), err
}

// put writes key, with a value that begins with it, through one pod.
func (s *set) put(ordinal int, key string) (revision int64, err error) {
	return s.putTo(s.pods[ordinal], key)
}

func (s *set) putTo(p *pod, key string) (revision int64, err error) {
	value := fmt.Sprintf("%s %d", key, values.Add(1))
	op := &history.Op{Client: -1, Name: "put", Writes: []history.Write{{Key: key, Value: value}}}
	send := func(ctx context.Context) (history.Answer, error) {
		r, err := kvv1.NewKVServiceClient(p.Conn()).Put(ctx, &kvv1.PutRequest{Key: []byte(key), Value: []byte(value)})
		return history.NewAnswer(r.GetHeader()), err
	}
	if s.load != nil {
		err = s.load.record(op, send)
		return op.Revision, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	a, err := send(ctx)
	return a.Revision, err
}

var values atomic.Int64

func (s *set) mustPut(ordinal int, key string) int64 {
	s.t.Helper()
	revision := int64(0)
	s.eventually("put "+key, whole, func() (err error) {
		revision, err = s.put(ordinal, key)
		return err
	})
	return revision
}

// mustHave reads keys from each pod that runs.
func (s *set) mustHave(keys ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), whole)
	defer cancel()
	for _, p := range s.pods {
		for _, key := range keys {
			r, err := kvv1.NewKVServiceClient(p.Conn()).Range(ctx, &kvv1.RangeRequest{Key: []byte(key)})
			if err != nil || len(r.GetKvs()) != 1 || !strings.HasPrefix(string(r.GetKvs()[0].GetValue()), key) {
				s.t.Errorf("%s has %v of %s, %v", p.Name, r.GetKvs(), key, err)
			}
		}
	}
}

// S10: a second process on a volume waits, says so, and ends; a master that was
// stopped while another one came acknowledges nothing.
func TestS10TwoProcessesOneIdentity(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	s.startLoad()
	output, err := s.run(0, "serve", 30*time.Second)
	if err == nil {
		t.Error("the second process ended with status 0")
	}
	for _, line := range []string{"waiting for it to end", "end the other process"} {
		if !strings.Contains(output, line) {
			t.Errorf("it does not say %q", line)
		}
	}
	old := s.master()
	frozen := s.pods[old]
	if err := frozen.Pause(); err != nil {
		t.Fatal(err)
	}
	delete(s.pods, old)
	s.eventually("another master", whole, func() error {
		for o := range s.pods {
			if _, err := s.put(o, "without the old master"); err != nil {
				return err
			}
		}
		return nil
	})
	late := make(chan error, 1)
	s.pods[old] = frozen
	go func() {
		// It is in the socket when the old master wakes up.
		_, err := s.putTo(frozen, "late")
		late <- err
	}()
	time.Sleep(time.Second)
	if err := frozen.Resume(); err != nil {
		t.Fatal(err)
	}
	t.Logf("a write that waited in the old master: %v", <-late)
	s.verify(0, 1, 2)
}

// S11: volumes that are copied into another namespace. Even when the names there
// lead to the original's pods, the copy says nothing to them.
func TestS11CopiedVolumes(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	s.startLoad()
	time.Sleep(time.Second)
	copied := newSet(t, "there", 0, 3)
	for o := range 3 {
		s.stop(o)
		if err := os.CopyFS(copied.volume(o), os.DirFS(s.volume(o))); err != nil {
			t.Fatal(err)
		}
		s.start(o)
		s.awaitWhole(0, 1, 2)
	}
	members, refused := s.members(0), map[int]int{}
	for o, p := range s.pods {
		refused[o] = p.refused(".*")
	}
	for o := range 3 {
		p := copied.startAt(o, nextAddress())
		names.set(p.host, s.pods[o].ip)
	}
	for o := range 3 {
		copied.awaitUnready(o, "kvd adopt")
	}
	time.Sleep(2 * time.Second)
	for o, p := range s.pods {
		if n := p.refused(".*") - refused[o]; n > 0 {
			t.Errorf("%s refused %d connections of the copy", podName(o), n)
		}
	}
	for o := range 3 {
		names.set(copied.pods[o].host, copied.pods[o].ip)
	}
	if _, err := copied.run(1, "adopt", 20*time.Second); err != nil {
		t.Fatal(err)
	}
	copied.awaitWhole(0, 1, 2)
	if copied.cluster == s.cluster {
		t.Error("the copy has the cluster uuid of the original")
	}
	if after := s.members(0); !slices.Equal(members, after) {
		t.Errorf("the original has the members %v, before %v", after, members)
	}
	s.verify(0, 1, 2)
}

// S18: a pod loses its volume. S17: the member that will never come back stays
// one until its pod's new disk replaces it.
//
// Scenario: S17
func TestS18VolumeLost(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	s.startLoad()
	for _, who := range []string{"follower", "master"} {
		lost, other := s.followers()[1], s.followers()[0]
		if who == "master" {
			lost = s.master()
		}
		before := s.members(other)
		s.kill(lost)
		s.wipe(lost)
		time.Sleep(5 * time.Second)
		if after := s.members(other); !slices.Equal(before, after) {
			t.Errorf("the dead %s was removed by time: %v, before %v", who, after, before)
		}
		s.start(lost)
		if took := s.awaitWhole(0, 1, 2); took > 30*time.Second {
			t.Errorf("the %s was back after %s", who, took)
		}
		for i, id := range s.members(other) {
			if (id == before[i]) != (i != lost) {
				t.Errorf("%s: members %v, before %v", who, s.members(other), before)
			}
		}
	}
	s.verify(0, 1, 2)
}

// S18: a write is acknowledged by two while the third lags; then one of the two
// loses its volume, and the other is down. The two that remain must not elect.
func TestS18NoElectionWithoutTheWrite(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	l := s.startLoad()
	time.Sleep(time.Second)
	has, lags, loses := s.master(), s.followers()[0], s.followers()[1]
	laggard := s.pods[lags]
	if err := laggard.Pause(); err != nil {
		t.Fatal(err)
	}
	s.mustPut(has, "on two disks")
	s.kill(has, loses)
	s.wipe(loses)
	s.start(loses)
	if err := laggard.Resume(); err != nil {
		t.Fatal(err)
	}
	s.awaitUnready(loses, "no master")
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for o, p := range s.pods {
			if status, err := p.status(true); err == nil && status.GetPods()[0].GetRole() == kvv1.PodStatus_ROLE_MASTER {
				t.Fatalf("%s is the master, and lacks the write", podName(o))
			}
		}
	}
	s.start(has)
	s.awaitWhole(0, 1, 2)
	s.mustHave("on two disks")
	l.during("the end", func() { time.Sleep(time.Second) })
	s.verify(0, 1, 2)
}

// S19: the lowest ordinal loses its volume: also while it finds nobody, while
// the API is away, and while the others restart.
func TestS19LowestVolumeLost(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	s.startLoad()
	lose := func() { s.kill(0); s.wipe(0) }

	lose()
	names.become(s.service, failing)
	s.start(0)
	s.awaitUnready(0, s.cluster)
	time.Sleep(3 * time.Second)
	s.awaitUnready(0, s.cluster)
	names.become(s.service, healthy)
	s.awaitWhole(0, 1, 2)

	lose()
	s.api.setAway(true)
	s.start(0)
	s.awaitUnready(0, "it has no certificate for the other pods yet")
	s.api.setAway(false)
	s.awaitWhole(0, 1, 2)

	lose()
	s.kill(1, 2)
	s.start(0)
	s.awaitUnready(0, s.cluster)
	time.Sleep(2 * time.Second)
	s.start(2)
	s.start(1)
	if took := s.awaitWhole(0, 1, 2); took > 30*time.Second {
		t.Errorf("whole after %s", took)
	}
	if text, err := os.ReadFile(s.volume(0) + ".log"); err != nil || strings.Count(string(text), "founds the cluster") != 1 {
		t.Errorf("kv-0 founded a cluster again (%v)", err)
	}
	s.verify(0, 1, 2)
}

// S20: a majority loses its volumes, and the wiped pods start first. Nothing
// happens until a person recovers on the survivor. All of them are alive meanwhile.
//
// Scenario: S32
func TestS20LostMajority(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	before := s.cluster
	revision := s.mustPut(0, "kept")
	s.mustHave("kept")
	if output, err := s.run(1, "recover", 20*time.Second); err == nil || !strings.Contains(output, "is the master") {
		t.Errorf("with a quorum: %v", err)
	}
	s.stop(0, 1, 2)
	s.wipe(0, 2)
	// While the survivor's name is missing they are ready, as in any cold start: else
	// Kubernetes would not create it. They found nothing.
	s.start(0, 2)
	time.Sleep(2 * time.Second)
	s.start(1)
	s.awaitUnready(0, "the cluster has no master now")
	s.awaitUnready(2, "the cluster has no master now")
	s.awaitLine(1, "there is no master: a majority of the voters must run", 40*time.Second)
	if _, err := s.put(1, "refused"); err == nil || s.api.cluster() != before {
		t.Errorf("a write was accepted without a quorum (%v), or the record changed", err)
	}
	if output, err := s.run(1, "recover", 20*time.Second); err == nil || !strings.Contains(output, "--lost kv-0,kv-2") {
		t.Errorf("without a word on who is lost: %v", err)
	}
	if _, err := s.run(1, "recover", 20*time.Second, "--lost", "kv-0,kv-2"); err != nil {
		t.Fatal(err)
	}
	s.eventually("the record names another cluster", whole, func() error {
		if s.cluster = s.api.cluster(); s.cluster == before {
			return errors.New("it does not")
		}
		return nil
	})
	s.former = before
	s.awaitWhole(0, 1, 2)
	s.mustHave("kept")
	if again := s.mustPut(0, "after"); again <= revision {
		t.Errorf("revision %d, before %d", again, revision)
	}
	s.mustHave("kept", "after")
	aside, err := filepath.Glob(filepath.Join(s.volume(1), "replaced-*", "store.db"))
	if err != nil || len(aside) != 1 {
		t.Errorf("the old data is in %v, %v", aside, err)
	}
	s.checkLogs()
}

// S21: the file of one pod is damaged while it is down. The pod sets it aside and
// begins anew; but not before the others can do without it. Until then it waits.
func TestS21DamagedData(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	s.startLoad()
	time.Sleep(time.Second)
	damaged, other := s.followers()[1], s.followers()[0]
	before := s.members(other)
	s.stop(0, 1, 2)
	s.damage(damaged)

	s.start(damaged)
	s.awaitUnready(damaged, "corrupt data")
	s.awaitLine(damaged, "it is kept until the others can do without it", whole)
	if aside := s.aside(damaged); len(aside) > 0 {
		t.Errorf("without a master it has set aside %v", aside)
	}
	s.start(slices.DeleteFunc(ordinals(0, 3), func(o int) bool { return o == damaged })...)
	s.awaitEnd(damaged)
	s.start(damaged)
	s.awaitWhole(0, 1, 2)
	if aside := s.aside(damaged); len(aside) != 1 {
		t.Errorf("it has set aside %v", aside)
	}
	for i, id := range s.members(other) {
		if (id == before[i]) != (i != damaged) {
			t.Errorf("members %v, before %v", s.members(other), before)
		}
	}
	s.verify(0, 1, 2)
}

// S44: the files of both followers are damaged while they run. One gives up its
// data, the other one votes on until the first is whole again: the master stays.
func TestS44DamageInTwoPods(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	s.startLoad()
	s.mustPut(0, "kept")
	for o := range 3 {
		s.stop(o) // What was written is in the files now.
		s.start(o)
		s.awaitWhole(0, 1, 2)
	}
	master, damaged := s.master(), s.followers()
	term, before := s.term(master), s.members(master)
	for _, o := range damaged {
		s.damageWhileItRuns(o)
	}
	for _, o := range damaged {
		s.eventually(podName(o)+" notices", whole, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, err := kvv1.NewKVServiceClient(s.pods[o].Conn()).Range(ctx, &kvv1.RangeRequest{Key: []byte("kept")})
			if !s.said(o, "is damaged") {
				return fmt.Errorf("it does not; a read gave %v", err)
			}
			return nil
		})
	}
	for range damaged {
		s.eventually("one of them gives up its data", whole, func() error {
			for _, o := range damaged {
				select {
				case <-s.pods[o].Ended():
					s.kill(o)
					s.start(o)
					return nil
				default:
				}
			}
			return errors.New("both run")
		})
	}
	s.awaitWhole(0, 1, 2)
	for o, id := range s.members(master) {
		if (id == before[o]) != (o == master) {
			t.Errorf("members %v, before %v", s.members(master), before)
		}
	}
	if after := s.term(master); after != term {
		t.Errorf("term %d, before %d: there was an election", after, term)
	}
	s.mustHave("kept")
	s.verify(0, 1, 2)
}

// damageWhileItRuns changes bytes on every page of an open database but the first two.
func (s *set) damageWhileItRuns(ordinal int) {
	s.t.Helper()
	file, err := os.OpenFile(filepath.Join(s.volume(ordinal), "store.db"), os.O_RDWR, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	one := make([]byte, 1)
	for at := int64(32 << 10); ; at += 512 {
		if _, err := file.ReadAt(one, at); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			s.t.Fatal(err)
		}
		one[0] ^= 0x55
		if _, err := file.WriteAt(one, at); err != nil {
			s.t.Fatal(err)
		}
	}
}

// damage changes bytes on every page of a database.
func (s *set) damage(ordinal int) {
	s.t.Helper()
	path := filepath.Join(s.volume(ordinal), "store.db")
	text, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(text); i += 512 {
		text[i] ^= 0x55
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// aside is what a pod keeps of earlier members.
func (s *set) aside(ordinal int) []string {
	s.t.Helper()
	aside, err := filepath.Glob(filepath.Join(s.volume(ordinal), "removed-*", "store.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	return aside
}

// awaitEnd waits until a pod has ended by itself, with an error.
func (s *set) awaitEnd(ordinal int) {
	s.t.Helper()
	p := s.pods[ordinal]
	s.eventually(p.Name+" ends by itself", whole, func() error {
		select {
		case <-p.Ended():
			return nil
		default:
			return fmt.Errorf("it runs, ready or not: %v", p.readiness())
		}
	})
	if p.State().ExitCode() <= 0 {
		s.t.Errorf("%s ended with %v", p.Name, p.State())
	}
	s.kill(ordinal)
}
