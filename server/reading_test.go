package server

import (
	"testing"

	"github.com/batondb/baton/internal/quota"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// While a scan waits for its client, others read; and whoever may have no more unread
// reads nothing that would be refused, but counts.
func TestTurns(t *testing.T) {
	p := newPod(t, "kv-0").use()
	p.core.bounds.reading.turns = quota.NewTurns(1)
	scan, err := p.core.turn(t.Context(), AnswerPartBytes)
	if err != nil {
		t.Fatal(err)
	}
	all := &kvv1.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}
	if err := scan.Outside(t.Context(), func() error {
		_, err := p.kv().Range(within5s(t), all)
		return err
	}); err != nil {
		t.Error(err)
	}
	scan.End()
	scan.End()                                                          // Nothing more.
	p.core.bounds.answers = quota.New("bytes of unread answers", 3<<20) // Less than twice a page.
	_, err = p.kv().Range(within5s(t), all)
	wantReason(t, err, kvv1.ErrorReason_ERROR_REASON_TOO_MANY)
	all.CountOnly = true
	if _, err := p.kv().Range(within5s(t), all); err != nil {
		t.Error(err)
	}
	if used := p.core.bounds.reading.turns; used.Begin(within5s(t), "the last one") != nil {
		t.Error("a turn was not ended")
	}
}
