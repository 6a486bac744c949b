package server

import "time"

// Limits on requests. They bound what one request can cost every pod: all of
// it is held in memory, written to each pod's log and sent over each stream.
const (
	// MaxKeyBytes: keys live in the pages of bbolt's branches, which hold few long
	// ones, so that a tree of them is high and slow.
	MaxKeyBytes = 4 << 10
	// maxBoundBytes: the end of a range, or the key that a page goes on from,
	// may be the successor of the longest key, which is one zero byte longer.
	maxBoundBytes = MaxKeyBytes + 1
	// MaxValueBytes: etcd's default, so that what fits there fits here.
	MaxValueBytes = 3 << 19
	// maxTxnOps counts operations and compares, nesting included: etcd's
	// default. Applying one stops every other write for its time.
	maxTxnOps = 128
	// maxTxnKeys that a transaction or a batch may look at: 5 ms or so.
	maxTxnKeys = 20_000
	// maxTxnDepth: validation and application recurse.
	maxTxnDepth = 4
	// maxTxnBytes is larger than one value, and small enough for one Raft entry.
	maxTxnBytes = 2 << 20
	// maxBatchWrites bounds how long one batch keeps others waiting: about 5 ms.
	maxBatchWrites = 1024
	// maxBatchBytes: as maxTxnBytes.
	maxBatchBytes = 2 << 20
	// maxPageKeys bounds the memory of one page of small keys.
	maxPageKeys = 10_000
	// MaxTTLSeconds is etcd's: larger ones overflow when added to a time.
	MaxTTLSeconds = 9_000_000_000
	// maxLeaseKeys bounds the answer of TimeToLive: 10,000 keys of 4 KiB would
	// be too large to send, so the size counts as well.
	maxLeaseKeys     = 10_000
	maxLeaseKeyBytes = 2 << 20
	// clientIDBytes: a UUID; fewer would let two clients share one.
	clientIDBytes = 16
)

// Limits on streams and connections.
const (
	// maxMessageBytes is the largest request: the largest write and its frame.
	maxMessageBytes = 4 << 20
	// streamWindow is what a client may send on one stream before somebody reads it;
	// for a message that has begun gRPC lets all of it come.
	streamWindow = 64 << 10
	// connectionWindow is what may be on its way to this pod on one connection: 1 GB/s
	// at 1 ms of round trip. With a size of its own choosing gRPC would ping the
	// client after each request, to measure how much it needs.
	connectionWindow = 1 << 20
	// maxArrivingBytes of requests whose first frame says that more is to come: a
	// hundred of the largest.
	maxArrivingBytes = 256 << 20
	// maxAnswerBytes that are built and that no client has read yet; with what else is
	// in memory less than the GiB that a pod has.
	maxAnswerBytes = 384 << 20
	// maxAtOnceBytes of an etcd range are encoded when it is read: what clients take if
	// they are not told to take more. The rest is read when it is sent, in parts of
	// AnswerPartBytes, or one key.
	maxAtOnceBytes  = 4 << 20
	AnswerPartBytes = 64 << 10
	// maxRangeBytes of an etcd range: its parts are counted in memory, half a KiB for
	// each, and clients hold all of it.
	maxRangeBytes = 1 << 30
	// maxReads of ranges at once, leastReads with few processors, and readsEach processor: a
	// page has up to 2 MiB, and takes as much again when it is encoded; and each read that
	// runs is what every step of a write waits for, for a fraction of a millisecond. The
	// rest wait.
	maxReads, leastReads, readsEach = 16, 4, 2
	// maxUncountedBytes of an answer are not worth the count, since calls are counted.
	maxUncountedBytes = 4 << 10
	// maxCalls are those whose client has not said all, those whose handler runs, and
	// those whose answer is not read: each holds its headers, and a goroutine and up to
	// streamWindow of requests, or up to maxUncountedBytes of an answer.
	maxCalls = 24_576
	// maxStreamsPerConnection: a client with one connection and some thousand
	// callers is normal; a client that forgets its streams must find an end.
	maxStreamsPerConnection = 4096
	// maxHandshakes of TLS that are under way: each takes about 30 KiB, and a
	// millisecond when the client does its part. All clients of a pod that restarts
	// may come at once.
	maxHandshakes = 1024
	// lingerBytes is more than a client sends before it reads why it is refused.
	lingerBytes = 64 << 10
	// callWorkers are goroutines that wait for calls: as many as a busy pod has
	// calls at once. Further calls get a goroutine of their own.
	callWorkers = 1024
	// maxHeaderBytes of one call: a token has 2 KiB at most, a path some dozen bytes.
	// They are in memory for as long as the call is.
	maxHeaderBytes = 16 << 10
	// maxConnections on the client port: each holds two goroutines and buffers, about
	// 100 KiB.
	maxConnections = 4096
	// maxWebConnections on the HTTP port: probes and scrapers have one or two each,
	// with about 16 KiB.
	maxWebConnections = 1024
	// maxStreams that are open on one pod, watches among them: each holds a goroutine
	// and its headers, 8 to 40 KiB.
	maxStreams = 12_000
	// maxWatches on one pod: each holds a goroutine and a cursor, about 16 KiB.
	maxWatches = 10_000
	// maxLeases that one pod grants: each takes 300 bytes of every pod's memory.
	maxLeases = 300_000
	// maxScrapes at once: each writes all metrics, some 100 KiB.
	maxScrapes = 4
	// maxProfiles at once: a person wants one, and another while that runs.
	maxProfiles = 2
	// maxBatchesInFlight of one Batch stream: enough to fill the log's entries
	// from one stream; the stream is not read further, so TCP slows the sender.
	maxBatchesInFlight = 64
	// SnapshotChunkBytes: larger chunks do not send faster.
	SnapshotChunkBytes = 256 << 10
	// maxKeepAliveQueue is how many keep-alives wait on a follower for their
	// turn on its one stream to the master.
	maxKeepAliveQueue = 4096
)

