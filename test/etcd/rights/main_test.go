package rights

import (
	"os"
	"testing"

	"github.com/batondb/baton/test/cluster"
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }
