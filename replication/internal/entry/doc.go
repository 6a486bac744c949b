// Package entry is the encoding of a log entry: a version byte, then the
// commands, each a length prefix and a protobuf message. The entry's checksum
// goes beside it, into the log's extensions.
package entry
