// Package seldom keeps what happens all the time, a stranger that knocks for example,
// out of the log, but for a line now and then.
package seldom
