package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// TestScenarios runs the scripts in testdata. Rewrite what they expect with
// go test ./store -run TestScenarios -rewrite, and read the difference.
//
// Commands (every one that writes is a log entry of its own):
//
//	put KEY VALUE [lease=N] [prev] [ignore-value] [ignore-lease] [id=N known=R]
//	del KEY [END|prefix] [prev] [id=N known=R]
//	get KEY [END|prefix|all] [rev=R] [limit=N] [reverse] [keys] [count]
//	txn: lines "if TARGET KEY OPERATOR VALUE", "then COMMAND", "else COMMAND"
//	grant ID TTL, revoke ID, leases, lease-keys ID
//	compact R, scrubbed, flush, kill, reopen, replay, check, status, hash [rev=R]
//	watch NAME KEY [END|prefix|all] [start=R] [prev] [no-put] [no-delete]
//	next NAME, progress NAME, close NAME
//	snapshot NAME, receive NAME (into a new store), restore NAME, damage NAME AT
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		s := &scenario{t: t, dir: tempDir(t), watchers: map[string]*Watcher{}, snapshots: map[string][]byte{}}
		s.open()
		defer func() { closeChecked(t, s.s) }()
		datadriven.RunTest(t, path, s.run)
	})
}

type scenario struct {
	t         *testing.T
	dir       string
	s         *Store
	log       []*kvv1.Command // Entry i has index i+1.
	watchers  map[string]*Watcher
	snapshots map[string][]byte
}

func (s *scenario) open() {
	opened, err := Open(Options{Dir: s.dir})
	if err != nil {
		s.t.Fatal(err)
	}
	s.s = opened
}

// run does one block; several commands may follow each other, one a line.
func (s *scenario) run(t *testing.T, d *datadriven.TestData) string {
	s.t = t
	if d.Cmd == "txn" {
		return s.apply(&kvv1.Command{Command: &kvv1.Command_Txn{Txn: s.txn(d.Input)}})
	}
	if d.Cmd != "do" {
		t.Fatalf("%s: a block begins with do or txn", d.Pos)
	}
	var out strings.Builder
	for _, line := range strings.Split(d.Input, "\n") {
		answer := strings.TrimRight(s.line(line), "\n")
		if strings.Contains(d.Input, "\n") {
			fmt.Fprintf(&out, "%s\n    ", line)
			answer = strings.ReplaceAll(answer, "\n", "\n    ")
		}
		fmt.Fprintln(&out, answer)
	}
	return out.String()
}

// arguments of a line: words, flags and name=number.
type arguments struct {
	words   []string
	flags   map[string]bool
	numbers map[string]int64
}

func parse(line string) arguments {
	a := arguments{flags: map[string]bool{}, numbers: map[string]int64{}}
	for _, field := range strings.Fields(line) {
		if name, value, ok := strings.Cut(field, "="); ok {
			if n, err := strconv.ParseInt(value, 10, 64); err == nil {
				a.numbers[name] = n
				continue
			}
		}
		switch field {
		case "prev", "ignore-value", "ignore-lease", "prefix", "all", "reverse", "keys", "count", "no-put", "no-delete":
			a.flags[field] = true
		default:
			a.words = append(a.words, field)
		}
	}
	return a
}

func (a arguments) word(i int) string {
	if i < len(a.words) {
		return a.words[i]
	}
	return ""
}

func (a arguments) number(i int) int64 {
	n, _ := strconv.ParseInt(a.word(i), 10, 64)
	return n
}

// span reads KEY [END|prefix|all] from a word on.
func (a arguments) span(i int) (key, end []byte) {
	switch {
	case a.flags["all"]:
		return []byte{0}, []byte{0}
	case a.flags["prefix"]:
		key := []byte(a.word(i))
		end := bytes.Clone(key)
		end[len(end)-1]++
		return key, end
	}
	return []byte(a.word(i)), []byte(a.word(i + 1))
}

