// Command kvctl is the command line of Baton: one file per verb, over package
// client. kvctl --help is its documentation.
package main
