package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/batondb/baton/client/clienttest"
)

// TestScripts runs the files of testdata, each on a stand-in cluster of its own:
//
//	kvctl [terminal] [ask]     run kvctl with the arguments in the first line;
//	                           what follows is its standard input ((enter): an
//	                           empty line). terminal: its output is one; ask: its
//	                           input is one
//	stop pod=1                 stop a pod
//	master pod=1               make it the master; -1: there is none
//
// The output is what kvctl printed, then what it printed as errors, then its
// exit code when that is not 0. go test ./cmd/kvctl -rewrite writes it anew.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		fake, err := clienttest.Start(3)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(fake.Close)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var pod int
			d.MaybeScanArgs(t, "pod", &pod)
			switch d.Cmd {
			case "kvctl":
				return runScripted(t, fake, d)
			case "stop":
				fake.StopPod(pod)
			case "master":
				fake.SetMaster(pod)
			default:
				d.Fatalf(t, "there is no command %s", d.Cmd)
			}
			return ""
		})
	})
}

func runScripted(t *testing.T, fake *clienttest.Cluster, d *datadriven.TestData) string {
	t.Helper()
	line, stdin, _ := strings.Cut(d.Input, "\n")
	stdin = strings.ReplaceAll(stdin, "(enter)", "")
	words, _, message := splitWords(line)
	if message != "" {
		d.Fatalf(t, "%s", message)
	}
	args := []string{}
	for _, w := range words {
		args = append(args, w.text)
	}
	terminal := d.HasArg("terminal")
	if d.HasArg("ask") {
		stdin += "\n" // a person ends every line
	}
	return runKvctl(fake.Endpoints(), args, stdin, func(a *app) {
		a.outTerminal, a.errTerminal, a.inTerminal = terminal, terminal, d.HasArg("ask")
	})
}

// runKvctl runs kvctl in this process and shows all that it did.
func runKvctl(endpoints []string, args []string, stdin string, change func(*app)) string {
	var out, errOut bytes.Buffer
	a := &app{in: strings.NewReader(stdin), out: &out, err: &errOut, env: func(name string) string {
		if name == "BATON_ENDPOINTS" {
			return strings.Join(endpoints, ",")
		}
		return ""
	}}
	change(a)
	code := a.run(context.Background(), args)
	shown := out.String()
	if errOut.Len() > 0 {
		shown = withNewline(shown) + "stderr: " + strings.ReplaceAll(strings.TrimSuffix(errOut.String(), "\n"), "\n", "\nstderr: ") + "\n"
	}
	if code != 0 {
		shown = withNewline(shown) + fmt.Sprintf("exit %d\n", code)
	}
	for i, endpoint := range endpoints {
		shown = strings.ReplaceAll(shown, endpoint, fmt.Sprintf("127.0.0.1:74%d0", i))
	}
	shown = strings.ReplaceAll(shown, "\x1b", "^[")
	return withNewline(shown)
}

func withNewline(s string) string {
	if s != "" && !strings.HasSuffix(s, "\n") {
		return s + "\n"
	}
	return s
}
