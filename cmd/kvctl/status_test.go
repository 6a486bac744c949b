package main

import (
	"encoding/json"
	"strings"
	"testing"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func TestStatusOfAClone(t *testing.T) {
	pod := &kvv1.PodStatus{
		Name: "kv-3", Role: kvv1.PodStatus_ROLE_LEARNER, Version: "v1", NotReadyBecause: "it clones from kv-2: 1 of 2 bytes",
		Clone: &kvv1.CloneProgress{Source: "kv-2", Bytes: 256 << 20, TotalBytes: 1 << 30, BytesPerSecond: 64 << 20},
	}
	row := statusRow(pod)
	if last := row[len(row)-1].text; last != "clones from kv-2: 256.0 MiB of 1.0 GiB, 64.0 MiB/s" {
		t.Errorf("the row ends with %q", last)
	}
	raw, err := json.Marshal(statusJSON(&kvv1.StatusResponse{Pods: []*kvv1.PodStatus{pod, {Name: "kv-0"}}}))
	if err != nil {
		t.Fatal(err)
	}
	if text := string(raw); strings.Count(text, `"clone":`) != 1 ||
		!strings.Contains(text, `"clone":{"source":"kv-2","bytes":268435456,"total_bytes":1073741824,"bytes_per_second":67108864}`) {
		t.Error(text)
	}
}
