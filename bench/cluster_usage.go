package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// CPU is the processor time that all pods have used.
func (c *Cluster) CPU() (time.Duration, error) {
	var total time.Duration
	for _, p := range c.processes {
		used, err := p.CPU()
		if err != nil {
			return 0, err
		}
		total += used
	}
	return total, nil
}

// Memory is the median over the pods of a field of /proc/PID/status, in bytes.
func (c *Cluster) Memory(field string) (float64, error) {
	var values []float64
	for _, p := range c.processes {
		bytes, err := p.Memory(field)
		if err != nil {
			return 0, err
		}
		values = append(values, float64(bytes))
	}
	return median(values), nil
}

func (c *Cluster) log(i int) string {
	return filepath.Join(c.dir, c.Pods[i].Name+".log")
}

// explain adds the last lines of the pods' logs to an error.
func (c *Cluster) explain(err error) error {
	var b strings.Builder
	for i, p := range c.processes {
		raw, readErr := os.ReadFile(c.log(i))
		if readErr != nil || p == nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
		lines = lines[max(0, len(lines)-5):]
		fmt.Fprintf(&b, "\n%s (running: %t):\n  %s", c.Pods[i].Name, p.Running(), strings.Join(lines, "\n  "))
	}
	return fmt.Errorf("%s: %w%s", c.System.Name(), err, b.String())
}
