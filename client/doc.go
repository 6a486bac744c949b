// Package client is the Go client of Baton.
//
// A [Client] is given the addresses of some pods, or of a Service in front of
// them. It finds the others, sends writes to the master and spreads reads over
// the pods that are ready. It is safe for concurrent use, holds one connection
// a pod, and is meant to live as long as the process:
//
//	c, err := client.New(client.Options{Endpoints: []string{"127.0.0.1:7400"}})
//	...
//	defer c.Close()
//	_, err = c.Put(ctx, "greeting", []byte("hello"))
//	kv, err := c.Get(ctx, "greeting")
//
// # Retries
//
// Every call repeats what is safe to repeat until its context ends, so give it
// a context with a deadline; a call without one waits for as long as the
// cluster has no master. A read is always safe. A write carries a request id
// that the store remembers, so that repeating it after a lost answer applies it
// exactly once. What is left to the caller is in the error:
//
//   - [ErrUnknown]: the context ended, or the store forgot the request id, with
//     an answer outstanding: the write may or may not have been applied.
//   - [ErrUnavailable] (and [ErrNoMaster], which is one kind of it): the context
//     ended, and nothing was applied.
//   - [ErrResultCut]: the write was applied, but what it read or replaced was lost
//     with the first answer.
//   - every other [*Error]: the write was refused, nothing was applied.
//
// # Keys
//
// A key is a string of 1 to 4,096 bytes, not necessarily text. [Keys] names one
// key or a range of them: [Key], [Prefix], [Between]. A transaction is made
// with [Client.Txn].
//
// # Freshness
//
// A read is linearizable unless a [ReadOption] says otherwise. The client
// remembers the highest revision that any answer showed it; Client.Revision
// as MinRevision makes a local read monotonic: never older than what this
// client has seen.
//
// # Streams
//
// Client.Scan and Client.Watch are iterators over streams that go on, on
// another pod, where a lost stream ended: each key or event comes once and in
// order. A [Batcher] gathers many small writes into few messages.
package client
