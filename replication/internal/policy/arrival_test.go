package policy

import "testing"

// A pod lets the pod before it go first as long as that one may soon have what is
// to be cloned, and no other.
func TestAfter(t *testing.T) {
	const cluster = "this one"
	master := &Peer{Cluster: cluster, HasData: true, Cloneable: true, Master: true}
	whole := &Peer{Cluster: cluster, HasData: true, Cloneable: true}
	catchesUp := &Peer{Cluster: cluster, HasData: true}
	empty := &Peer{Empty: true}
	for what, c := range map[string]struct {
		seen Seen
		want string
	}{
		"all start at one time":               {Seen{"kv-0": master, "kv-1": empty, "kv-2": empty}, "kv-2"},
		"it catches up":                       {Seen{"kv-0": master, "kv-2": catchesUp}, "kv-2"},
		"it can be cloned":                    {Seen{"kv-0": master, "kv-1": empty, "kv-2": whole}, ""},
		"it is the master":                    {Seen{"kv-1": empty, "kv-2": master}, ""},
		"it is silent, and the one before":    {Seen{"kv-0": master, "kv-1": empty}, "kv-1"},
		"its data is of no use":               {Seen{"kv-0": master, "kv-2": {Cluster: cluster, HasData: true, Condemned: true}}, ""},
		"it is of another cluster":            {Seen{"kv-0": master, "kv-2": {Cluster: "another", HasData: true}}, ""},
		"only the pods after it have no data": {Seen{"kv-4": empty, "kv-5": master}, ""},
	} {
		a := Arrival{
			Pod: "kv-3", Cluster: cluster, Seen: c.seen,
			Candidates: NearestBelow("kv-3", []string{"kv-0", "kv-1", "kv-2", "kv-4", "kv-5"}),
		}
		if d := a.Decide(); d.Do != Clone || d.After != c.want {
			t.Errorf("%s: it does %s, after %q, not %q: %s", what, d.Do, d.After, c.want, d.Because)
		}
	}
}
