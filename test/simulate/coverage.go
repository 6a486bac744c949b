package simulate

import (
	"fmt"
	"regexp"
	"strings"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// state is what one pod was seen in. A seed that reaches new ones is worth
// keeping, see testdata/seeds.
type state struct {
	role   string
	change string // What becomes of its membership.
	vote   string // Its term, beside the highest that any pod has.
	disk   string
	why    string // It is not ready.
}

func (s state) String() string {
	return fmt.Sprintf("%s, %s, term %s, disk %s, %s", s.role, s.change, s.vote, s.disk, s.why)
}

// reach counts the states of the pods that were asked at about one time, and what
// they are together.
func (s *simulation) reach(asked map[*machine]*kvv1.PodStatus) {
	newest, roles := uint64(0), map[kvv1.PodStatus_Role]int{}
	for _, own := range asked {
		newest = max(newest, own.Term)
		roles[own.Role]++
	}
	s.reached[fmt.Sprintf("of %d: %d master, %d follower, %d learner, %d no member", s.controller.size(),
		roles[kvv1.PodStatus_ROLE_MASTER], roles[kvv1.PodStatus_ROLE_FOLLOWER],
		roles[kvv1.PodStatus_ROLE_LEARNER], roles[kvv1.PodStatus_ROLE_UNSPECIFIED])]++
	for m, own := range asked {
		at := state{
			role:   strings.ToLower(strings.TrimPrefix(own.Role.String(), "ROLE_")),
			change: "stays", vote: "newest", disk: m.diskState(), why: reasonClass(own.NotReadyBecause),
		}
		switch {
		case m.number >= s.controller.size():
			at.change = "is to leave"
		case own.Role == kvv1.PodStatus_ROLE_UNSPECIFIED && own.Term > 0:
			at.change = "is no member"
		case own.Role == kvv1.PodStatus_ROLE_LEARNER || own.Role == kvv1.PodStatus_ROLE_UNSPECIFIED:
			at.change = "comes"
		}
		switch {
		case own.Term == 0:
			at.vote = "unknown"
		case own.Term < newest:
			at.vote = "old"
		}
		s.reached[at.String()]++
	}
}

// particular is what makes two reasons of one kind differ.
var particular = regexp.MustCompile(`\(.*|: .*|kv-\d+\S*|\d+`)

// reasonClass is the kind of a reason for not being ready.
func reasonClass(because string) string {
	if because == "" {
		return "ready"
	}
	first, _, _ := strings.Cut(because, ";")
	return strings.TrimSpace(particular.ReplaceAllString(first, "_"))
}

func (m *machine) diskState() string {
	switch p := m.process.Load(); {
	case m.full.Load():
		return "full"
	case p.running() && p.disk.slow():
		return "slow"
	}
	return "well"
}
