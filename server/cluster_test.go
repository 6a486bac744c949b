package server

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

type fakeWatchStream struct {
	grpc.ServerStreamingServer[kvv1.WatchResponse]
	ctx context.Context
}

func (s *fakeWatchStream) Context() context.Context { return s.ctx }

// three are a cluster whose master is kv-0.
func three(t *testing.T) []*fakePod {
	t.Helper()
	pods := []*fakePod{newPod(t, "kv-0"), newPod(t, "kv-1"), newPod(t, "kv-2")}
	wire(pods...)
	return pods
}

// runMaster runs what the master runs, until the test ends.
func runMaster(t *testing.T, p *fakePod) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); p.RunMaster(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	await(t, "a leaseExpirer", func() bool { return p.leaseExpirer.Load() != nil })
}

func TestStatusOfEveryMember(t *testing.T) {
	pods := three(t)
	pods[1].log.peers["kv-2"].Close() // One that cannot be reached.
	for range 3 {
		pods[1].store.put("v") // Of five entries; see fakeLog.Status.
	}
	response, err := kvv1.NewClusterServiceClient(pods[1].conn).Status(within5s(t), &kvv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	all := response.GetPods()
	if len(all) != 3 || response.GetClusterId() != "cluster" {
		t.Fatal(response)
	}
	if all[0].GetRole() != kvv1.PodStatus_ROLE_MASTER || !all[0].GetReady() || all[0].GetVersion() != "test" {
		t.Errorf("the master: %v", all[0])
	}
	if all[1].GetRevision() != pods[1].store.Revision() || all[1].GetLag() != 2 {
		t.Errorf("itself: %v", all[1])
	}
	if all[2].GetReady() || !strings.HasPrefix(all[2].GetNotReadyBecause(), "does not answer") {
		t.Errorf("the absent one: %v", all[2])
	}
}

// Who should be a member and is none yet is shown if it answers; one that does
// not exist is not.
func TestStatusOfJoiningPods(t *testing.T) {
	pods := three(t)
	if err := pods[2].conn.Close(); err != nil {
		t.Fatal(err)
	}
	log := pods[0].log
	log.mu.Lock()
	log.members, log.joining, log.peers["kv-3"] = []string{"kv-0", "kv-1"}, []string{"kv-2", "kv-3"}, pods[2].conn
	log.mu.Unlock()
	response, err := kvv1.NewClusterServiceClient(pods[0].conn).Status(within5s(t), &kvv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if all := response.GetPods(); len(all) != 3 || all[2].GetName() != "kv-2" {
		t.Error(all)
	}
}

// A follower passes keep-alives on to the master, those of all clients over one
// stream; when the master is another, the next one goes there.
func TestKeepAliveThroughAFollower(t *testing.T) {
	pods := three(t)
	pods[0].store.grant(5, 3)
	pods[0].store.apply(&kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte("k"), Lease: 5}}})
	pods[2].store.grant(5, 4)
	runMaster(t, pods[0])
	client := kvv1.NewLeaseServiceClient(pods[1].conn)
	keepAlive := func(id int64) (*kvv1.KeepAliveResponse, error) {
		stream, err := client.KeepAlive(within5s(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&kvv1.KeepAliveRequest{Id: id}); err != nil {
			t.Fatal(err)
		}
		return stream.Recv()
	}
	for range 3 {
		if r, err := keepAlive(5); err != nil || r.GetTtlSeconds() != 3 || r.GetHeader().GetPod() != "kv-0" {
			t.Fatal(r, err)
		}
	}
	if r, err := keepAlive(6); err != nil || r.GetTtlSeconds() != 0 {
		t.Fatal(r, err)
	}
	if r, err := client.TimeToLive(within5s(t), &kvv1.TimeToLiveRequest{Id: 5, Keys: true}); err != nil || r.GetRemainingSeconds() != 3 || r.GetRemainingMs() > 3000 || r.GetRemainingMs() < 2000 || len(r.GetKeys()) != 1 {
		t.Fatal(r, err)
	}
	_, err := client.TimeToLive(within5s(t), &kvv1.TimeToLiveRequest{Id: 6})
	wantReason(t, err, kvv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND)

	for _, p := range pods {
		p.log.setMaster("")
	}
	_, err = keepAlive(5)
	wantReason(t, err, noMaster)
	for _, p := range pods {
		p.log.setMaster("kv-2")
	}
	// The master that is about to begin says so instead of passing it on.
	_, err = keepAlive(5)
	wantReason(t, err, noMaster)
	runMaster(t, pods[2])
	if r, err := keepAlive(5); err != nil || r.GetTtlSeconds() != 4 {
		t.Fatal(r, err)
	}
}

