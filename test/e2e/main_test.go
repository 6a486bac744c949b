//go:build e2e

package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	flag.Parse()
	api, err := newAPI()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	recycled := make(chan error, 1)
	if *kubeDir != "" {
		go func() { recycled <- recycle(ctx, api) }()
	} else {
		recycled <- nil
	}
	code := m.Run()
	cancel()
	if err := <-recycled; err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	table.print(os.Stdout)
	os.Exit(code)
}
