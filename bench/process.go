package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of the times in /proc/PID/stat: 1/100 s on every
// architecture that Go runs Linux on.
const clockTick = 10 * time.Millisecond

// processCPU is the processor time that a process has used, user and system.
func processCPU(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return 0, err
	}
	return parseCPU(raw)
}

// parseCPU reads utime and stime, fields 14 and 15, of a /proc/PID/stat. The
// second field is the program's name, and may hold spaces and parentheses.
func parseCPU(stat []byte) (time.Duration, error) {
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("stat has %d fields after the name, want at least 13", len(fields))
	}
	var ticks uint64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// processMemory is a field of /proc/PID/status, such as VmRSS, in bytes.
func processMemory(pid int, field string) (int64, error) {
	raw, err := os.ReadFile(procFile(pid, "status"))
	if err != nil {
		return 0, err
	}
	return parseMemory(string(raw), field)
}

// processWritten is how many bytes a process has caused to be written to disks.
func processWritten(pid int) (int64, error) {
	raw, err := os.ReadFile(procFile(pid, "io"))
	if err != nil {
		return 0, err
	}
	return parseWritten(string(raw))
}

// parseWritten reads the field of a /proc/PID/io that counts pages, not calls.
func parseWritten(io string) (int64, error) {
	for line := range strings.Lines(io) {
		if value, found := strings.CutPrefix(line, "write_bytes:"); found {
			return strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, errors.New("no field write_bytes")
}

// parseMemory reads a field that is given in kB from a file of /proc.
func parseMemory(status, field string) (int64, error) {
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if name != field {
			continue
		}
		kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		return kilobytes << 10, err
	}
	return 0, fmt.Errorf("no field %s", field)
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}
