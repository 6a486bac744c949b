package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/batondb/baton/internal/caller"
)

const (
	// maxKeys of one call are written down; how many more there were is, too.
	maxKeys = 32
	// maxNameBytes of a key or a name: longer ones are cut, and say so.
	maxNameBytes = 256
)

// Call is what there is to write down.
type Call struct {
	// Method is the full name, "/baton.kv.v1.KVService/Put".
	Method string
	Who    caller.Caller
	// From is the address of the other end.
	From string
	// Request and Response are the call's messages; nil: it did not come to that.
	Request, Response any
	// Err is the status that the caller gets.
	Err   error
	Begun time.Time
	// Begins: it is a stream that has just begun.
	Begins bool
}

// record is one line.
type record struct {
	Time   string     `json:"time"`
	Pod    string     `json:"pod"`
	Caller callerText `json:"caller"`
	Method string     `json:"method"`
	// Keys are what the request names, nested ones too.
	Keys     []keyText `json:"keys,omitempty"`
	MoreKeys int       `json:"more_keys,omitempty"`
	// Names are those of users, roles, locks and elections.
	Names []string `json:"names,omitempty"`
	Lease int64    `json:"lease,omitempty"`
	// Outcome is the name of the gRPC code, or "Begun".
	Outcome string `json:"outcome"`
	// Succeeded is of a transaction: whether its comparisons held.
	Succeeded *bool `json:"succeeded,omitempty"`
	// Refused is how many writes of a batch were refused; the others were applied.
	Refused  int     `json:"refused,omitempty"`
	Revision int64   `json:"revision,omitempty"`
	Ms       float64 `json:"ms"`
}

// callerText is who made a call. Without a user nobody was proved.
type callerText struct {
	User    string `json:"user,omitempty"`
	Proof   string `json:"proof,omitempty"`
	Pod     string `json:"pod,omitempty"` // the Kubernetes pod of a ServiceAccount
	Address string `json:"address,omitempty"`
}

// keyText is a key or a range: text if it is UTF-8, otherwise base64.
type keyText struct {
	Key      string `json:"key"`
	End      string `json:"end,omitempty"`
	Encoding string `json:"encoding,omitempty"`
	Cut      bool   `json:"cut,omitempty"`
}

// found is what a request names.
type found struct {
	prefix  []byte
	keys    []keyRange // maxKeys at most
	count   int        // of all
	touched bool       // one of them has the prefix
	names   []string
	lease   int64
}

func find(call Call, prefix []byte) found {
	f := found{prefix: prefix, touched: len(prefix) == 0 || wholes[call.Method]}
	if m, ok := call.Request.(proto.Message); ok && m != nil {
		f.look(m.ProtoReflect())
	}
	return f
}

// wholes are methods whose requests name no key, and could be about any.
var wholes = map[string]bool{
	"/baton.kv.v1.MaintenanceService/Snapshot": true,
	"/etcdserverpb.Maintenance/Snapshot":       true,
	// The keys of a lease.
	"/baton.kv.v1.LeaseService/Revoke":     true,
	"/baton.kv.v1.LeaseService/TimeToLive": true,
	"/etcdserverpb.Lease/LeaseRevoke":      true,
	"/etcdserverpb.Lease/LeaseTimeToLive":  true,
}

