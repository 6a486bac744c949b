// Package lint holds the rules of the source that a linter does not know: which
// package may import which, how long a function and a file may be, and that
// every package says what it is. It is all in the test.
package lint
