// Package process tests kvd as people run it: built, started as processes, and
// killed. Package faults does the same for longer and with more imagination;
// this is the first test to look at when something is broken.
package process
