package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/hashicorp/raft-wal/types"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/server"
)

// world is everything that a pod reaches outside its process. The zero world is the
// real one; tests run pods in another, and change nothing else.
type world struct {
	stderr io.Writer
	listen func(network, address string) (net.Listener, error)
	dial   func(ctx context.Context, hostport string) (net.Conn, error)
	lookup func(ctx context.Context, host string) ([]string, error)
	space  func(dir string) (server.Space, error)
	logFS  types.VFS
	// plainPeers: nobody else reaches the peer ports, and there is no TLS on them.
	plainPeers bool
	// committed: see store.Options.
	committed func(path string, transaction int)
	// observe: see replication.Options.
	observe func(before, index, term uint64, data []byte)

	// Small files and tables show in minutes what large ones do in days; see
	// replication.Options and store.Options.
	logBytes   int64
	tableBytes int
	timing     replication.Timing
	// verifyInterval: see server.Options.
	verifyInterval time.Duration
}

func (w world) complete() world {
	if w.stderr == nil {
		w.stderr = os.Stderr
	}
	if w.listen == nil {
		w.listen = net.Listen
	}
	if w.lookup == nil {
		w.lookup = net.DefaultResolver.LookupHost
	}
	if w.space == nil {
		w.space = spaceOf
	}
	return w
}

func (w world) logger(c *config) *slog.Logger { return newLogger(w.stderr, c) }
