package main

import (
	"fmt"
	"time"

	"github.com/batondb/baton/test/cluster"
)

// CPU is the processor time that all pods have used.
func (c *Cluster) CPU() (time.Duration, error) {
	var total time.Duration
	for _, p := range c.Pods {
		used, err := processCPU(p.PID())
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
	for _, p := range c.Pods {
		bytes, err := processMemory(p.PID(), field)
		if err != nil {
			return 0, err
		}
		values = append(values, float64(bytes))
	}
	return median(values), nil
}

// explain adds the last lines of the pods' logs to an error.
func (c *Cluster) explain(err error) error {
	return fmt.Errorf("%s: %w\n%s", c.System.Name(), err, cluster.Last(c.Pods...))
}
