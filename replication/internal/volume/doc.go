// Package volume keeps what a pod knows about itself on its disk: a lock that
// lets one process in, and member.json, the marker that decides whether the
// directory holds data and whose.
//
// Nothing but member.json decides: a lost+found, a half received clone or the
// files of a removed incarnation are never taken for data.
package volume
