package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
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

// Written is how many bytes all pods have caused to be written to disks.
func (c *Cluster) Written() (int64, error) {
	var total int64
	for _, p := range c.Pods {
		bytes, err := processWritten(p.PID())
		if err != nil {
			return 0, err
		}
		total += bytes
	}
	return total, nil
}

// Disk is what the largest of the pods' data takes on disk, in bytes.
func (c *Cluster) Disk() (largest int64, err error) {
	for _, p := range c.Pods {
		total, err := diskUsage(p.Dir)
		if err != nil {
			return 0, err
		}
		largest = max(largest, total)
	}
	return largest, nil
}

// diskUsage counts what is allocated, not what files are long.
func diskUsage(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return goneIsEmpty(err)
		}
		info, err := entry.Info()
		if err != nil {
			return goneIsEmpty(err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() {
			total += stat.Blocks * 512
		}
		return nil
	})
	return total, err
}

// goneIsEmpty is nil for a file that was removed while the folder was read.
func goneIsEmpty(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// explain adds the last lines of the pods' logs to an error.
func (c *Cluster) explain(err error) error {
	return fmt.Errorf("%s: %w\n%s", c.System.Name(), err, cluster.Last(c.Pods...))
}
