package refusal

import (
	"testing"

	"google.golang.org/grpc/codes"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func TestEveryReasonHasAMeaning(t *testing.T) {
	for number := range kvv1.ErrorReason_name {
		reason := kvv1.ErrorReason(number)
		if reason == 0 {
			continue
		}
		m, ok := meanings[reason]
		if !ok || m.code == codes.OK || m.code == codes.Internal {
			t.Errorf("%v has no meaning, or the code of a surprise: %v", reason, m.code)
		}
		e := &Error{Reason: reason, Message: "m", Metadata: map[string]string{"a": "b"}}
		back := In(&kvv1.Result{Result: &kvv1.Result_Error{Error: e.Proto()}})
		if back.Reason != e.Reason || back.Message != "m" || back.Metadata["a"] != "b" || Code(back) != m.code || Reason(back) != reason {
			t.Errorf("%v comes back as %+v", reason, back)
		}
	}
}
