package main

import (
	"context"

	"github.com/batondb/baton/test/simulate"
)

// What a person runs in the container of a simulated pod.

func recoverSimulated(ctx context.Context, e simulate.Environment) error {
	c, err := simulatedConfig(e)
	if err == nil {
		_, err = recoverPod(ctx, &c, nil)
	}
	return err
}

func adoptSimulated(ctx context.Context, e simulate.Environment) error {
	c, err := simulatedConfig(e)
	if err == nil {
		_, err = adopt(ctx, &c)
	}
	return err
}
