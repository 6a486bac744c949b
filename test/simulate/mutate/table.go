package main

// mutation is one bug that is built into kvd on purpose.
type mutation struct {
	name  string
	edits []edit
}

// edit replaces a text that a file has exactly once.
type edit struct{ file, old, new string }

func one(name, file, before, after string) mutation {
	return mutation{name, []edit{{file, before, after}}}
}

// mutations are bugs that clusters have had, this one and others. None is one
// that the tests of a package would not find as well.
var mutations = []mutation{
	{"a commit index beyond a message's entries is believed", []edit{
		{"replication/internal/raftio/admit.go", "req.LeaderCommitIndex = min(req.LeaderCommitIndex, end(req))", "_ = req"},
		{"replication/internal/raftio/proven.go", "return max(p.told, p.led)\n", "return math.MaxUint64\n"},
	}},
	one("a message that begins below the log is not matched",
		"replication/internal/raftio/admit.go", "	t.rebase(req)\n", ""),
	one("a follower says that it stored before it has",
		"replication/internal/raftlog/overlap.go", "		return store()\n	}\n	first", "		go store() //nolint:errcheck // The bug.\n		return nil\n	}\n	first"),
	one("an answer counts though the master's own disk does not have the entry",
		"replication/internal/raftlog/overlap.go", "	u.count(a)\n	select {", "	u.count(a)\n	return nil\n	select {"),
	one("a new term begins before the disk has what was stored in the last",
		"replication/internal/raftlog/votes.go", "	if err := v.settle(); err != nil {\n		return err\n	}\n", ""),
	one("a vote is forgotten",
		"replication/internal/raftlog/votes.go", "		return b.Put(key, val)\n	})\n}\n\n// SetUint64", "		return nil\n	})\n}\n\n// SetUint64"),
	one("a term is forgotten",
		"replication/internal/raftlog/votes.go", `return v.put("storing the term", func(b *bbolt.Bucket) error { return b.Put(key, number) })`, "_ = number\n	return nil"),
	one("linearizable reads ask nobody",
		"server/core.go", "		err = log.LinearizableRead(ctx)\n	}\n	if err", "	}\n	if err"),
	one("a master gives a read index without asking the others",
		"replication/internal/readindex/reader.go", "	for !r.confirmedSince(v, since) {", "	for false {"),
	one("a read waits for no index",
		"replication/internal/readindex/reader.go", "	if err := r.replica.Applied.Wait(ctx, g.readIndex.index); err != nil {\n		return err\n	}\n	return r.agrees(g)", "	return r.agrees(g)"),
	one("a read joins a confirmation that began before it",
		"replication/internal/readindex/readindex.go", "		r.next = nil\n		r.mu.Unlock()\n", "		r.mu.Unlock()\n		defer func() { r.mu.Lock(); r.next = nil; r.mu.Unlock() }()\n"),
	one("learners count for a read index",
		"replication/internal/raftio/acks.go", "	n := 0\n	for _, id := range voters {\n		k := a.newest[id]\n", "	n := 1\n	for id, k := range a.newest {\n"),
	one("bounded reads have no bound",
		"replication/internal/readindex/readindex.go", "return r.last, !r.lastAt.IsZero() && time.Since(r.lastAt) < d", "return r.last, !r.lastAt.IsZero()"),
	one("request ids are not looked up",
		"store/apply.go", "	oldest := a.st.Requests.oldest()\n	for _, t", "	oldest := a.st.Requests.oldest()\n	if oldest == 0 {\n		return nil, false, nil\n	}\n	for _, t"),
	one("a request in the file is not remembered",
		"store/apply.go", "	if record == nil {\n		return nil, false, nil\n	}\n	r, err := readRequest", "	if record != nil {\n		return nil, false, nil\n	}\n	r, err := readRequest"),
	one("a flush loses the last version of its table",
		"store/flush.go", "	for entry < len(s.table.log) {\n		err", "	for entry < len(s.table.log)-1 {\n		err"),
	one("a flush says which index it has before it has it",
		"store/flush.go", "	if err := steps.log(ctx); err != nil {", "	_ = f.store.database.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put(stateKey, frozen.state.encode()) })\n	if err := steps.log(ctx); err != nil {"),
	one("a lease ends early",
		"server/expirer.go", "	found.end = l.elapsed() + found.ttl\n", "	found.end = l.elapsed() + found.ttl/4\n"),
	one("a lease does not end",
		"server/expirer.go", "len(over) > 0 {\n", "len(over) > 1<<30 {\n"),
	one("a pod's old incarnation keeps its vote",
		"replication/internal/policy/membership.go", "		case !found:\n			return Change{Promote", "		case !found || true:\n			return Change{Promote"),
	one("a member is removed though the rest is no quorum",
		"replication/internal/policy/membership.go", "	return alive > n/2\n", "	return alive >= 0\n"),
	one("a living pod that should not exist is removed at once",
		"replication/internal/policy/membership.go", "(!s.Alive[id] || s.Overdue[id])", "true"),
	one("a watch that resumes leaves a revision out",
		"store/watch.go", "watcher.start = req.StartRevision - 1", "watcher.start = req.StartRevision"),
	one("a pod takes what was meant for the disk it had before",
		"replication/internal/peer/port.go", "case h.TargetMember != \"\" && h.TargetMember != id.MemberID:", "case false:"),
	one("the log of before a clone is kept",
		"replication/internal/raftlog/raftlog.go", "	if !stale {\n		return nil\n	}\n	l.marks.reset()", "	if !stale || last > 0 {\n		return nil\n	}\n	l.marks.reset()"),
	one("two pods give their data up at once",
		"replication/internal/policy/membership.go", "	if len(s.Members) == 1 {\n		return \"it is the only member\"\n	}\n	for _, m := range s.Members {\n		switch {", "	for _, m := range s.Members[:0] {\n		switch {"),
	one("a recovery takes silence for loss",
		"replication/internal/policy/recovery.go", "	return r.unaccounted()\n", "	return \"\"\n"),
	one("a vote is stored in two steps",
		"replication/internal/raftlog/votes.go", "	if bytes.Equal(key, voteTerm) {\n", "	if false {\n"),
	one("a master of before says who is no member",
		"replication/node/peerservice.go", "	if _, err := e.reader.Confirm(ctx); err != nil {\n", "	if _, err := e, error(nil); err != nil {\n"),
	one("a client takes an answer without a reason for a refusal",
		"client/errors.go", "		return mayBeApplied\n	}\n	return final\n", "		return final\n	}\n	return final\n"),
	one("a new pod asks only those near it for a master",
		"replication/node/discover.go", "	if len(masters) > 0 {\n", "	if len(masters) > 1<<20 {\n"),
	one("a master hands over again to who did not keep up",
		"replication/node/handover.go", "return !late || before.term != term || last > before.last", "return !late || before.term <= term"),
}
