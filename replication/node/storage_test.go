package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/entry"
	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/machinetest"
	"github.com/batondb/baton/replication/internal/raftlog"
	"github.com/batondb/baton/replication/internal/volume"
)

// A follower that was away while the log was truncated gets the database, by
// InstallSnapshot, and goes on with the log.
func TestTruncationAndInstallSnapshot(t *testing.T) {
	c := newCluster(t, 3)
	c.adjust = func(o *replication.Options) { o.LogBytes = 1 << 20 }
	c.boot()
	away := c.pods["kv-2"]
	if c.master() == away {
		away = c.pods["kv-1"]
	}
	away.mustPut("before", "v")
	away.kill()
	big := strings.Repeat("v", 100_000)
	for i := range 60 {
		c.master().mustPut(fmt.Sprint("big", i), big)
	}
	c.eventually("the log is truncated", func() error {
		first, err := c.master().node.engine.Load().replica.Storage.Log.FirstIndex()
		if n := c.master().node.Status().LogBytes; err != nil || first < 20 || n > 2<<20 {
			return fmt.Errorf("it begins at %d with %d bytes, %v", first, n, err)
		}
		return nil
	})
	away.start()
	away.awaitStart()
	c.awaitReady()
	for i := range 60 {
		away.mustRead(fmt.Sprint("big", i), big)
	}
	c.master().mustPut("after", "v")
	away.mustRead("after", "v")
	if left, _ := filepath.Glob(filepath.Join(away.dir, "store.db.install-*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	away.kill()
	away.start()
	away.awaitStart()
	c.awaitReady()
	away.mustRead("after", "v")
}

// A pod is behind the log, and finds what the master sends damaged: the master looks
// at its own database, once, for nobody else may ever read that part of it there.
// (Simulation, seeds 24, 36 and 45.)
func TestADamagedSnapshot(t *testing.T) {
	c := newCluster(t, 3)
	c.adjust = func(o *replication.Options) { o.LogBytes = 1 << 20 }
	c.boot()
	m, away := c.master(), c.follower()
	away.machine.Refuse(true)
	c.net.isolate(away.name)
	big := m.growLog("big", 20)
	c.net.heal()
	c.eventually("the master checks its database", func() error {
		if n := m.machine.Checked(); n != 1 {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	away.machine.Refuse(false)
	c.awaitReady()
	away.mustRead("big59", big)
	if n := m.machine.Checked(); n != 1 {
		t.Errorf("the master checked its database %d times", n)
	}
}

// growLog writes until the log of 1 MiB begins at an index or later. It returns the
// value of the 60 keys.
func (p *pod) growLog(prefix string, begin uint64) string {
	p.c.t.Helper()
	big := strings.Repeat("v", 100_000)
	for i := range 60 {
		p.mustPut(fmt.Sprint(prefix, i), big)
	}
	p.c.eventually("the log is truncated", func() error {
		if first, err := p.node.engine.Load().replica.Storage.Log.FirstIndex(); err != nil || first < begin {
			return fmt.Errorf("it begins at %d, %v", first, err)
		}
		return nil
	})
	return big
}

// Scenario: S26
func TestUnknownEntryStopsThePod(t *testing.T) {
	c := newCluster(t, 1).boot()
	p := c.pods["kv-0"]
	p.mustPut("k", "v")
	e := p.node.engine.Load()
	before := p.machine.Applied()
	data := []byte{entry.Version + 1, 1, 2, 3}
	e.replica.Raft.ApplyLog(raft.Log{Data: data, Extensions: entry.Checksum(data)}, 0).Error()
	select {
	case err := <-p.node.Failed():
		if !errors.Is(err, entry.ErrUnknown) {
			t.Errorf("failed with %v", err)
		}
	case <-time.After(patient):
		t.Fatal("it goes on")
	}
	if p.machine.Applied() != before {
		t.Error("the entry was applied")
	}
	if err := p.put("k", "w"); !errors.Is(err, replication.ErrUnknown) {
		t.Errorf("a write after it: %v", err)
	}
	if p.machine.Applied() != before {
		t.Error("an entry after it was applied")
	}
}

// Scenario: S10
func TestLock(t *testing.T) {
	c := newCluster(t, 1).boot()
	p := c.pods["kv-0"]
	second := &pod{c: c, name: p.name, dir: p.dir}
	o := second.options()
	o.Timing.LockWait = 200 * time.Millisecond
	if _, err := Open(context.Background(), o); !errors.Is(err, replication.ErrLocked) {
		t.Fatalf("the second opener got %v", err)
	}
	o = second.options()
	opened := make(chan error, 1)
	go func() {
		n, err := Open(context.Background(), o)
		if err == nil {
			err = n.Close(context.Background())
		}
		opened <- err
	}()
	p.kill()
	if err := <-opened; err != nil {
		t.Errorf("after the first has ended: %v", err)
	}
}

// Scenario: S21
func TestReclone(t *testing.T) {
	c := newCluster(t, 3).boot()
	p := c.follower()
	p.mustPut("k", "v")
	old := p.node.MemberID()
	if err := p.node.Reclone(t.Context(), "its hash differs"); err != nil {
		t.Fatal(err)
	}
	if err := <-p.node.Failed(); !errors.Is(err, replication.ErrRetired) {
		t.Errorf("failed with %v", err)
	}
	p.kill()
	p.start()
	p.awaitStart()
	c.awaitReady()
	if p.node.MemberID() == old {
		t.Error("it kept its identity")
	}
	p.mustRead("k", "v")
}

// A member that has lost its log and its votes, but not its identity, must not
// vote again. It begins anew, if there is someone to clone from.
func TestLostVotes(t *testing.T) {
	c := newCluster(t, 3).boot()
	p := c.follower()
	p.mustPut("k", "v")
	old := p.node.MemberID()
	p.kill()
	if err := os.RemoveAll(filepath.Join(p.dir, "raft")); err != nil {
		t.Fatal(err)
	}
	c.net.isolate(p.name)
	p.start()
	if err := <-p.started; !errors.Is(err, replication.ErrDamaged) {
		t.Errorf("it started: %v", err)
	}
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := p.node.Reclone(soon, "the votes are gone"); err == nil || !p.node.Disk().HasData {
		t.Errorf("with no other pod in sight: %v, %+v", err, p.node.Disk())
	}
	p.kill()
	c.net.heal()
	p.start()
	if err := <-p.started; !errors.Is(err, replication.ErrDamaged) {
		t.Errorf("it started: %v", err)
	}
	if err := p.node.Reclone(t.Context(), "the votes are gone"); err != nil {
		t.Errorf("with a master in sight: %v", err)
	}
	cluster := p.node.ClusterID()
	p.kill()
	p.start()
	p.awaitStart()
	c.awaitReady()
	if p.node.MemberID() == old || p.node.ClusterID() != cluster {
		t.Errorf("it is %s of %s", p.node.MemberID(), p.node.ClusterID())
	}
	p.mustRead("k", "v")
}

// A crash at any step of the bootstrap leaves something that the next start
// completes to the same cluster.
func TestBootstrapIsRepeatable(t *testing.T) {
	c := newCluster(t, 1)
	p := c.pods["kv-0"]
	p.start()
	p.awaitStart()
	c.awaitReady()
	id := p.node.ClusterID()
	for _, what := range []string{"nothing of the log", "the term only"} {
		p.kill()
		// Back to the moment after the decision.
		marker := filepath.Join(p.dir, "member.json")
		raw, err := os.ReadFile(marker)
		if err != nil {
			t.Fatal(err)
		}
		raw = []byte(strings.Replace(string(raw), `"data"`, `"bootstrapping"`, 1))
		if err := errors.Join(os.WriteFile(marker, raw, 0o600), os.RemoveAll(filepath.Join(p.dir, "raft")), os.RemoveAll(filepath.Join(p.dir, "store.db"))); err != nil {
			t.Fatal(err)
		}
		if what == "the term only" {
			if err := os.MkdirAll(filepath.Join(p.dir, "raft"), 0o700); err != nil {
				t.Fatal(err)
			}
			v, err := raftlog.OpenVotes(filepath.Join(p.dir, "raft", "vote.db"), time.Minute, func(error) {}, func() error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(v.SetUint64([]byte("CurrentTerm"), 1), v.Close()); err != nil {
				t.Fatal(err)
			}
		}
		c.newHistory()
		p.start()
		p.awaitStart()
		c.awaitReady()
		p.mustPut("k", what)
		if p.node.ClusterID() != id {
			t.Errorf("%s: another cluster", what)
		}
	}
}

// A backup becomes a cluster of its own, which the other pods join.
func TestFound(t *testing.T) {
	c := newCluster(t, 2)
	p := c.pods["kv-0"]
	cluster, member, err := Initialize(context.Background(), p.dir, p.name, func(configuration []byte) error {
		m := machinetest.Open(t, p.dir)
		m.ApplyConfiguration(1, 1, configuration)
		m.State.Data["k"] = "from the backup"
		return m.Flush(context.Background(), 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	c.boot()
	if p.node.ClusterID() != cluster || p.node.MemberID() != member {
		t.Errorf("it is %s of %s, founded as %s of %s", p.node.MemberID(), p.node.ClusterID(), member, cluster)
	}
	c.pods["kv-1"].mustRead("k", "from the backup")
	p.kill()
	p.start()
	p.awaitStart()
	c.awaitReady()
	p.mustRead("k", "from the backup")
}

func TestForeignVolume(t *testing.T) {
	c := newCluster(t, 2).boot()
	p, other := c.pods["kv-0"], c.pods["kv-1"]
	p.kill()
	o := other.options()
	o.Dir = p.dir
	if _, err := Open(context.Background(), o); !errors.Is(err, replication.ErrForeign) {
		t.Errorf("another pod's volume: %v", err)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "member.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), p.options()); !errors.Is(err, replication.ErrForeign) {
		t.Errorf("a damaged marker: %v", err)
	}
}

// Scenario: S06
func TestStrayFilesAreNotData(t *testing.T) {
	c := newCluster(t, 1)
	p := c.pods["kv-0"]
	for _, name := range []string{"lost+found", "store.db", "raft/00.wal"} {
		path := filepath.Join(p.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	c.boot()
	p.mustPut("k", "v")
	if kept, _ := filepath.Glob(filepath.Join(p.dir, "stray-*", "store.db")); len(kept) != 1 {
		t.Errorf("the stray file was not kept: %v", kept)
	}
}

func counted(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// Scenario: S09
func TestHandshakeRefusals(t *testing.T) {
	c := newCluster(t, 1).boot()
	p := c.pods["kv-0"]
	id := p.node.volume.Identity()
	term := p.node.Status().Term
	say := func(h handshake.Hello) error {
		addr, err := c.net.resolve("kv-0")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := handshake.WriteHello(conn, h); err != nil {
			t.Fatal(err)
		}
		_, err = handshake.ReadWelcome(conn)
		return err
	}
	good := handshake.Hello{Kind: handshake.Raft, Cluster: id.ClusterID, Member: "kv-1/" + uuid.NewString(), Pod: "kv-1", TargetPod: "kv-0", TargetMember: id.MemberID}
	if err := say(good); err != nil {
		t.Fatalf("a good one: %v", err)
	}
	for _, tc := range []struct {
		change func(*handshake.Hello)
		want   handshake.Reason
	}{
		{func(h *handshake.Hello) { h.Cluster = "another" }, handshake.WrongCluster},
		{func(h *handshake.Hello) { h.TargetPod = "kv-2" }, handshake.WrongPod},
		{func(h *handshake.Hello) { h.TargetMember = "kv-0/before" }, handshake.WrongMember},
		{func(h *handshake.Hello) { h.Member = "kv-2/" + uuid.NewString() }, handshake.WrongMember},
		{func(h *handshake.Hello) { h.Member = "kv-1/../x" }, handshake.Malformed},
		{func(h *handshake.Hello) { h.Member, h.Pod = "", "" }, handshake.Malformed},
		{func(h *handshake.Hello) { h.Cluster = "" }, handshake.NotStarted},
	} {
		h := good
		tc.change(&h)
		count := p.node.meter.handshakes.WithLabelValues("in", tc.want.String())
		before := counted(t, count)
		var refused *handshake.Refused
		if err := say(h); !errors.As(err, &refused) || refused.Reason != tc.want {
			t.Errorf("%+v: %v, want %s", h, err, tc.want)
		}
		if got := counted(t, count); got != before+1 {
			t.Errorf("%s was counted %v times", tc.want, got-before)
		}
	}
	addr, _ := c.net.resolve("kv-0")
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: kv-0\r\n\r\n")
	if raw, _ := io.ReadAll(conn); strings.Contains(string(raw), "HTTP") {
		t.Errorf("garbage was answered with %q", raw)
	}
	p.mustPut("k", "v")
	if got := p.node.Status().Term; got != term {
		t.Errorf("term %d, before %d", got, term)
	}
}

// A name that leads to another pod, or to a pod of another cluster, is refused
// by the caller as well: an old address may be anyone's now.
//
// Scenario: S09
func TestWrongPodAnswers(t *testing.T) {
	a, b := newCluster(t, 1).boot(), newCluster(t, 1).boot()
	addr, _ := b.net.resolve("kv-0")
	a.net.change(func() { a.net.addrs["kv-1"] = addr; a.net.addrs["kv-0b"] = addr })
	var refused *handshake.Refused
	_, err := a.pods["kv-0"].node.port.Dial(context.Background(), handshake.Calls, "kv-1", "")
	if !errors.As(err, &refused) || refused.Reason != handshake.WrongPod {
		t.Errorf("another pod: %v", err)
	}
	a.net.change(func() { a.net.addrs["kv-0"] = addr })
	_, err = a.pods["kv-0"].node.port.Dial(context.Background(), handshake.Calls, "kv-0", "")
	if !errors.As(err, &refused) || refused.Reason != handshake.WrongCluster {
		t.Errorf("another cluster: %v", err)
	}
}

func TestVolumeSetsAside(t *testing.T) {
	dir := t.TempDir()
	v, err := volume.Open(context.Background(), dir, "kv-0", time.Second, logger(t, "kv-0"))
	if err != nil {
		t.Fatal(err)
	}
	first := v.Identity().MemberID
	if err := v.Update(func(id *volume.Identity) { id.Retired = "a test" }); err != nil {
		t.Fatal(err)
	}
	v.Close()
	// A crash in the middle of setting aside: the database is moved already.
	aside := filepath.Join(dir, "removed-"+strings.TrimPrefix(first, "kv-0/"))
	if err := os.Mkdir(aside, 0o700); err != nil {
		t.Fatal(err)
	}
	if v, err = volume.Open(context.Background(), dir, "kv-0", time.Second, logger(t, "kv-0")); err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if v.Identity().MemberID == first || v.Identity().Stage != volume.Empty {
		t.Errorf("%+v after %s was retired", v.Identity(), first)
	}
	if _, err := os.Stat(filepath.Join(aside, "member.json")); err != nil {
		t.Error(err)
	}
}
