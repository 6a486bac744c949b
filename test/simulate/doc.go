// Package simulate runs whole pods in one process and in virtual time
// (testing/synctest), under a StatefulSet controller, an API server, a DNS, a
// network and disks that misbehave by a seed, and checks what clients saw.
//
// Only what lies outside of a pod's process is a substitute: connections
// (Network), the files of the log (Disk), the Kubernetes API and names. The pods,
// with their store, replication and servers, and the Go client are what ships.
//
// # Nouns
//
//   - A Simulation is one run: a seed, a number of pods, a length of virtual time.
//   - A machine is one pod's place: its volume, which outlives its processes.
//   - A process is one incarnation of a pod, from its start to its end or kill.
//   - A fault is a row of the table in faults.go; the nemesis draws them.
//   - The controller does what Kubernetes' StatefulSet controller does.
//
// # Virtual time
//
// Time moves when every goroutine waits for something that another one of the
// simulation will do, or for time itself. To wait for a mutex does not count: who
// holds one while it waits for time, and another wants it, stops the simulation
// for good. So no Write of a connection waits, and disks are slow only where the
// log holds no lock of the library's.
//
// # What repeats
//
// A seed fixes the faults and the virtual times at which they come. It does not
// fix which goroutine runs first of those that can at one moment, nor random
// numbers of the pods' own, so a failure may need some tries of its seed;
// docs/faults.md says how many.
package simulate
