// Package workload is what clients do to a cluster in tests that break it:
// sessions that read and write in every way, on the bare API and through the Go
// client, lease holders, and watchers. Everything they do and see goes to a
// history.Recorder, and Check holds it together.
//
// The cluster may be of processes on a network of proxies (package faults), or of
// pods in virtual time (package simulate).
package workload
