package simulate

import (
	"fmt"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// reach counts the states that pods were seen in: role, whether ready, the number
// of pods, and what is the matter with its disk. A seed that reaches new ones is
// worth keeping.
func (s *simulation) reach(own *kvv1.PodStatus, m *machine) {
	disk := "well"
	if m.full.Load() {
		disk = "full"
	} else if p := m.process.Load(); p.running() && p.disk.slow() {
		disk = "slow"
	}
	s.reached[fmt.Sprintf("%s ready=%t of=%d disk=%s", own.Role, own.Ready, s.controller.size(), disk)]++
}