// A master that has lost the baton and does not know it promises nothing.
func TestKeepAliveNeedsAConfirmedMaster(t *testing.T) {
	pods := three(t)
	pods[0].store.grant(5, 3)
	runMaster(t, pods[0])
	pods[0].log.mu.Lock()
	pods[0].log.readErr = replication.ErrNoMaster
	pods[0].log.mu.Unlock()
	stream, err := kvv1.NewLeaseServiceClient(pods[0].conn).KeepAlive(within5s(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&kvv1.KeepAliveRequest{Id: 5}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantReason(t, err, noMaster)
}

func TestJudge(t *testing.T) {
	mark := func(hash uint64) replication.Mark { return replication.Mark{Index: 9, Revision: 7, Hash: hash} }
	answer := func(pod string, hash uint64) said[replication.Mark] {
		return said[replication.Mark]{pod, true, true, mark(hash)}
	}
	silent := said[replication.Mark]{pod: "c", voter: true}
	for _, test := range []struct {
		name             string
		voters           int
		answers          []said[replication.Mark]
		differ           int
		backed, outvoted bool
	}{
		{"all agree", 3, []said[replication.Mark]{answer("b", 1), answer("c", 1)}, 0, true, false},
		{"another is wrong", 3, []said[replication.Mark]{answer("b", 1), answer("c", 2)}, 1, true, false},
		{"this one is wrong", 3, []said[replication.Mark]{answer("b", 2), answer("c", 2)}, 2, false, true},
		{"all different", 3, []said[replication.Mark]{answer("b", 2), answer("c", 3)}, 2, false, false},
		{"one of the others is silent", 3, []said[replication.Mark]{answer("b", 2), silent}, 1, false, false},
		{"two pods", 2, []said[replication.Mark]{answer("b", 2)}, 1, false, false},
		{"learners have no say", 3, []said[replication.Mark]{answer("b", 2), {"c", false, true, mark(2)}}, 2, false, false},
		{"five", 5, []said[replication.Mark]{answer("b", 2), answer("c", 2), answer("d", 2), answer("e", 1)}, 3, false, true},
		{"even", 4, []said[replication.Mark]{answer("b", 2), answer("c", 2), answer("d", 1)}, 2, false, false},
		{"another revision", 3, []said[replication.Mark]{answer("b", 1), {"c", true, true, replication.Mark{Index: 9, Revision: 8, Hash: 1}}}, 1, true, false},
		{"nobody answers", 3, []said[replication.Mark]{silent, silent}, 0, false, false},
	} {
		v := judge(mark(1), true, test.voters, test.answers)
		if len(v.differ) != test.differ || v.backed != test.backed || v.outvoted != test.outvoted {
			t.Errorf("%s: %+v", test.name, v)
		}
	}
	if v := judge(mark(1), false, 2, []said[replication.Mark]{answer("b", 1), silent}); v.backed {
		t.Error("a learner counts itself")
	}
}

// reads says whether a pod serves a local read.
func reads(t *testing.T, p *fakePod) error {
	t.Helper()
	_, err := p.kv().Range(within5s(t), &kvv1.RangeRequest{
		Key: []byte("k"), Read: &kvv1.ReadOptions{Consistency: kvv1.Consistency_CONSISTENCY_LOCAL},
	})
	return err
}

// The pod that differs gives up its data and refuses service, the master, too;
// the others raise an alarm and go on. Each hears of it from the one that saw the
// difference, within seconds and not at the next round.
//
// Scenario: S21
func TestDivergence(t *testing.T) {
	for _, wrong := range []int{0, 1} { // kv-0 is the master.
		t.Run([]string{"the master", "a follower"}[wrong], func(t *testing.T) {
			pods := three(t)
			pods[wrong].log.setMark(43)
			if pods[1].Differs("kv-0", "they differ") {
				t.Fatal("served before it is known who is wrong")
			}
			await(t, "the pod that differs gives up", func() bool {
				pods[wrong].log.mu.Lock()
				defer pods[wrong].log.mu.Unlock()
				return pods[wrong].log.recloned != ""
			})
			wantReason(t, reads(t, pods[wrong]), notReady)
			if len(pods[wrong].readiness.because()) == 0 {
				t.Error("it is still ready")
			}
			for i, p := range pods {
				if i == wrong {
					continue
				}
				await(t, "another goes on", func() bool { return reads(t, p) == nil })
				if own := p.log.PodStatus(t.Context()); !own.GetReady() {
					t.Errorf("the majority: %v", own)
				}
			}
			await(t, "an alarm", func() bool { return len(pods[2].log.PodStatus(t.Context()).GetAlarms()) == 1 })
			pods[wrong].log.setMark(42)
			await(t, "no alarm", func() bool { return len(pods[2].log.PodStatus(t.Context()).GetAlarms()) == 0 })
		})
	}
}

// Where nobody can tell who is wrong only the master serves, until somebody can.
//
// Scenario: S21
func TestDoubt(t *testing.T) {
	pods := three(t)
	pods[1].log.setMark(43)
	pods[2].log.setMark(0) // It is silent.
	// The master first: the follower asks it at once, and then it may have cleared itself.
	if pods[0].Differs("kv-1", "they differ") || pods[1].Differs("kv-0", "they differ") {
		t.Fatal("served before it is known who is wrong")
	}
	await(t, "the master serves", func() bool { return reads(t, pods[0]) == nil })
	if !pods[0].Differs("kv-1", "they still differ") {
		t.Error("the master is in doubt again")
	}
	for range 2 { // Rounds, of the follower's own.
		if pods[1].core.outvoted(within5s(t)) {
			t.Fatal("outvoted by one")
		}
		wantReason(t, reads(t, pods[1]), notReady)
	}
	pods[2].log.setMark(43)
	await(t, "the follower serves", func() bool { return reads(t, pods[1]) == nil })
	await(t, "the master does not", func() bool { return reads(t, pods[0]) != nil })
}

// A doubt ends as soon as a majority has said what this pod has, however slow the
// pod is that differs, and however often that one asks meanwhile.
func TestDoubtDoesNotWaitForTheSlowest(t *testing.T) {
	pods := three(t)
	pods[1].log.slow = time.Hour
	pods[1].log.setMark(43)
	began := time.Now()
	if pods[0].Differs("kv-1", "they differ") {
		t.Fatal("served before it is known who is wrong")
	}
	await(t, "the master serves", func() bool { return pods[0].Differs("kv-1", "they differ") && reads(t, pods[0]) == nil })
	if took := time.Since(began); took > compareTimeout/2 {
		t.Errorf("the doubt took %s", took)
	}
}

// So does one that is raised while a comparison waits for the slowest, to name it.
func TestDoubtWhileAComparisonWaits(t *testing.T) {
	pods := three(t)
	pods[1].log.slow = time.Hour
	pods[1].log.setMark(43)
	doubts := &pods[0].core.doubts
	doubts.wake <- struct{}{} // As its time comes.
	await(t, "a majority backs the master", func() bool { return doubts.cleared.Load() != nil })
	began := time.Now()
	pods[0].Differs("kv-1", "they differ")
	await(t, "the master serves", func() bool { return pods[0].Differs("kv-1", "they differ") && reads(t, pods[0]) == nil })
	if took := time.Since(began); took > compareTimeout/2 {
		t.Errorf("the doubt took %s", took)
	}
}

// A pod in doubt, or with data of no use, is ready while another one may only be
// created once it is; it answers no read.
func TestWithheldDataHoldsUpNoPod(t *testing.T) {
	for what, withhold := range map[string]func(p *fakePod){
		"in doubt": func(p *fakePod) { p.Differs("kv-0", "they differ") },
		"damaged":  func(p *fakePod) { p.Withdraw("it is damaged") },
	} {
		p := three(t)[1]
		p.log.setMark(0)
		withhold(p)
		for _, awaits := range []bool{false, true, false} {
			p.log.mu.Lock()
			p.log.awaits = awaits
			p.log.mu.Unlock()
			if ready := p.log.PodStatus(t.Context()).GetReady(); ready != awaits {
				t.Errorf("%s: ready %t, though a pod is awaited: %t", what, ready, awaits)
			}
			wantReason(t, reads(t, p), notReady)
		}
	}
}

// A volume that runs full, this pod's or another's, stops writes but no deletes.
//
// Scenario: S30
func TestSpace(t *testing.T) {
	pods := three(t)
	look := func(free uint64) {
		pods[0].space.Store(&Space{Free: free, Total: 100 << 30})
		pods[0].core.lookAtSpace()
	}
	put := func(p *fakePod) error {
		_, err := p.kv().Put(within5s(t), &kvv1.PutRequest{Key: []byte("k")})
		return err
	}
	const noSpace = kvv1.ErrorReason_ERROR_REASON_NO_SPACE
	look(600 << 20)
	if err := put(pods[0]); err != nil {
		t.Fatal(err)
	}
	look(500 << 20)
	wantReason(t, put(pods[0]), noSpace)
	if _, err := pods[0].kv().Delete(within5s(t), &kvv1.DeleteRequest{Key: []byte("k")}); reasonOf(err) == noSpace {
		t.Error("a delete was refused")
	}
	txn := func(op *kvv1.Op) error {
		nested := &kvv1.TxnRequest{Failure: []*kvv1.Op{op}}
		req := &kvv1.TxnRequest{Success: []*kvv1.Op{{Op: &kvv1.Op_Txn{Txn: nested}}}}
		_, err := pods[0].kv().Txn(within5s(t), req)
		return err
	}
	key := []byte("k")
	wantReason(t, txn(&kvv1.Op{Op: &kvv1.Op_Put{Put: &kvv1.PutRequest{Key: key}}}), noSpace)
	if err := txn(&kvv1.Op{Op: &kvv1.Op_Delete{Delete: &kvv1.DeleteRequest{Key: key}}}); reasonOf(err) == noSpace {
		t.Error("a transaction that only deletes was refused")
	}
	// Another pod hears of it.
	pods[1].core.peerStatuses.note(map[string]*kvv1.PodStatus{"kv-0": pods[0].log.PodStatus(t.Context())})
	pods[1].core.lookAtSpace()
	wantReason(t, put(pods[1]), noSpace)
	pods[1].core.peerStatuses.note(nil)
	pods[1].core.lookAtSpace()
	if err := put(pods[1]); err != nil {
		t.Error(err)
	}
	// Some slack, then it is over.
	look(520 << 20)
	wantReason(t, put(pods[0]), noSpace)
	look(600 << 20)
	if err := put(pods[0]); err != nil {
		t.Error(err)
	}
	if small := (Space{Total: 1 << 30}); small.reserve() != 128<<20 {
		t.Error(small.reserve())
	}
}

func reasonOf(err error) kvv1.ErrorReason {
	_, reason, _ := info(err)
	return kvv1.ErrorReason(kvv1.ErrorReason_value[reasonPrefix+reason])
}

func TestCompactor(t *testing.T) {
	var now time.Duration
	c := testCore()
	c.options.KeepAge, c.options.KeepRevisions = time.Hour, 1000
	compactor := &compactor{core: c, elapsed: func() time.Duration { return now }}
	for _, step := range []struct {
		at     time.Duration
		newest int64
		want   int64
	}{
		{0, 10, 0}, // Nothing is known of before.
		{30 * time.Minute, 20, 0},
		{time.Hour, 30, 10},
		{89 * time.Minute, 35, 10},
		{90 * time.Minute, 40, 20},
		{10 * time.Hour, 50, 40},
		{10 * time.Hour, 2000, 1000}, // Too many within the age.
	} {
		now = step.at
		if got := compactor.due(step.newest); got != step.want {
			t.Errorf("at %s with %d: %d, want %d", step.at, step.newest, got, step.want)
		}
	}
	c.options.KeepAge, c.options.KeepRevisions = -1, -1
	if got := compactor.due(1 << 40); got != 0 {
		t.Error("off, and yet", got)
	}
}

// Scenario: S32
func TestHTTP(t *testing.T) {
	p := newPod(t, "kv-0")
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		p.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if code, _ := get("/livez"); code != http.StatusOK {
		t.Error("not alive while it starts")
	}
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "not ready: it is starting") {
		t.Error(code, body)
	}
	if code, body := get("/readyz?verbose"); code != http.StatusServiceUnavailable || !strings.Contains(body, "because: it is starting") {
		t.Error(code, body)
	}
	p.use()
	if code, body := get("/readyz?verbose"); code != http.StatusOK || !strings.Contains(body, "master: kv-0") {
		t.Error(code, body)
	}
	if _, err := p.kv().Put(within5s(t), &kvv1.PutRequest{Key: []byte("k")}); err != nil {
		t.Fatal(err)
	}
	if _, body := get("/metrics"); !strings.Contains(body, `baton_grpc_handled_total{code="OK",method="KVService/Put"} 1`) {
		t.Error(body)
	}
	if code, body := get("/"); code != http.StatusOK || !strings.Contains(body, "kv-0") {
		t.Error(code, body)
	}
	// A heart that stands still.
	long := time.Now().Add(-beatPatience)
	p.readiness.beat.Store(&long)
	if code, _ := get("/livez"); code == http.StatusOK && p.readiness.beat.Load() == &long {
		t.Error("alive without a beat")
	}
}

func TestWatchPeersForgetsTheAbsent(t *testing.T) {
	n := newPeerStatuses()
	n.note(map[string]*kvv1.PodStatus{"kv-1": {Alarms: []string{alarmNoSpace}, ClientAddress: "a"}})
	if got := n.alarmed(alarmNoSpace); len(got) != 1 {
		t.Error(got)
	}
	n.note(nil)
	if len(n.alarmed(alarmNoSpace)) != 0 || n.clientAddress("kv-1") != "a" {
		t.Error("an absent pod's alarm stays, or its address is lost")
	}
	if whyUnreachable(errors.New("x")) == "" {
		t.Error("no reason")
	}
}