// Times.
const (
	// defaultDeadline is given to a unary call that came without one: longer
	// than any change of master, shorter than a person's patience.
	defaultDeadline = 10 * time.Second
	// defaultProgress and minProgress of watches: as the proto says.
	defaultProgress = 10 * time.Second
	minProgress     = 100 * time.Millisecond
	// minPingInterval: a client that pings more often is sent away; gRPC's
	// own minimum for clients is 10 s.
	minPingInterval = 5 * time.Second
	// arrivalPatience: 2 MiB need 70 KB/s.
	arrivalPatience = 30 * time.Second
	// leaseSweep is how soon the end of a lease makes room for another one.
	leaseSweep = 5 * time.Second
	// readPatience: a snapshot that nobody reads for so long ends, since the database
	// grows with every write while it is open. One chunk within it is enough.
	readPatience = time.Minute
	// greetingTimeout is for TLS and the first frames of a connection.
	greetingTimeout = 10 * time.Second
	// lingerTimeout is how long a client may take to read why it is refused.
	lingerTimeout = 250 * time.Millisecond
	// trustInterval is how often it is looked whether client certificates have expired:
	// for so long their clients repeat calls on connections that are about to end.
	trustInterval = time.Second
	// webHeaderTimeout is for the headers of a request to the HTTP port, webTimeout
	// for all of it and for its answer: megabytes at most.
	webHeaderTimeout = 5 * time.Second
	webTimeout       = 10 * time.Second
	// webIdle keeps a connection from one scrape to the next.
	webIdle = 2 * time.Minute
	// maxProfile is how long a profile may last, and profileTimeout what it has beside that
	// to begin and to be read; without a number, pprof's own 30 s are in it.
	maxProfile     = 5 * time.Minute
	profileTimeout = time.Minute
	// forcedGCInterval: a collection takes some 100 ms of both processors.
	forcedGCInterval = 10 * time.Second
	// pingIdle and pingTimeout find connections whose client is gone.
	pingIdle    = 30 * time.Second
	pingTimeout = 10 * time.Second
	// refusalPause, for each call that this pod's rights would refuse, is how long the
	// next ones wait before the master's are read; maxRefusalPause is the most.
	refusalPause    = time.Millisecond
	maxRefusalPause = 100 * time.Millisecond
	// maxRightsAge is how long a pod answers without the master, while access control is
	// on: as long as a token that is lost can be used.
	maxRightsAge = time.Hour
	// rightsInterval is how often it makes its rights young.
	rightsInterval = time.Minute
	// statusTimeout is for one member's answer within Status.
	statusTimeout = 500 * time.Millisecond
	// peerInterval is how often every member is asked how it is: a
	// volume's reserve must outlast it at the disk's full speed.
	peerInterval = 2 * time.Second
	// unreadyInterval is how often a pod that is not ready looks whether it is by
	// now, and readyInterval how often one that is ready looks whether it still is.
	// The usual reason that it is not, the loss of the master, does not wait for it.
	unreadyInterval = 100 * time.Millisecond
	readyInterval   = 500 * time.Millisecond
	// beatInterval and beatPatience: a process that got no turn for so long is
	// stuck, however busy the machine is; throttled pods miss seconds.
	beatInterval = 500 * time.Millisecond
	beatPatience = 30 * time.Second
)

// Space on the volume.
const (
	// reserveBytes stay free for what must still be possible when writes are
	// refused: the next segment of the log (64 MiB), compaction's pages, the
	// growth of the database, and what arrives between two looks.
	reserveBytes = 512 << 20
	// reserveFraction bounds the reserve on small volumes: an eighth.
	reserveFraction = 8
	// spaceInterval is how often the volume is looked at.
	spaceInterval = time.Second
)