// look collects what a message names, and what is nested in it. It looks only at
// fields that it knows by name: a value, a password or a token is none of them.
func (f *found) look(m protoreflect.Message) {
	var k keyRange
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsMap():
		case field.IsList() && field.Kind() == protoreflect.StringKind && slices.Contains([]protoreflect.Name{"users", "namespaces"}, field.Name()):
			for i := range v.List().Len() {
				f.name([]byte(v.List().Get(i).String()))
			}
		case field.IsList():
			for i := 0; field.Kind() == protoreflect.MessageKind && i < v.List().Len(); i++ {
				f.look(v.List().Get(i).Message())
			}
		case field.Kind() == protoreflect.MessageKind:
			f.look(v.Message())
		case field.Kind() == protoreflect.BytesKind && field.Name() == "key":
			k.key = v.Bytes()
		case field.Kind() == protoreflect.BytesKind && field.Name() == "range_end":
			k.end = v.Bytes()
		case field.Kind() == protoreflect.BytesKind && field.Name() == "prefix": // A tenant's.
			if k.key, k.end = v.Bytes(), next(v.Bytes()); k.end == nil {
				k.end = []byte{0}
			}
		case field.Kind() == protoreflect.BytesKind && field.Name() == "name":
			f.name(v.Bytes())
		case field.Kind() == protoreflect.StringKind && slices.Contains([]protoreflect.Name{"name", "user", "role"}, field.Name()):
			f.name([]byte(v.String()))
		case field.Kind() == protoreflect.Int64Kind && slices.Contains([]protoreflect.Name{"lease", "id", "ID"}, field.Name()):
			f.lease = v.Int()
		}
		return true
	})
	if field := m.Descriptor().Fields().ByName("name"); field != nil && field.Kind() == protoreflect.BytesKind {
		// Of a lock or an election, whose keys are NAME/LEASE.
		name := m.Get(field).Bytes()
		queue := keyRange{append(bytes.Clone(name), '/'), append(bytes.Clone(name), '0')}
		f.touched = f.touched || queue.touches(f.prefix)
	}
	if k.key == nil && k.end == nil {
		return
	}
	f.count++
	f.touched = f.touched || k.touches(f.prefix)
	if len(f.keys) < maxKeys {
		f.keys = append(f.keys, k)
	}
}

func (f *found) name(name []byte) {
	if len(f.names) < maxKeys {
		f.names = append(f.names, clip(string(name)))
	}
}

// answered is the revision in an answer, whether a transaction's comparisons held, and
// how many writes of a batch were refused.
func answered(m protoreflect.Message, into *record) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch field.Name() {
		case "header":
			header := v.Message()
			if f := header.Descriptor().Fields().ByName("revision"); f != nil {
				into.Revision = header.Get(f).Int()
			}
		case "succeeded":
			held := v.Bool()
			into.Succeeded = &held
		case "results":
			for i := range v.List().Len() {
				one := v.List().Get(i).Message()
				if f := one.Descriptor().Fields().ByName("error"); f != nil && one.Has(f) {
					into.Refused++
				}
			}
		}
		return true
	})
	if f := m.Descriptor().Fields().ByName("succeeded"); f != nil && into.Succeeded == nil {
		into.Succeeded = new(bool)
	}
}

// line is a call as JSON, with the end of the line.
func (t *Trail) line(call Call, f found) []byte {
	r := record{
		Time: call.Begun.UTC().Format(time.RFC3339Nano), Pod: t.opts.Pod,
		Caller: callerText{clip(call.Who.User), string(call.Who.By), clip(call.Who.Pod), call.From},
		Method: call.Method, Names: f.names, Lease: f.lease, MoreKeys: f.count - len(f.keys),
		Outcome: status.Code(call.Err).String(), Ms: float64(time.Since(call.Begun).Microseconds()) / 1000,
	}
	if call.Begins {
		r.Outcome = "Begun"
	}
	for _, k := range f.keys {
		r.Keys = append(r.Keys, k.text())
	}
	if m, ok := call.Response.(proto.Message); ok && m != nil && call.Err == nil {
		answered(m.ProtoReflect(), &r)
	}
	line, err := json.Marshal(&r)
	if err != nil {
		panic("audit: a record that is no JSON: " + err.Error()) // It has strings and numbers only.
	}
	return append(line, '\n')
}

func (k keyRange) text() (t keyText) {
	key, end := k.key, k.end
	if len(key) > maxNameBytes {
		key, t.Cut = key[:maxNameBytes], true
	}
	if len(end) > maxNameBytes {
		end, t.Cut = end[:maxNameBytes], true
	}
	t.Key, t.End = string(key), string(end)
	if !utf8.Valid(key) || !utf8.Valid(end) {
		t.Key, t.End, t.Encoding = base64.StdEncoding.EncodeToString(key), base64.StdEncoding.EncodeToString(end), "base64"
	}
	return t
}

// clip is a name that is not too long, and is UTF-8.
func clip(name string) string {
	return strings.ToValidUTF8(name[:min(len(name), maxNameBytes)], "\uFFFD")
}

// etcdsWords end the errors of etcd's that are about who calls, and have another code.
var etcdsWords = []string{"user name is empty", "authentication failed, invalid user ID or password"}

// forWho says whether a call was refused because of its caller.
func forWho(err error) bool {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied:
		return true
	case codes.InvalidArgument:
		text := status.Convert(err).Message()
		return slices.ContainsFunc(etcdsWords, func(words string) bool { return strings.HasSuffix(text, words) })
	}
	return false
}