func (a arguments) requestID() *kvv1.RequestId {
	if _, ok := a.numbers["id"]; !ok {
		return nil
	}
	return &kvv1.RequestId{ClientId: make([]byte, clientIDBytes), Sequence: uint64(a.numbers["id"]), KnownRevision: a.numbers["known"]}
}

func (a arguments) putRequest() *kvv1.PutRequest {
	req := &kvv1.PutRequest{Key: []byte(a.word(1)), Lease: a.numbers["lease"], PrevKv: a.flags["prev"],
		IgnoreValue: a.flags["ignore-value"], IgnoreLease: a.flags["ignore-lease"], RequestId: a.requestID()}
	if value := a.word(2); value != "" {
		req.Value = []byte(value)
	}
	return req
}

func (a arguments) deleteRequest() *kvv1.DeleteRequest {
	req := &kvv1.DeleteRequest{PrevKv: a.flags["prev"], RequestId: a.requestID()}
	req.Key, req.RangeEnd = a.span(1)
	return req
}

func (a arguments) rangeRequest() *kvv1.RangeRequest {
	req := &kvv1.RangeRequest{Revision: a.numbers["rev"], Limit: a.numbers["limit"], Reverse: a.flags["reverse"],
		KeysOnly: a.flags["keys"], CountOnly: a.flags["count"]}
	req.Key, req.RangeEnd = a.span(1)
	return req
}

func (s *scenario) line(line string) string {
	a := parse(line)
	ctx := context.Background()
	switch a.word(0) {
	case "put":
		return s.apply(&kvv1.Command{Command: &kvv1.Command_Put{Put: a.putRequest()}})
	case "del":
		return s.apply(&kvv1.Command{Command: &kvv1.Command_Delete{Delete: a.deleteRequest()}})
	case "grant":
		return s.apply(&kvv1.Command{Command: &kvv1.Command_Grant{Grant: &kvv1.GrantRequest{Id: a.number(1), TtlSeconds: a.number(2), RequestId: a.requestID()}}})
	case "revoke":
		return s.apply(&kvv1.Command{Command: &kvv1.Command_Revoke{Revoke: &kvv1.RevokeRequest{Id: a.number(1), RequestId: a.requestID()}}})
	case "compact":
		return s.apply(compactTo(a.number(1)))
	case "get":
		resp, err := s.s.Range(ctx, a.rangeRequest())
		if err != nil {
			return failure(err)
		}
		return showRange(resp)
	case "leases":
		leases, _ := s.s.Leases()
		var out []string
		for _, l := range leases {
			out = append(out, fmt.Sprintf("%d (%d s)", l.Id, l.TtlSeconds))
		}
		return strings.Join(out, ", ")
	case "lease-keys":
		keys, err := s.s.LeaseKeys(a.number(1), 0)
		return orFailure(fmt.Sprintf("%s", keys), err)
	case "hash":
		revision, hash, err := s.s.Hash(a.numbers["rev"])
		return orFailure(fmt.Sprintf("revision %d: %016x", revision, hash), err)
	case "status":
		st := s.s.Status()
		return fmt.Sprintf("revision %d, oldest %d, applied %d, durable %d, %d leases, %d watchers", st.Revision, st.Compacted, st.Applied, st.Durable, st.Leases, st.Watchers)
	}
	return s.files(a)
}

