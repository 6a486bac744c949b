// Package seldom limits how often the log tells of what happens all the time, such as a
// stranger that knocks.
package seldom
