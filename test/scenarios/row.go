package scenarios

// The kinds of tests.
const (
	// processes: real kvd processes or parts of them, by `go test`.
	processes = "P"
	// onKubernetes: on a real Kubernetes, by `make e2e`.
	onKubernetes = "K"
)

// row is one scenario: what happens, and what must be observable.
type row struct {
	id, happens, must string
	// kinds are those that the scenario asks for.
	kinds string
	// missing says why there is no test of a kind, and what there is instead.
	missing map[string]string
}

// rows are all scenarios.
var rows = []row{
	{"S01", "first boot; the pods start in any order", "only the lowest ordinal founds; one cluster uuid; all vote within 60 s", "PK", nil},
	{"S02", "all pods deleted, OrderedReady or Parallel; the first pod's node is down", "no deadlock of readiness; a master within 30 s of a quorum", "PK", nil},
	{"S03", "the governing Service lacks publishNotReadyAddresses", "a line of the log names it within 30 s; well when patched", "PK", nil},
	{"S04", "a name does not resolve yet, SERVFAIL, slow DNS", "delays, decides nothing; joined within 5 s of the record", "P", nil},
	{"S05", "DNS is down and nothing moves; then a pod moves", "no failed write; replicates within 10 s of the right record", "PK", nil},
	{"S06", "lost+found on the volume, ordinals from 5, twelve pods, data on no mount", "its own marker says what is data; numeric order; a warning", "P", nil},
	{"S07", "one pod's address changes", "back within 15 s; the members stay; no election for a follower", "PK", nil},
	{"S08", "all addresses change at once", "a master within 30 s; the same uuid and revision", "PK", nil},
	{"S09", "an old address belongs to another cluster's or another ordinal's pod", "refused at the handshake and counted; terms unchanged", "P", nil},
	{"S10", "two processes with one identity", "the second waits on the lock, says so, and ends; an old master acknowledges nothing after its lease", "PK", nil},
	{"S11", "the volumes are cloned into another namespace", "the copy never talks to the original", "P", nil},
	{"S12", "scale 1 to 7 at once; one pod never starts", "no failed write; a pod that never started never counts; each new one clones the pod before it", "PK", nil},
	{"S13", "scale down 3-2-1, 5-3, 5-1; hard kills", "writes within 10 s of each step; voters are what remains", "PK", nil},
	{"S14", "up again with the volumes of the removed pods", "old data is set aside; a new identity, which clones", "PK", nil},
	{"S15", "scale to zero and back; the StatefulSet deleted and applied again", "all data there, the same uuid (20 rounds on Kubernetes, here by `-args -rounds 20`)", "PK", nil},
	{"S16", "a restart is taken for a departure", "the members are the same before and after", "PK", nil},
	{"S17", "members that are long dead", "replaced by their successor; no timer removes them", "P", nil},
	{"S18", "one pod loses its volume", "a new identity, cloned; the old one removed; no election without an acknowledged write", "PK", nil},
	{"S19", "the lowest ordinal loses its volume, cut off or while others restart", "no second cluster; it waits, says why, and joins", "PK", nil},
	{"S20", "a majority loses its volumes", "no service and no new uuid until a person recovers; refused while a quorum exists", "PK", nil},
	{"S21", "the data of one pod is damaged", "noticed by checksums, set aside, cloned again", "P", nil},
	{"S22", "rolling update under load", "one change of master; gaps of 300 ms at most; no election for a follower", "PK", nil},
	{"S23", "SIGTERM of the master", "hands over; a gap of 50 ms; ends in time also when that fails; kv-master leads to the next one", "PK", nil},
	{"S24", "drain with a PodDisruptionBudget", "at most one pod unready; drains finish", "K", nil},
	{"S25", "a broken image, then reverted", "the others serve; nothing changed on disk", "K", nil},
	{"S26", "two versions at once; downgrade", "an entry of an unknown kind stops the pod, and is never skipped", "P", nil},
	{"S27", "certificates rotate", "picked up live; no failed write; the old CA is refused afterwards", "PK", nil},
	{"S28", "a clone is cut at any byte; its source dies or lags", "never taken for data; goes on, or begins again elsewhere", "PK", nil},
	{"S29", "a snapshot larger than the patience of its timers", "the limit is on no progress; the log is kept from the clone's index", "P", nil},
	{"S30", "disk full", "writes refused before; reads and deletes work; recovers by itself", "P", nil},
	{"S31", "disk slow or hung", "a master whose disk hangs gives up the baton", "P", nil},
	{"S32", "liveness probe and a busy pod", "/livez answers whatever the pod waits for", "P", nil},
	{"S33", "memory limit", "everything is streamed and bounded; the limit of the cgroup is kept", "P", nil},
	{"S34", "CPU throttled", "fewer than one election an hour under load", "P", nil},
	{"S35", "values at and over the limit", "a typed error at the door", "P", nil},
	{"S36", "compaction of a large store", "the 99th percentile of writes stays under 1 s", "P", nil},
	{"S37", "clocks jump", "a lease never ends early; only certificates, which begin a day early, and tokens depend on a wall clock", "P", nil},
	{"S38", "clients hold on to the old master; unknown outcomes", "working within 3 s; refused and unknown differ; deadlines hold", "P", nil},
	{"S39", "a write sent to a follower", "forwarded, one hop; each acknowledged one applied once", "P", nil},
	{"S40", "stale reads", "linearizable by default; the bounds of the others hold", "P", nil},
	{"S41", "watches over a change of master and over compaction", "each event once and in order, or an explicit error", "P", nil},
	{"S42", "restore of a backup", "all or nothing; a new history; revisions never go back", "PK", nil},
	{"S43", "an old master with a tail that nobody else has comes back while a new one's first entry is being synced", "applies nothing that was not committed; every pod's entry at an index is the same", "P", nil},
	{"S44", "damage is found in two pods within one clone's time", "never more data given up than the rest can commit without; a master all the time", "P", nil},
	{"S45", "a person runs recover in a pod that is only cut off", "refused; with the lost members named wrongly, too, the healthy majority never yields", "P", nil},
	{"S46", "the first entry after a clone conflicts with the next master's", "heals within 10 s", "P", nil},
	{"S47", "access control is turned on under clients; rights and passwords change, and the master", "nobody reads or writes without the right; tokens live on; who loses a right loses open watches", "P", nil},
}
