package differential

import (
	"os"
	"testing"

	"github.com/batondb/baton/test/etcd/cluster"
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }
