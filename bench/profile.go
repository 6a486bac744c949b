package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
)

// profiles asks pods for processor profiles while a load runs.
type profiles struct {
	ctx     context.Context
	dir     string
	targets map[string]string // file name -> URL
	running sync.WaitGroup
}

// prepareProfiles gives processor and allocation profiles of the master and of
// one follower, to be taken while a load is counted. With -profile, and of kvd,
// which serves them; else it gives none.
func prepareProfiles(ctx context.Context, lab *Lab, c *Cluster, load string) (*profiles, error) {
	p := &profiles{ctx: ctx, dir: lab.Profiles, targets: map[string]string{}}
	if _, ok := c.System.(*Baton); !ok || lab.Profiles == "" {
		return p, nil
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		return nil, err
	}
	seconds := max(1, int(lab.Plan.Duration.Seconds())-1)
	for role, i := range map[string]int{"master": leader, "follower": (leader + 1) % podCount} {
		at := "http://" + c.Pods[i].HTTP + "/debug/pprof/"
		p.targets[load+"."+role+".cpu.pprof"] = fmt.Sprintf("%sprofile?seconds=%d", at, seconds)
		p.targets[load+"."+role+".allocs.pprof"] = fmt.Sprintf("%sallocs?seconds=%d", at, seconds)
	}
	return p, nil
}

func (p *profiles) start() {
	for name, url := range p.targets {
		p.running.Go(func() {
			if err := p.save(name, url); err != nil {
				fmt.Fprintln(os.Stderr, "profile:", err)
			}
		})
	}
}

func (p *profiles) wait() { p.running.Wait() }

func (p *profiles) save(name, url string) error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(p.ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	file, err := os.Create(filepath.Join(p.dir, name))
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, response.Body); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}
