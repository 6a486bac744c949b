// Package raftlog is the Raft log on disk: raft-wal, bounded in bytes, kept
// for those who need it, and watched for a disk that fails or hangs.
package raftlog
