// Package rawgrpc lets tests send a gRPC server what no client library would: calls
// that stop in the middle, headers without end, answers that nobody reads.
package rawgrpc
