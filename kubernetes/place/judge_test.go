package place

import (
	"errors"
	"strings"
	"testing"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication"
)

// Scenario: S11
func TestJudge(t *testing.T) {
	const here, there = "databases/here", "databases/there"
	adopted := replication.AdoptedCluster("c1", here)
	for name, c := range map[string]struct {
		disk    replication.Disk
		place   string
		record  kubernetes.Record
		because string
		begins  string
		joins   string
	}{
		"at home":                        {replication.Disk{Cluster: "c1", Place: here}, here, kubernetes.Record{Cluster: "c1"}, "", "", ""},
		"at home, no record":             {replication.Disk{Cluster: "c1", Place: here}, here, kubernetes.Record{}, "", "", ""},
		"never told a place":             {replication.Disk{Cluster: "c1"}, here, kubernetes.Record{Cluster: "c1"}, "", "", ""},
		"never told, nothing known":      {replication.Disk{Cluster: "c1"}, "", kubernetes.Record{}, "", "", ""},
		"a copy":                         {replication.Disk{Cluster: "c1", Place: there}, here, kubernetes.Record{}, "kvd adopt", "", ""},
		"a copy, the same cluster's":     {replication.Disk{Cluster: "c1", Place: there}, here, kubernetes.Record{Cluster: "c1"}, "kvd adopt", "", ""},
		"a copy, the place is not known": {replication.Disk{Cluster: "c1", Place: "other/x"}, "", kubernetes.Record{}, "kvd adopt", "", ""},
		"a copy, another one is adopted": {replication.Disk{Cluster: "c1", Member: "kv-1/b", Place: there}, here,
			kubernetes.Record{Cluster: adopted, Founder: "kv-0/a", Replaces: "c1"}, "another copy", "", adopted},
		"a copy, adopted by an older version": {replication.Disk{Cluster: "c1", Member: "kv-1/b", Place: there}, here,
			kubernetes.Record{Cluster: adopted, Replaces: "c1"}, "another copy", "", adopted},
		"the copy that a person has adopted": {replication.Disk{Cluster: "c1", Member: "kv-0/a", Place: there}, here,
			kubernetes.Record{Cluster: adopted, Founder: "kv-0/a", Replaces: "c1"}, "it begins", adopted, ""},
		"a copy of who recovered there": {replication.Disk{Cluster: "c1", Member: "kv-0/a", Place: there}, here,
			kubernetes.Record{Cluster: "c2", Founder: "kv-0/a", Replaces: "c1"}, "kvd adopt", "", ""},
		"adopted":                                {replication.Disk{Cluster: adopted, Replaces: "c1", Place: here}, here, kubernetes.Record{Cluster: adopted, Replaces: "c1"}, "", "", ""},
		"recovering":                             {replication.Disk{Cluster: "c1", Member: "kv-0/a", Place: here}, here, kubernetes.Record{Cluster: "c2", Founder: "kv-0/a", Replaces: "c1"}, "it begins", "c2", ""},
		"recovered, and the former has a quorum": {replication.Disk{Cluster: "c2", Replaces: "c1", Place: here}, here, kubernetes.Record{Cluster: "c1"}, "had a quorum", "", ""},
		"to recover":                             {replication.Disk{Cluster: "c1", Successor: "c2", Place: here}, here, kubernetes.Record{}, "", "", ""},
		"to recover, and has a quorum now":       {replication.Disk{Cluster: "c1", Successor: "c2", Place: here}, here, kubernetes.Record{Cluster: "c1"}, "had a quorum", "", ""},
		"from before the recovery": {replication.Disk{Cluster: "c1", Member: "kv-1/b", Place: here}, here,
			kubernetes.Record{Cluster: "c2", Founder: "kv-0/a", Replaces: "c1"}, "from before", "", ""},
		"another cluster's": {replication.Disk{Cluster: "c9", Place: here}, here, kubernetes.Record{Cluster: "c1"}, "says that this StatefulSet runs c1", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := Judge(Facts{Disk: c.disk, Place: c.place, Namespace: "databases", Record: c.record})
			if v.Begins != c.begins || v.Joins != c.joins || (v.Because == "") != (c.because == "") || !strings.Contains(v.Because, c.because) {
				t.Errorf("%+v", v)
			}
		})
	}
}

// A pod that is to begin another cluster waits for the record; any other serves
// without it.
func TestJudgeWithoutTheRecord(t *testing.T) {
	unread := errors.New("the API is down")
	disk := replication.Disk{Cluster: "c1", Place: "databases/here"}
	f := Facts{Disk: disk, Place: disk.Place, RecordErr: unread}
	if v := Judge(f); v.Because != "" {
		t.Errorf("%+v", v)
	}
	f.Disk.Successor = "c2"
	if v := Judge(f); !strings.Contains(v.Because, unread.Error()) {
		t.Errorf("%+v", v)
	}
}

// A pod that serves ends only when it is certain that it must.
func TestJudgeServing(t *testing.T) {
	const here = "databases/here"
	home := replication.Disk{Cluster: "c2", Replaces: "c1", Member: "kv-1/b", Place: here}
	for name, c := range map[string]struct {
		disk   replication.Disk
		record kubernetes.Record
		want   course
	}{
		"all is well":                         {home, kubernetes.Record{Cluster: "c2"}, goOn},
		"served in two places":                {replication.Disk{Cluster: "c2", Place: "databases/there"}, kubernetes.Record{}, end},
		"the former cluster had a quorum":     {home, kubernetes.Record{Cluster: "c1"}, end},
		"another pod was made to go on":       {home, kubernetes.Record{Cluster: "c3", Founder: "kv-0/a", Replaces: "c2"}, yield},
		"a record of nothing it has heard of": {home, kubernetes.Record{Cluster: "c9"}, warn},
	} {
		got, because := judgeServing(Facts{Disk: c.disk, Place: here, Record: c.record})
		if got != c.want || (because == "") != (got == goOn) {
			t.Errorf("%s: %d, %q", name, got, because)
		}
	}
}
