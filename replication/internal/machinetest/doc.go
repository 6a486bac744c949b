// Package machinetest has a state machine in memory for the tests of replication.
package machinetest
