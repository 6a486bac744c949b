package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"
)

// valueBytes is the size of every value.
const valueBytes = 256

// noise is where random values are cut from: random bytes do not compress, and
// cutting costs the callers nothing.
var noise = func() []byte {
	b := make([]byte, 1<<20)
	random := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], random.Uint64())
	}
	return b
}()

// numberedKey is a key of 16 bytes.
func numberedKey(n int) []byte {
	return fmt.Appendf(nil, "bench-%010d", n)
}

func randomValue(random *rand.Rand) []byte { return randomBytes(random, valueBytes) }

func randomBytes(random *rand.Rand, n int) []byte {
	at := random.IntN(len(noise) - n)
	return noise[at : at+n]
}

// loaders is how many bulk calls fill a store at one time.
const loaders = 8

// fill writes the keys 0 to n-1 with bulk calls to the master, the way that is
// quick in both systems.
func fill(ctx context.Context, c *Cluster, n int) error {
	clients, closeAll, err := c.DialLeader(ctx, loaders)
	if err != nil {
		return err
	}
	defer closeAll()
	return fillWith(ctx, clients, n, randomValue)
}

// fillWith is fill with values of another kind.
func fillWith(ctx context.Context, clients []Client, n int, value func(*rand.Rand) []byte) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, client := range clients {
		group.Go(func() error {
			random := rand.New(rand.NewPCG(uint64(i), 3))
			for from := i * bulkSize; from < n; from += len(clients) * bulkSize {
				var pairs []Pair
				for k := from; k < min(from+bulkSize, n); k++ {
					pairs = append(pairs, Pair{numberedKey(k), value(random)})
				}
				if err := putMany(ctx, client, pairs); err != nil {
					return fmt.Errorf("fill: %w", err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// fillAttempts is how often a bulk call is tried. Filling is not what is
// measured: an election meanwhile, on a machine that is not quiet, is waited for.
const fillAttempts = 50

func putMany(ctx context.Context, client Client, pairs []Pair) error {
	for n := 1; ; n++ {
		err := client.PutMany(ctx, pairs)
		if err == nil || n == fillAttempts {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}
