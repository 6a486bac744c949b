// Package recovery makes a pod's data the beginning of a new cluster when a person
// says so: when a majority of the volumes is lost (kvd recover), or for volumes
// that were copied elsewhere (kvd adopt).
//
// Its nouns:
//
//   - A decision is made in this order: it is checked, then exchanged in the cluster
//     record, then noted on the disk. Nothing is done to the data before. From each
//     step on, a pod that starts again goes on.
//   - Finish does what was decided: it writes the new history.
//   - A pod that runs holds its data directory. Request leaves a request beside the
//     data, and Await takes it and answers there: whoever may write to the directory
//     may decide about its data, and no port is needed.
package recovery
