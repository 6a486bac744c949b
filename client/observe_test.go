package client

import (
	"fmt"
	"testing"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Changes that come together, as after a pause, are told one by one.
func TestObserveTellsEachChange(t *testing.T) {
	var told []string
	o := observer{election: "e", yield: func(leader *kvv1.KeyValue, _ error) bool {
		told = append(told, string(leader.GetValue()))
		return true
	}}
	key := queueKey("e", 1)
	change := func(kind kvv1.Event_Type, key, value string, created, modified int64) *kvv1.Event {
		kv := &kvv1.KeyValue{Key: []byte(key), Value: []byte(value), CreateRevision: created, ModRevision: modified}
		return &kvv1.Event{Type: kind, Kv: kv}
	}
	put, gone := kvv1.Event_TYPE_PUT, kvv1.Event_TYPE_DELETE
	queue := map[string]*kvv1.KeyValue{}
	o.tell(queue)
	o.see(queue, &kvv1.WatchResponse{Events: []*kvv1.Event{
		change(put, key, "one", 2, 2),
		change(put, key, "still one", 2, 3),
		change(put, "e/other/0000000000000001", "of another election", 1, 4),
		change(put, queueKey("e", 2), "two", 5, 5),
		change(gone, key, "", 0, 6),
	}, Partial: true})
	// The same revision goes on: one hand-over, not nobody in between.
	o.see(queue, &kvv1.WatchResponse{Events: []*kvv1.Event{
		change(put, queueKey("e", 2), "two leads", 5, 6),
		change(gone, queueKey("e", 2), "", 0, 7),
		change(put, queueKey("e", 3), "three", 8, 8),
	}})
	if got, want := fmt.Sprintf("%q", told), `["" "one" "still one" "two leads" "" "three"]`; got != want {
		t.Fatalf("told %s\nwant %s", got, want)
	}
}
