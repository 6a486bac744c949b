package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Machine is what a reader must know to compare with another machine. It names
// no host.
type Machine struct {
	Processor  string
	Cores      int
	MemoryGiB  float64
	FileSystem string
	Sync       time.Duration // median of a 4 KiB write and fsync
}

// inspect looks at the machine, and at the disk that holds dir.
func inspect(dir string) (Machine, error) {
	m := Machine{Cores: runtime.NumCPU(), Processor: runtime.GOARCH}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if model := parseField(string(info), "model name"); model != "" {
			m.Processor = model
		}
	}
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		if total, err := parseMemory(string(info), "MemTotal"); err == nil {
			m.MemoryGiB = float64(total) / (1 << 30)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return m, err
	}
	m.FileSystem = parseFileSystem(string(mounts), dir)
	m.Sync, err = measureSync(dir)
	return m, err
}

func (m Machine) String() string {
	return fmt.Sprintf("%s, %d cores, %.0f GiB of memory, %s; a write of 4 KiB with fsync takes %s at the median",
		m.Processor, m.Cores, m.MemoryGiB, m.FileSystem, milliseconds(m.Sync.Seconds()))
}

// parseField is the value of the first line "name : value".
func parseField(text, name string) string {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// parseFileSystem is the type of the file system that holds dir: of the mounts
// whose path is a prefix of dir, the longest, and of those the last.
func parseFileSystem(mounts, dir string) string {
	best, kind := -1, "unknown file system"
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		path := fields[1]
		relative, err := filepath.Rel(path, dir)
		inside := err == nil && relative != ".." && !strings.HasPrefix(relative, "../")
		if inside && len(path) >= best {
			best, kind = len(path), fields[2]
		}
	}
	return kind
}

// measureSync times what every write in both systems waits for.
func measureSync(dir string) (time.Duration, error) {
	file, err := os.CreateTemp(dir, "sync-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	var times []time.Duration
	for range 200 {
		from := time.Now()
		if _, err := file.Write(noise[:4096]); err != nil {
			return 0, err
		}
		if err := file.Sync(); err != nil {
			return 0, err
		}
		times = append(times, time.Since(from))
	}
	slices.Sort(times)
	return percentile(times, 0.5), nil
}

// busy is the processor time that the whole machine has used.
func busy() (time.Duration, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseBusy(string(raw))
}

// parseBusy adds user, nice, system, irq and softirq of the first line.
func parseBusy(stat string) (time.Duration, error) {
	fields := strings.Fields(strings.SplitN(stat, "\n", 2)[0])
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, fmt.Errorf("unexpected first line of /proc/stat: %v", fields)
	}
	var ticks uint64
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}
