// Package turn has a lock for those who wait for others while they hold it: for a
// disk, for room in a connection, for an entry to be committed.
package turn
