package etcd

import (
	"bytes"
	"context"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/etcd/servers"
)

// ctl runs etcdctl against some endpoints.
type ctl struct {
	t         *testing.T
	binary    string
	endpoints []string
}

func etcdctl(t *testing.T, c *cluster.Cluster) ctl {
	return ctl{t: t, binary: servers.Etcdctl(t), endpoints: c.Endpoints()}
}

// at is the same at one pod.
func (c ctl) at(pod *cluster.Pod) ctl {
	c.endpoints = []string{pod.Client}
	return c
}

func (c ctl) command(ctx context.Context, line, input string) (*exec.Cmd, *bytes.Buffer) {
	arguments := append([]string{"--endpoints", strings.Join(c.endpoints, ",")}, split(line)...)
	command := exec.CommandContext(ctx, c.binary, arguments...)
	command.Stdin = strings.NewReader(input)
	output := &bytes.Buffer{}
	command.Stdout, command.Stderr = output, output
	return command, output
}

// run returns what was printed, warnings aside, and whether all went well.
func (c ctl) run(line, input string) (string, bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 60*time.Second)
	defer cancel()
	command, output := c.command(ctx, line, input)
	err := command.Run()
	if ctx.Err() != nil {
		c.t.Fatalf("etcdctl %s does not end; it printed %s", line, output)
	}
	return withoutLog(output.String()), err == nil
}

// must is run for what has to succeed.
func (c ctl) must(line string) string {
	c.t.Helper()
	output, ok := c.run(line, "")
	if !ok {
		c.t.Fatalf("etcdctl %s: %s", line, output)
	}
	return output
}

// split cuts a line at spaces; quotes keep one word together.
func split(line string) []string {
	var words []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}

// withoutLog drops the lines that etcdctl logs, which have the time in them.
func withoutLog(output string) string {
	var kept []string
	for line := range strings.Lines(output) {
		if !strings.HasPrefix(line, `{"level":`) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

var varying = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{regexp.MustCompile(`\b[0-9a-f]{14,16}\b`), "ID"},
	{regexp.MustCompile(`"(cluster_id|member_id|raft_term)":\d+`), `"$1":N`},
	{regexp.MustCompile(`"(ClusterID|MemberID|RaftTerm)" : \d+`), `"$1" : N`},
	{regexp.MustCompile(`took( =)? [0-9.]+(µs|ms|s)`), "took T"},
	{regexp.MustCompile(`remaining\(\d+s\)`), "remaining(T)"},
	{regexp.MustCompile(`"ttl":\d+`), `"ttl":N`},
	{regexp.MustCompile(`, \d{4,10}, `), ", HASH, "},
}

// normal replaces what differs between two runs.
func normal(output string) string {
	for _, v := range varying {
		output = v.what.ReplaceAllString(output, v.with)
	}
	return output
}

// sameCommands print the same on etcd and on Baton. After | comes the input.
const sameCommands = `
put a 1
put b 2
put c 3
get a
get a c
get '' --prefix --keys-only
get '' --prefix --count-only -w fields
get a --print-value-only
get b --from-key
get '' --prefix --limit 2 --sort-by CREATE --order DESCEND
get a --min-create-rev 3 --max-mod-rev 99
get nothing
put a 2 --prev-kv
put a --ignore-value
get a -w json
get a -w fields
get a -w simple --hex
get a --rev 2
get a --consistency s
del b --prev-kv
del nothing
del x --prefix
del c --range
txn|mod("a") > "0"~~put a 3~get a~~get c~~
txn|version("a") = "99"~~put a 4~~get c~del a~~
txn|create("new") = "0"~value("a") = "3"~~put new 1~put new2 2~~~
txn|value("a") = "3"~~put a 1~put a 2~~~
compaction 4
compaction 3
compaction 99
compaction 6 --physical
get a --rev 2
get a --rev 9999
put '' x
put none --ignore-value
put none x --lease 1234
lease grant 100
lease grant 1234567890123
lease grant -- -1
lease revoke 1234
lease timetolive 1234
lease timetolive 1234 --keys -w json
lease keep-alive 1234 --once
lease list
endpoint health
alarm list
alarm disarm
defrag
downgrade cancel
auth status
auth disable
user list
user get x
user delete x
user passwd x --interactive=false|secret~
user grant-role x r
user revoke-role x r
role list
role get r
role delete r
role grant-permission r read k
role revoke-permission r k
--user x:secret get a
member remove 1234
member promote 1234
lock l echo held
lock l false
`

// TestEtcdctlPrintsTheSame runs one command after the other on the real etcd
// and on Baton.
func TestEtcdctlPrintsTheSame(t *testing.T) {
	real, baton := etcdctl(t, servers.Etcd(t)), servers.Baton(t, 3)
	ours := etcdctl(t, baton).at(baton.Pods[0])
	for line := range strings.Lines(strings.TrimSpace(sameCommands)) {
		command, input, _ := strings.Cut(strings.TrimSpace(line), "|")
		input = strings.ReplaceAll(input, "~", "\n")
		want, wantOK := real.run(command, input)
		got, gotOK := ours.run(command, input)
		if normal(got) != normal(want) || gotOK != wantOK {
			t.Errorf("etcdctl %s: Baton (%v)\n%s\netcd (%v)\n%s", command, gotOK, normal(got), wantOK, normal(want))
		}
	}
}
