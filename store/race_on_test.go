//go:build race

package store

// raceDetector: it comes with checks of pointers that end the process, with no
// way to recover, where bbolt would panic or fault over a damaged page.
const raceDetector = true
