package replication

import (
	"strings"
	"testing"
)

func TestValidPod(t *testing.T) {
	for pod, want := range map[string]bool{
		"kv-0": true, "kv-10": true, "a-b-3": true, "0-0": true, strings.Repeat("a", 61) + "-0": true,
		"": false, "-": false, "-0": false, "kv": false, "kv-": false, "kv-x": false, "0": false, "-a-0": false,
		"KV-0": false, "kv_a-0": false, "kv.a-0": false, "kv-0/": false, "../kv-0": false, "../../x": false, "/kv-0": false,
		"kv\x00-0": false, "kv -0": false, "kv-+1": false, "kv-\u0661": false, "k\xff-0": false, "kv-99999999999999999999": false,
		strings.Repeat("a", 62) + "-0": false,
	} {
		if ValidPod(pod) != want {
			t.Errorf("%q: %t", pod, !want)
		}
	}
}

func TestValidMemberID(t *testing.T) {
	const unique = "0b0c6f3e-3c3a-4a4b-8d5e-6f7a8b9c0d1e"
	for id, want := range map[MemberID]bool{
		"kv-0/" + unique: true,
		"":               false, "/": false, "kv-0": false, "kv-0/": false, "/" + unique: false, "kv/" + unique: false,
		"kv-0/a": false, "kv-0/..": false, "kv-0//" + unique: false, "kv-0/" + unique + "/": false, "../kv-0/" + unique: false,
		"kv-0/../" + unique: false, "kv-0/{" + unique + "}": false, "kv-0/urn:uuid:" + unique: false,
		"kv-0/0B0C6F3E-3C3A-4A4B-8D5E-6F7A8B9C0D1E": false, "kv-0/0b0c6f3e3c3a4a4b8d5e6f7a8b9c0d1e": false,
		"kv-0/" + unique + "\x00": false, "kv-0/" + unique + "\n": false,
	} {
		if id.Valid() != want {
			t.Errorf("%q: %t", id, !want)
		}
	}
}
