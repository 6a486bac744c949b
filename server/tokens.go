package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
)

// A token says whose it is, which password it was given for (by AuthUser.generation)
// and until when it can be used, and is signed with a key of the replicated state. So
// every pod can check it, also one that has just started, and nothing but a change of
// its user's password, the end of its user or of access control ends it early:
//
//	"baton-" base64url( version (1 byte), until in unix seconds (8), generation (8), user, HMAC-SHA256 of all that (32) )
//
// It grants nothing itself. What its user may do is looked up for each request.
const (
	tokenPrefix  = "baton-"
	tokenVersion = 1
	tokenHead    = 1 + 8 + 8
	// tokenTTL is how long a token can be used. Clients get the next one by
	// themselves, for the price of a password's check, about 50 ms of a processor.
	tokenTTL = time.Hour
)

var errTokenExpired = errUnauthenticated("the token is expired: log in again")

func isPasswordToken(token string) bool { return strings.HasPrefix(token, tokenPrefix) }

func newToken(key []byte, user string, generation uint64, until time.Time) string {
	b := make([]byte, 0, tokenHead+len(user)+sha256.Size)
	b = append(b, tokenVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(until.Unix()))
	b = binary.BigEndian.AppendUint64(b, generation)
	b = append(b, user...)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, sign(key, b)...))
}

func sign(key, b []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(b) //nolint:errcheck // A hash takes everything.
	return mac.Sum(nil)
}

// readToken says whose a token is. No error has any of it.
func readToken(state *access.State, token string, now time.Time) (caller.Caller, error) {
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, tokenPrefix))
	if err != nil || len(b) < tokenHead+sha256.Size || b[0] != tokenVersion || len(state.TokenKey()) == 0 {
		return caller.Caller{}, errTokenInvalid
	}
	signed, mac := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if !hmac.Equal(mac, sign(state.TokenKey(), signed)) {
		return caller.Caller{}, errTokenInvalid
	}
	until := time.Unix(int64(binary.BigEndian.Uint64(signed[1:])), 0)
	if now.After(until) {
		return caller.Caller{}, errTokenExpired
	}
	who := caller.Caller{
		User: string(signed[tokenHead:]), By: caller.Password,
		Generation: binary.BigEndian.Uint64(signed[9:]), Until: until,
	}
	return who, state.Known(who)
}

var errTokenInvalid = errUnauthenticated("the token is not of this cluster, or of an earlier time of its access control: log in again")
