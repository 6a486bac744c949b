// Command etcd is etcd's real server, as its own release builds it: the peer
// that the benchmark compares Baton with.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
