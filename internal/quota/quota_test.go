package quota

import (
	"strings"
	"testing"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// takeAll takes one by one, and returns how many it got.
func takeAll(q *Quota, who string) (got int64) {
	for q.Take(who, 1) == nil {
		got++
	}
	return got
}

// However many are greedy, the next one gets something.
func TestSomethingIsAlwaysLeft(t *testing.T) {
	q := New("watches", 1000)
	want := int64(500)
	for _, who := range []string{"a", "b", "c", "d", "e"} {
		if got := takeAll(q, who); got < want-1 || got > want+1 {
			t.Errorf("%s got %d, want about %d", who, got, want)
		}
		want /= 2
	}
	err := q.Take("a", 1)
	if refusal.Reason(err) != kvv1.ErrorReason_ERROR_REASON_TOO_MANY || !strings.Contains(err.Error(), "a, who has 500 of this pod's 1000 watches") {
		t.Error(err)
	}
	if got := takeAll(q, "f"); got < 10 {
		t.Errorf("the sixth got %d", got)
	}
}

func TestGive(t *testing.T) {
	q := New("bytes", 100)
	if err := q.Take("a", 50); err != nil {
		t.Fatal(err)
	}
	if err := q.Take("a", 1); err == nil {
		t.Error("more than half")
	}
	if err := q.Take("b", 30); err == nil {
		t.Error("more than what is left after it")
	}
	q.Give("a", 50)
	if used, refused := q.Used(); used != 0 || refused != 2 || len(q.by) != 0 {
		t.Errorf("used %d, refused %d, callers %v", used, refused, q.by)
	}
	if err := q.Take("b", 50); err != nil {
		t.Error(err)
	}
}

// What one can do without leaves as much again for the same caller.
func TestSpare(t *testing.T) {
	q := New("bytes", 90)
	var got int64
	for q.TakeSpare("a", 1) {
		got++
	}
	if got != 30 {
		t.Errorf("a got %d", got)
	}
	if got := takeAll(q, "a"); got != 15 {
		t.Errorf("a got %d more", got)
	}
	if q.TakeSpare("a", 1) || !q.TakeSpare("b", 15) {
		t.Error("a has something to spare, or b has not")
	}
	q.Give("a", 45)
	q.Give("b", 15)
}
