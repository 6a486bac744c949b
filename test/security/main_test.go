package security

import (
	"flag"
	"os"
	"testing"

	"github.com/batondb/baton/test/cluster"
)

var (
	attacks  = flag.Bool("attack", false, "run the attacks, which take minutes")
	profiled = flag.String("profile", "", "a directory for profiles of the pod that is attacked")
)

func TestMain(m *testing.M) {
	if arguments := os.Getenv(attackEnv); arguments != "" {
		becomeIdle()
		os.Exit(attack(arguments))
	}
	flag.Parse()
	if *floodTo != "" {
		becomeIdle()
		os.Exit(flood())
	}
	if !*attacks {
		return // Nothing is to be built.
	}
	os.Exit(cluster.Main(m))
}
