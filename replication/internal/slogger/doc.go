// Package slogger gives the Raft library's lines to log/slog: one level lower
// than the library thinks of them, and each line at most once a second, for it
// repeats what it says about an absent peer many times a second.
package slogger