// files does what concerns files, snapshots and watchers.
func (s *scenario) files(a arguments) string {
	ctx := context.Background()
	name := a.word(1)
	switch a.word(0) {
	case "flush":
		return orFailure("ok", s.s.Flush(ctx, s.s.Applied()))
	case "check":
		return orFailure("ok", s.s.Check(ctx))
	case "scrubbed":
		(&driver{t: s.t, s: s.s}).waitScrubbed()
		return "ok"
	case "kill":
		(&driver{t: s.t, s: s.s}).kill()
		s.open()
		return "ok"
	case "reopen":
		closeChecked(s.t, s.s)
		s.open()
		return "ok"
	case "replay":
		for index := s.s.Applied() + 1; index <= uint64(len(s.log)); index++ {
			s.s.Apply(index, 1, []*kvv1.Command{s.log[index-1]})
		}
		return "ok"
	case "watch":
		req := &kvv1.WatchRequest{StartRevision: a.numbers["start"], PrevKv: a.flags["prev"]}
		req.Key, req.RangeEnd = a.span(2)
		if a.flags["no-put"] {
			req.Exclude = append(req.Exclude, kvv1.Event_TYPE_PUT)
		}
		if a.flags["no-delete"] {
			req.Exclude = append(req.Exclude, kvv1.Event_TYPE_DELETE)
		}
		w, err := s.s.Watch(req)
		if err != nil {
			return failure(err)
		}
		s.watchers[name] = w
		return fmt.Sprintf("starts after revision %d", w.Start())
	case "next":
		resp, err := s.watchers[name].Next(cancelled)
		if errors.Is(err, context.Canceled) {
			return "nothing"
		}
		if err != nil {
			return failure(err)
		}
		return showEvents(resp)
	case "progress":
		return fmt.Sprint(s.watchers[name].Progress())
	case "close":
		s.watchers[name].Close()
		return "ok"
	case "snapshot":
		var stream bytes.Buffer
		position := snapshotTo(s.t, s.s, func(snapshot replication.Snapshot) error { _, err := io.Copy(&stream, snapshot); return err })
		s.snapshots[name] = stream.Bytes()
		return fmt.Sprintf("index %d, term %d", position.Index, position.Term)
	case "damage":
		s.snapshots[name] = bytes.Clone(s.snapshots[name])
		s.snapshots[name][a.number(2)]++
		return "ok"
	case "restore":
		return orFailure("ok", s.s.Restore(bytes.NewReader(s.snapshots[name])))
	case "receive":
		dir := tempDir(s.t)
		position, err := Receive(dir, bytes.NewReader(s.snapshots[name]))
		if err != nil {
			left, _ := os.ReadDir(dir)
			return fmt.Sprintf("%s; %d files are left", failure(err), len(left))
		}
		closeChecked(s.t, s.s)
		s.dir = dir
		s.open()
		return fmt.Sprintf("index %d, term %d", position.Index, position.Term)
	}
	s.t.Fatalf("unknown command %q", a.words)
	return ""
}

func (s *scenario) apply(command *kvv1.Command) string {
	s.log = append(s.log[:s.s.Applied()], command)
	return showResult(s.s.Apply(s.s.Applied()+1, 1, []*kvv1.Command{command})[0])
}

func (s *scenario) txn(input string) *kvv1.TxnRequest {
	req := &kvv1.TxnRequest{}
	for _, line := range strings.Split(input, "\n") {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "if":
			req.Compare = append(req.Compare, parseCompare(strings.Fields(rest)))
		case "then":
			req.Success = append(req.Success, s.op(rest))
		case "else":
			req.Failure = append(req.Failure, s.op(rest))
		default:
			s.t.Fatalf("a line of a transaction begins with if, then or else: %q", line)
		}
	}
	return req
}

func (s *scenario) op(line string) *kvv1.Op {
	a := parse(line)
	switch a.word(0) {
	case "put":
		return &kvv1.Op{Op: &kvv1.Op_Put{Put: a.putRequest()}}
	case "del":
		return &kvv1.Op{Op: &kvv1.Op_Delete{Delete: a.deleteRequest()}}
	case "get":
		return &kvv1.Op{Op: &kvv1.Op_Range{Range: a.rangeRequest()}}
	}
	s.t.Fatalf("unknown operation %q", line)
	return nil
}

func parseCompare(fields []string) *kvv1.Compare {
	target, key, operator, value := fields[0], fields[1], fields[2], fields[3]
	c := &kvv1.Compare{Key: []byte(key), Operator: kvv1.Compare_Operator(1 + slices.Index([]string{"=", "!=", ">", "<"}, operator))}
	n, _ := strconv.ParseInt(value, 10, 64)
	switch target {
	case "value":
		c.Target = &kvv1.Compare_Value{Value: []byte(value)}
	case "version":
		c.Target = &kvv1.Compare_Version{Version: n}
	case "create":
		c.Target = &kvv1.Compare_CreateRevision{CreateRevision: n}
	case "mod":
		c.Target = &kvv1.Compare_ModRevision{ModRevision: n}
	case "lease":
		c.Target = &kvv1.Compare_Lease{Lease: n}
	case "exists":
		c.Target = &kvv1.Compare_Exists{Exists: value == "true"}
	}
	return c
}

