package etcd

import (
	"strings"
	"testing"

	"github.com/batondb/baton/test/etcd/servers"
)

// sameAuthCommands print the same on etcd and on Baton. After | comes the input.
const sameAuthCommands = `
role add r
role add r
role grant-permission r readwrite k
role grant-permission r read p/ --prefix
role grant-permission r write f --from-key
role grant-permission r read z y
role grant-permission none read k
role get r
role get r -w json
role list
user add alice:secret
user add alice:secret
user add bob --no-password
user add carol --interactive=false|secret~
user grant-role alice r
user grant-role alice r
user grant-role alice none
user grant-role none r
user get alice
user get alice --detail
user list
auth enable
user add root:rootpw
auth enable
auth status
get a
put k v
--user alice:secret put k v
--user alice:secret get k
--user alice:secret get kk
--user alice:secret put p/1 v
--user alice:secret get p/ --prefix
--user alice:secret get p --prefix
--user alice:secret put f v
--user alice:secret put g v --prev-kv
--user alice:secret del f --from-key
--user alice:secret del a --from-key
--user alice:secret get '' --prefix
--user alice:wrong get k
--user none:secret get k
--user alice:secret user get alice
--user alice:secret role get r
--user alice:secret user get root
--user alice:secret user list
--user alice:secret role list
--user alice:secret user add mallory:x
--user alice:secret auth disable
--user alice:secret compaction 2
--user alice:secret lease grant 100
--user alice:secret lease list
--user alice:secret txn|value("k") = "v"~~put p/1 x~~get k~~
--user alice:secret txn|value("q") = "v"~~put k x~~get k~~
--user root:rootpw get '' --prefix
--user root:rootpw user list
--user root:rootpw user delete root
--user root:rootpw user revoke-role root root
--user root:rootpw role delete root
--user root:rootpw role revoke-permission r k
--user root:rootpw role revoke-permission r k
--user alice:secret get k
--user root:rootpw user passwd alice --interactive=false|other~
--user alice:secret put f v
--user alice:other put f v
--user root:rootpw user revoke-role alice r
--user root:rootpw user revoke-role alice r
--user alice:other put f v
--user root:rootpw user grant-role alice root
--user alice:other get k
--user root:rootpw role delete r
--user root:rootpw user delete carol
--user root:rootpw auth disable
get k
user list
`

// TestEtcdctlAuthPrintsTheSame runs what is about users, one command after the other, on
// the real etcd and on Baton.
func TestEtcdctlAuthPrintsTheSame(t *testing.T) {
	real, baton := etcdctl(t, servers.Etcd(t)), servers.Baton(t, 3)
	for i, line := range strings.Split(strings.TrimSpace(sameAuthCommands), "\n") {
		command, input, _ := strings.Cut(strings.TrimSpace(line), "|")
		input = strings.ReplaceAll(input, "~", "\n")
		want, wantOK := real.run(command, input)
		ours := etcdctl(t, baton).at(baton.Pods[i%len(baton.Pods)])
		got, gotOK := ours.run(command, input)
		if normal(got) != normal(want) || gotOK != wantOK {
			t.Errorf("etcdctl %s: Baton (%v)\n%s\netcd (%v)\n%s", command, gotOK, normal(got), wantOK, normal(want))
		}
	}
}
