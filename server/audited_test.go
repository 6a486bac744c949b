package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/batondb/baton/internal/caller"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server/audit"
)

type lockedBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

// Each call leaves its line: with its caller, also when it was refused for that, and
// never with a value or a token.
func TestAuditTrail(t *testing.T) {
	to := &lockedBuffer{}
	rule, err := audit.ParseRule("all")
	if err != nil {
		t.Fatal(err)
	}
	trail, err := audit.Open(audit.Options{Rule: rule, Out: to, Pod: "kv-0"})
	if err != nil {
		t.Fatal(err)
	}
	p := newPod(t, "kv-0", func(o *Options) {
		o.Security.Audit = trail
		o.Security.Token = func(_ context.Context, token string) (caller.Caller, error) {
			if token != "SECRET.to.ken" {
				return caller.Caller{}, errors.New("it has expired")
			}
			return caller.Caller{User: "web", By: caller.ServiceAccount, Pod: "web-7f"}, nil
		}
	}).use()
	as := func(token string) context.Context {
		return metadata.AppendToOutgoingContext(within5s(t), "authorization", "Bearer "+token)
	}
	if _, err := p.kv().Put(as("SECRET.to.ken"), &kvv1.PutRequest{Key: []byte("a"), Value: []byte("SECRET")}); err != nil {
		t.Fatal(err)
	}
	_, err = p.kv().Put(as("SECRET.old.one"), &kvv1.PutRequest{Key: []byte("a"), Value: []byte("SECRET")})
	wantReason(t, err, unauthenticated)
	_, err = p.kv().Put(within5s(t), &kvv1.PutRequest{Value: []byte("SECRET")})
	wantReason(t, err, invalid)
	scan, err := p.kv().Scan(as("SECRET.to.ken"), &kvv1.ScanRequest{Range: &kvv1.RangeRequest{Key: []byte("a"), RangeEnd: []byte("b")}})
	for err == nil {
		_, err = scan.Recv()
	}
	batch, err := p.kv().Batch(within5s(t))
	if err != nil {
		t.Fatal(err)
	}
	for id := range uint64(2) {
		list := batchOf(1, 1)
		if id == 1 {
			list = nil
		}
		if err := batch.Send(&kvv1.BatchRequest{Id: id, Batch: list}); err != nil {
			t.Fatal(err)
		}
		if _, err := batch.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = batch.Recv()
	}
	p.Stop(within5s(t))
	trail.Close()
	if strings.Contains(to.all.String(), "SECRET") {
		t.Errorf("a value or a token is in the trail: %s", to.all.String())
	}
	var got []string
	for line := range strings.Lines(to.all.String()) {
		var r struct {
			Caller             struct{ User, Proof, Pod string }
			Method, Outcome    string
			Keys               []struct{ Key, End string }
			Revision, Refused  int64
			Address, Succeeded any
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got = append(got, fmt.Sprintf("%s %v %s %v revision=%t", shortName(r.Method), r.Caller, r.Outcome, r.Keys, r.Revision > 0))
	}
	web := "{web serviceaccount web-7f}"
	for i, want := range []string{
		"KVService/Put " + web + " OK [{a }] revision=true",
		"KVService/Put {  } Unauthenticated [] revision=false",
		"KVService/Put {  } InvalidArgument [] revision=false",
		"KVService/Scan " + web + " Begun [{a b}] revision=false",
		"KVService/Scan " + web + " OK [{a b}] revision=false",
		"KVService/Batch {  } OK [{k }] revision=true",
		"KVService/Batch {  } InvalidArgument [] revision=false",
		"KVService/Batch {  } OK [] revision=false",
	} {
		if i >= len(got) || got[i] != want {
			t.Fatalf("line %d is not %q; the trail is\n%s", i, want, strings.Join(got, "\n"))
		}
	}
}