func failure(err error) string {
	if errors.Is(err, ErrCorrupt) {
		return "corrupt"
	}
	if refused := refusal.Of(err); refused != nil {
		return showError(refused.Reason, refused.Message)
	}
	return "error: " + err.Error()
}

func orFailure(answer string, err error) string {
	if err != nil {
		return failure(err)
	}
	return answer
}

func showError(reason kvv1.ErrorReason, message string) string {
	return strings.TrimPrefix(reason.String(), "ERROR_REASON_") + ": " + message
}

func showKV(kv *kvv1.KeyValue) string {
	out := fmt.Sprintf("%s = %s (created %d, modified %d, version %d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version)
	if kv.Lease != 0 {
		out += fmt.Sprintf(", lease %d", kv.Lease)
	}
	return out + ")"
}

func showRange(resp *kvv1.RangeResponse) string {
	var out strings.Builder
	for _, kv := range resp.Kvs {
		fmt.Fprintln(&out, showKV(kv))
	}
	fmt.Fprintf(&out, "%d keys", resp.Count)
	if resp.Header != nil {
		fmt.Fprintf(&out, " at revision %d", resp.Header.Revision)
	}
	if resp.More {
		fmt.Fprintf(&out, ", more from %s", resp.NextKey)
	}
	return out.String()
}

func showEvents(resp *kvv1.WatchResponse) string {
	var out strings.Builder
	for _, event := range resp.Events {
		fmt.Fprintf(&out, "%d: ", event.Kv.ModRevision)
		if event.Type == kvv1.Event_TYPE_PUT {
			out.WriteString("put " + showKV(event.Kv))
		} else {
			fmt.Fprintf(&out, "delete %s", event.Kv.Key)
		}
		if event.PrevKv != nil {
			out.WriteString(", before: " + showKV(event.PrevKv))
		}
		out.WriteString("\n")
	}
	if resp.Partial {
		out.WriteString("(the revision goes on)\n")
	}
	return out.String()
}

func showPrev(kvs ...*kvv1.KeyValue) (out string) {
	for _, kv := range kvs {
		if kv != nil {
			out += "\nbefore: " + showKV(kv)
		}
	}
	return out
}

func showResult(result *kvv1.Result) string {
	at := fmt.Sprintf("revision %d", resultHeader(result).GetRevision())
	if resultHeader(result).GetReplayed() {
		at += " (the first result)"
	}
	switch r := result.Result.(type) {
	case *kvv1.Result_Error:
		return showError(r.Error.Reason, r.Error.Message)
	case *kvv1.Result_Put:
		return at + showPrev(r.Put.PrevKv)
	case *kvv1.Result_Delete:
		return fmt.Sprintf("%s, %d deleted%s", at, r.Delete.Deleted, showPrev(r.Delete.PrevKvs...))
	case *kvv1.Result_Revoke:
		return fmt.Sprintf("%s, %d deleted", at, r.Revoke.Deleted)
	case *kvv1.Result_Txn:
		out := fmt.Sprintf("%s, succeeded: %v", at, r.Txn.Succeeded)
		for _, op := range r.Txn.Results {
			switch o := op.Result.(type) {
			case *kvv1.OpResult_Put:
				out += "\nput" + showPrev(o.Put.PrevKv)
			case *kvv1.OpResult_Delete:
				out += fmt.Sprintf("\n%d deleted%s", o.Delete.Deleted, showPrev(o.Delete.PrevKvs...))
			case *kvv1.OpResult_Range:
				out += "\n" + showRange(o.Range)
			}
		}
		return out
	case *kvv1.Result_Compact:
		return "revision " + strconv.FormatInt(r.Compact.Header.Revision, 10)
	}
	return at
}
