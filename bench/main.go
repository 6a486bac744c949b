package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings are the command line.
type settings struct {
	only, systems      string
	quick, secure      bool
	rounds             int
	duration           time.Duration
	out, dir, profiles string
}

// gcPercent is of this process, the callers: they share the processors with the
// pods, and what they take hides a part of how the pods differ.
const gcPercent = 800

func main() {
	debug.SetGCPercent(gcPercent)
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	err := run(ctx, os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		cancel()
		os.Exit(1)
	}
}

// run is the whole benchmark.
func run(ctx context.Context, arguments []string) error {
	s, err := parse(arguments)
	if err != nil {
		return err
	}
	selected, err := choose(s.only)
	if err != nil {
		return err
	}
	plan := s.plan()
	dir, err := makeDir(s.dir)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	lab := &Lab{Plan: plan, Dir: dir, Profiles: s.profiles, Secure: s.secure}
	systems, err := build(ctx, dir, s.systems)
	if err != nil {
		return err
	}
	report := &Report{
		Plan: plan, Quick: s.quick, Measurements: selected, Date: time.Now(),
		Command: strings.Join(append([]string{"cd bench && go run ."}, arguments...), " "),
	}
	for _, system := range systems {
		report.Versions = append(report.Versions, system.Name()+" "+system.Version())
	}
	if report.Machine, err = inspect(dir); err != nil {
		return err
	}
	if err := measureAll(ctx, lab, systems, report); err != nil {
		return err
	}
	return publish(report, s.out)
}

// plan is the plan that the flags ask for.
func (s settings) plan() Plan {
	plan := fullPlan
	if s.quick {
		plan = quickPlan
	}
	if s.rounds > 0 {
		plan.Rounds = s.rounds
	}
	if s.duration > 0 {
		plan.Duration = s.duration
	}
	return plan
}

// makeDir makes a folder of this run's own inside dir.
func makeDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(dir, "run-")
}

// parse reads the command line.
func parse(arguments []string) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&s.only, "only", "", "run only these measurements, with commas between (default all)")
	flags.StringVar(&s.systems, "systems", "etcd,baton", "run only these systems; without both there are no ratios")
	flags.BoolVar(&s.quick, "quick", false, "a short run with a small store: rough numbers in three minutes")
	flags.BoolVar(&s.secure, "secure", false, "callers speak TLS and log in as a user with rights on their keys, in both systems;\nfor the measurements "+strings.Join(secureMeasurements, ", "))
	flags.IntVar(&s.rounds, "rounds", 0, "how often each system is measured; medians are taken over the rounds\n(default 5, or 1 with -quick)")
	flags.DurationVar(&s.duration, "duration", 0, "how long each load is counted (default 10s, or 2s with -quick)")
	flags.StringVar(&s.out, "out", "", "also write the page to this file, for example ../docs/benchmarks.md")
	flags.StringVar(&s.dir, "dir", ".data", "where the pods keep their data while the benchmark runs; removed at the end.\nIt must be on a real disk: on a file system in memory fsync costs nothing")
	flags.StringVar(&s.profiles, "profile", "", "keep Go profiles of Baton's master and of a follower in this directory, taken\nduring the measurements put, batch and api")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage())
		flags.PrintDefaults()
	}
	if err := flags.Parse(arguments); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q; try -h", flags.Arg(0))
	}
	if s.rounds < 0 || s.duration < 0 {
		return s, errors.New("-rounds and -duration cannot be negative")
	}
	if s.secure && s.only == "" {
		s.only = strings.Join(secureMeasurements, ",")
	}
	for _, name := range strings.Split(s.only, ",") {
		if s.secure && !slices.Contains(secureMeasurements, name) {
			return s, fmt.Errorf("-secure is not for the measurement %q", name)
		}
	}
	if s.secure && s.profiles != "" {
		return s, errors.New("-profile cannot be taken with -secure")
	}
	return s, nil
}

func usage() string {
	var b strings.Builder
	b.WriteString(`bench compares Baton with etcd: three pods each on this machine, in turns, with
fsync on. It prints tables of ratios, and writes them to a page with -out.

  go run . -quick                        rough numbers of everything
  go run . -only put,kill -quick         of two measurements
  go run . -secure -rounds 3             with TLS and access control
  go run . -out ../docs/benchmarks.md    the full run (what "make bench" does)
  go run . -only put -systems baton -rounds 1 -duration 30s -profile profiles
                                         where Baton's processor time goes

Run it in the folder bench, with nothing else running: anything that competes for
the processors or the disk changes the ratios. Ctrl-C ends it and its pods.

Measurements:
`)
	for _, m := range measurements() {
		fmt.Fprintf(&b, "  %-6s %s\n", m.Name, m.Summary)
	}
	b.WriteString("\nFlags:\n")
	return b.String()
}

// choose gives the measurements of -only.
func choose(only string) ([]Measurement, error) {
	all := measurements()
	if only == "" {
		return all, nil
	}
	wanted := strings.Split(only, ",")
	var chosen []Measurement
	var known []string
	for _, m := range all {
		known = append(known, m.Name)
		if slices.Contains(wanted, m.Name) {
			chosen = append(chosen, m)
		}
	}
	for _, name := range wanted {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("-only: there is no measurement %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// build builds the servers of -systems.
func build(ctx context.Context, dir, names string) ([]System, error) {
	var systems []System
	for _, name := range strings.Split(names, ",") {
		fmt.Fprintf(os.Stderr, "building %s\n", name)
		var system System
		var err error
		switch name {
		case "etcd":
			system, err = buildEtcd(ctx, dir)
		case "baton":
			system, err = buildBaton(ctx, dir)
		default:
			err = fmt.Errorf("-systems: there is no system %q; there are etcd and baton", name)
		}
		if err != nil {
			return nil, err
		}
		systems = append(systems, system)
	}
	return systems, nil
}

// measureAll runs every measurement, round after round, the systems in turns.
func measureAll(ctx context.Context, lab *Lab, systems []System, report *Report) error {
	meter, err := startMeter()
	if err != nil {
		return err
	}
	for _, m := range report.Measurements {
		results := Results{}
		for n := range lab.Plan.Rounds {
			for _, system := range systems {
				fmt.Fprintf(os.Stderr, "%s: round %d of %d, %s\n", m.Name, n+1, lab.Plan.Rounds, system.Name())
				round, err := m.Round(ctx, lab, system)
				if err != nil {
					return fmt.Errorf("%s: %w", m.Name, err)
				}
				fmt.Fprint(os.Stderr, m.brief(round))
				results[system.Name()] = append(results[system.Name()], round)
			}
		}
		report.Results = append(report.Results, results)
	}
	report.Notes = lab.Notes
	report.Others, err = meter.others()
	return err
}

// publish prints the tables, and writes the page when a file is given.
func publish(report *Report, out string) error {
	page := report.Markdown()
	if out == "" {
		fmt.Print(page)
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(out, []byte(page), 0o644); err != nil {
		return err
	}
	fmt.Print(page)
	fmt.Fprintln(os.Stderr, "written to", out)
	return nil
}

// brief tells of a round, one line for each metric, while the benchmark runs.
func (m Measurement) brief(round Round) string {
	var b strings.Builder
	for _, metric := range m.Metrics {
		fmt.Fprintf(&b, "    %-52s %12s\n", metric.Label, metric.cell(metric.value([]Round{round})))
	}
	return b.String()
}
