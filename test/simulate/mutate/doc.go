// Command mutate builds bugs into kvd, one after the other, and lets the
// simulation look for each: a simulation that finds nothing proves little unless
// it is known to find what is there. It prints a table of docs/faults.md.
//
//	go run ./test/simulate/mutate [-only name] [-seeds 12] [-tries 3]
package main
