package server

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server/audit"
)

// auditedPod starts a pod with a trail of writes. The function stops it, and returns the
// lines of the trail, as keys, outcome, and whether there is a revision, in any order.
func auditedPod(t *testing.T) (*fakePod, func() []string) {
	t.Helper()
	to := &lockedBuffer{}
	rule, err := audit.ParseRule("writes")
	if err != nil {
		t.Fatal(err)
	}
	trail, err := audit.Open(audit.Options{Rule: rule, Out: to, Pod: "kv-0"})
	if err != nil {
		t.Fatal(err)
	}
	p := newPod(t, "kv-0", func(o *Options) { o.Security.Audit = trail }).use()
	return p, func() (lines []string) {
		p.Stop(within5s(t))
		trail.Close()
		for line := range strings.Lines(to.all.String()) {
			var r struct {
				Outcome  string
				Keys     []struct{ Key string }
				Revision int64
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			lines = append(lines, fmt.Sprintf("%v %s revision=%t", r.Keys, r.Outcome, r.Revision > 0))
		}
		slices.Sort(lines)
		return lines
	}
}

func listOf(id uint64, key string) *kvv1.BatchRequest {
	return &kvv1.BatchRequest{Id: id, Batch: &kvv1.WriteBatch{Writes: []*kvv1.Write{
		{Write: &kvv1.Write_Put{Put: &kvv1.PutRequest{Key: []byte(key)}}},
	}}}
}

// Who goes away before the answers to its lists does not keep them out of the trail.
func TestAuditOfListsWithoutAnswers(t *testing.T) {
	p, stop := auditedPod(t)
	begun := make(chan struct{}, 10)
	p.log.propose = func(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return p.store.apply(command), nil
	}
	ctx, leave := context.WithCancel(within5s(t))
	stream, err := p.kv().Batch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for id, key := range []string{"a", "b", "c"} {
		if err := stream.Send(listOf(uint64(id), key)); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "all of them in flight", func() bool { return len(begun) == 3 })
	leave()
	await(t, "the writes", func() bool { return p.store.Revision() >= 4 })
	lines := stop()
	for _, key := range []string{"a", "b", "c"} {
		if n := len(slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.HasPrefix(l, "[{"+key+"}]") })); n != 1 {
			t.Errorf("the list of %s is in the trail %d times:\n%s", key, n, strings.Join(lines, "\n"))
		}
	}
}

// Who gives two lists one id does not make one's outcome seem the other's.
func TestAuditOfListsWithOneID(t *testing.T) {
	p, stop := auditedPod(t)
	release, begun := make(chan struct{}), make(chan struct{}, 10)
	p.log.propose = func(_ context.Context, command *kvv1.Command) (*kvv1.Result, error) {
		begun <- struct{}{}
		<-release
		return p.store.apply(command), nil
	}
	stream, err := p.kv().Batch(within5s(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []*kvv1.BatchRequest{listOf(1, "bad"), listOf(2, "good"), listOf(1, "harmless")} {
		if err := stream.Send(list); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "all of them in flight", func() bool { return len(begun) == 3 })
	close(release)
	for range 3 {
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Send(listOf(1, "later")); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	await(t, "the stream's end", func() bool { _, err := stream.Recv(); return err != nil })
	want := []string{
		"[] OK revision=false", "[{bad}] Unknown revision=false", "[{good}] OK revision=true",
		"[{harmless}] Unknown revision=false", "[{later}] Unknown revision=false",
	}
	if got := stop(); !slices.Equal(got, want) {
		t.Errorf("the trail is\n%s", strings.Join(got, "\n"))
	}
}

// Nor does a large answer, which is counted, hide how a call ended.
func TestAuditOfLargeAnswers(t *testing.T) {
	p, stop := auditedPod(t)
	put := func(key string) *kvv1.PutRequest {
		return &kvv1.PutRequest{Key: []byte(key), Value: filled(maxUncountedBytes), PrevKv: true}
	}
	for range 2 {
		if _, err := p.kv().Put(within5s(t), put("alone")); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := p.kv().Batch(within5s(t))
	if err != nil {
		t.Fatal(err)
	}
	for id := range uint64(2) {
		list := &kvv1.WriteBatch{Writes: []*kvv1.Write{{Write: &kvv1.Write_Put{Put: put("list")}}}}
		if err := stream.Send(&kvv1.BatchRequest{Id: id, Batch: list}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	await(t, "the stream's end", func() bool { _, err := stream.Recv(); return err != nil })
	want := []string{
		"[] OK revision=false", "[{alone}] OK revision=true", "[{alone}] OK revision=true",
		"[{list}] OK revision=true", "[{list}] OK revision=true",
	}
	if got := stop(); !slices.Equal(got, want) {
		t.Errorf("the trail is\n%s", strings.Join(got, "\n"))
	}
}
