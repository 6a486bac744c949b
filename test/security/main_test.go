package security

import (
	"flag"
	"os"
	"testing"

	"github.com/batondb/baton/test/cluster"
)

var attacks = flag.Bool("attack", false, "run the attacks, which take minutes")

func TestMain(m *testing.M) {
	flag.Parse()
	if !*attacks {
		return // Nothing is to be built.
	}
	os.Exit(cluster.Main(m))
}
