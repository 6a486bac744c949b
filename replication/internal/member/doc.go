// Package member has the names of pods and of their disks' incarnations.
package member
