package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var (
	only   = flag.String("only", "", "only mutations whose name contains this")
	faults = flag.String("faults", "", "only faults whose name contains this")
	seeds  = flag.Int("seeds", 20, "how many seeds to try before a mutation counts as not found")
	tries  = flag.Int("tries", 1, "how often each is looked for, from another seed each time")
	again  = flag.Int("again", 0, "how often a seed that found it is run again")
	first  = flag.Uint64("seed", 1000, "the first seed")
	length = flag.Duration("length", 12*time.Minute, "how long each seed is broken for, in virtual time")
)

func main() {
	flag.Parse()
	dir, err := os.MkdirTemp("", "baton-mutate-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer os.RemoveAll(dir)
	missed := 0
	fmt.Println("| bug | found | mean virtual time | by | again by the same seed |\n|---|---|---|---|---|")
	for _, m := range mutations {
		if !strings.Contains(m.name, *only) {
			continue
		}
		row, found, err := look(dir, m)
		if err != nil {
			fmt.Fprintf(os.Stderr, "mutate: %s: %v\n", m.name, err)
			os.Exit(1)
		}
		fmt.Println(row)
		if !found {
			missed++
		}
	}
	if missed > 0 {
		fmt.Fprintf(os.Stderr, "mutate: %d were not found\n", missed)
		os.Exit(1)
	}
}

// overlay writes what go build takes instead of the files.
func (m mutation) overlay(dir string) (string, error) {
	replaced := map[string]string{}
	for i, e := range m.edits {
		path, err := filepath.Abs(e.file)
		if err != nil {
			return "", err
		}
		source := path
		if earlier, ok := replaced[path]; ok {
			source = earlier
		}
		text, err := os.ReadFile(source)
		if err != nil {
			return "", err
		}
		if n := strings.Count(string(text), e.old); n != 1 {
			return "", fmt.Errorf("%s has %q %d times", e.file, e.old, n)
		}
		mutated := filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(mutated, []byte(strings.Replace(string(text), e.old, e.new, 1)), 0o600); err != nil {
			return "", err
		}
		replaced[path] = mutated
	}
	raw, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, raw, 0o600)
}

// look builds a mutation and simulates until it is found.
func look(dir string, m mutation) (row string, found bool, err error) {
	overlay, err := m.overlay(dir)
	if err != nil {
		return "", false, err
	}
	binary := filepath.Join(dir, "kvd.test")
	// Unused imports and the like are no errors of a mutation: vet is off.
	build := exec.Command("go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, "./cmd/kvd")
	if output, err := build.CombinedOutput(); err != nil {
		return "", false, fmt.Errorf("%w\n%s", err, output)
	}
	total, hits, by := time.Duration(0), 0, ""
	repeated := 0
	for try := range *tries {
		for seed := range *seeds {
			number := *first + uint64(try*1000+seed)
			virtual, what := simulate(binary, number)
			total += virtual
			if what != "" {
				hits++
				by = what
				repeated += repeat(binary, number)
				break
			}
		}
	}
	mean := "-"
	if hits > 0 {
		mean = (total / time.Duration(hits)).Round(time.Second).String()
	}
	return fmt.Sprintf("| %s | %d of %d | %s | %s | %d of %d |", m.name, hits, *tries, mean, by, repeated, hits**again), hits == *tries, nil
}

// repeat counts how often a seed finds something again.
func repeat(binary string, seed uint64) int {
	hits := 0
	for range *again {
		if _, what := simulate(binary, seed); what != "" {
			hits++
		}
	}
	return hits
}

var (
	virtualLine = regexp.MustCompile(`seed \d+: (\S+) virtual`)
	foundLine   = regexp.MustCompile(`seed \d+: ([a-z]+): (.*)`)
)

// patience is how long a seed may take, in real time: a bug may stop it.
const patience = 3 * time.Minute

// simulate runs one seed, and says what was found, if anything was.
func simulate(binary string, seed uint64) (virtual time.Duration, what string) {
	run := exec.Command("timeout", "-s", "KILL", strconv.Itoa(int(patience.Seconds())), binary,
		"-test.run", "^TestSimulate$", "-seeds", "1", "-seed", strconv.FormatUint(seed, 10), "-length", length.String(), "-only", *faults)
	run.Dir = filepath.Join("cmd", "kvd")
	output, err := run.CombinedOutput()
	if m := virtualLine.FindSubmatch(output); m != nil {
		virtual, _ = time.ParseDuration(string(m[1]))
	}
	if err == nil {
		return virtual, ""
	}
	if virtual == 0 {
		virtual = *length // It ended at once, or never.
	}
	if m := foundLine.FindSubmatch(output[max(0, strings.Index(string(output), "--- FAIL")):]); m != nil {
		fmt.Fprintf(os.Stderr, "%s\n", m[0])
		return virtual, string(m[1])
	}
	return virtual, "it stops"
}
