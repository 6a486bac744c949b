// Package propose takes commands to the log: the proposer gathers those that come
// together into one entry, on the master; the forwarder sends a follower's to the
// master, over one stream. A command is answered exactly once, with its result,
// with an error after which it was certainly not applied, or with ErrUnknown.
package propose
