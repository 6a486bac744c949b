package simulate

import (
	"fmt"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// reach counts the states that pods were seen in: role, whether ready, the number
// of members, and what is the matter with its disk and its process. A seed that
// reaches new ones is worth keeping.
func (s *simulation) reach(status *kvv1.StatusResponse, m *machine) {
	for _, p := range status.Pods {
		if p.Name != m.name {
			continue
		}
		disk := "well"
		if m.full.Load() {
			disk = "full"
		} else if p := m.process.Load(); p.running() && p.disk.slow() {
			disk = "slow"
		}
		s.reached[fmt.Sprintf("%s ready=%t of=%d disk=%s", p.Role, p.Ready, s.controller.size(), disk)]++
	}
}
