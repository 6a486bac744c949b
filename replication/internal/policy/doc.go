// Package policy decides who is in the cluster, who leads it, who founds it, who
// clones from whom, who may recover it, and who is ready.
//
// Each decision is a function from what a pod knows to what it does, and why, in
// the words that the log and /readyz?verbose print. Nothing here asks, waits,
// reads a clock or keeps anything: the same knowledge gives the same decision. So
// the decisions can be told in scripts (testdata), and tried in every order of
// faults (TestExplore).
//
// The nouns: an [Arrival] is a pod without data; a [Situation] is the membership
// as the master sees it; a [Standing] is a member's own part in it; a [Recovery] is
// what is known when a person gives up the lost majority; a [Peer] is what another
// pod says of itself, and [Seen] are those that answered.
//
// Two rules hold throughout. Silence proves nothing: a pod that does not answer may
// have a quorum behind it. And what is not known is not decided: the pod waits, and
// says for what.
package policy
