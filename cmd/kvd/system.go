package main

import (
	"bufio"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"github.com/batondb/baton/server"
)

// memoryFraction is the share of the container's limit that the garbage collector
// gets. The rest is for what it does not see: stacks, and page tables for bbolt's
// file.
const memoryFraction = 0.9

// gcPercent lets the heap grow to three times what is alive before it is
// collected. Little is alive (two tables and some buffers), nearly every byte of
// a request is garbage at once, and the limit above still holds.
const gcPercent = 200

// tuneMemory respects GOMEMLIMIT and GOGC if a person has set them.
func tuneMemory(logger *slog.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	limit := memoryLimit("/proc/self/cgroup", "/sys/fs/cgroup")
	if os.Getenv("GOMEMLIMIT") != "" || limit == math.MaxInt64 {
		return
	}
	debug.SetMemoryLimit(int64(float64(limit) * memoryFraction))
	logger.Info("memory limit from the cgroup", slog.Int64("limit_bytes", limit))
}

// memoryLimit is the smallest limit on the way from this process's cgroup to
// the root; MaxInt64: none. It knows version 2, and version 1 as containers see it.
func memoryLimit(self, root string) int64 {
	limit := int64(math.MaxInt64)
	file, err := os.Open(self)
	if err != nil {
		return limit
	}
	defer file.Close() //nolint:errcheck // It was only read.
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		path, ok := strings.CutPrefix(lines.Text(), "0::")
		if !ok {
			continue
		}
		for dir := filepath.Clean("/" + path); ; dir = filepath.Dir(dir) {
			limit = min(limit, limitIn(filepath.Join(root, dir, "memory.max")))
			if dir == "/" {
				break
			}
		}
	}
	return min(limit, limitIn(filepath.Join(root, "memory/memory.limit_in_bytes")))
}

// noLimit is more memory than any machine has.
const noLimit = 1 << 60

func limitIn(path string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return math.MaxInt64
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n > noLimit { // "max", or version 1's way to say it.
		return math.MaxInt64
	}
	return n
}

// spaceOf asks the file system for its size and free space.
func spaceOf(dir string) (server.Space, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return server.Space{}, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return server.Space{Free: fs.Bavail * uint64(fs.Bsize), Total: fs.Blocks * uint64(fs.Bsize)}, nil
}

// warnUnlessMounted warns that a container takes its data with it unless the data
// is on a mount.
func warnUnlessMounted(logger *slog.Logger, dir string) {
	if os.Getenv("KUBERNETES_SERVICE_HOST") == "" || isMount(dir) {
		return
	}
	logger.Warn("the data directory is not on a volume: its data is lost when the container is; "+
		"mount the volume at --data-dir", slog.String("data_dir", dir))
}

// isMount says whether dir, or a directory above it other than the root, is a mount
// point.
func isMount(dir string) bool {
	var here, above syscall.Stat_t
	for dir = filepath.Clean(dir); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		if syscall.Stat(dir, &here) != nil || syscall.Stat(filepath.Dir(dir), &above) != nil {
			continue // It does not exist yet.
		}
		if here.Dev != above.Dev {
			return true
		}
	}
	return false
}
