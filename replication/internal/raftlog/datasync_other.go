//go:build !linux

package raftlog

import (
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

func newFS() types.VFS { return fs.New() }
