// Package faultfs is a file system for tests. It is mounted over FUSE, passes
// everything through to a directory, keeps a record of every change and every
// sync, and fails on demand.
//
// From the record, Crash builds what the disk may hold after a crash at any
// point: everything that was synced, and of the rest an arbitrary part.
//
// A process that maps a file of a file system that it serves itself can stop
// for ever: a goroutine that waits for a page cannot be stopped by the garbage
// collector, which stops those who would bring the page. So the file system is
// served by a process of its own: the test binary, started again, whose
// TestMain calls Main.
package faultfs
