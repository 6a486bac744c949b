package store

import (
	"encoding/json"
	"fmt"

	"github.com/batondb/baton/replication"
)

// formatVersion is the layout of the file. A store refuses one that it does
// not know, and changes nothing.
const formatVersion = 2

// accessFormat is the same with users and roles, and tenantsFormat with tenants as well.
const (
	accessFormat  = 3
	tenantsFormat = 4
)

// firstRevision is the revision of an empty store; the first write makes the next.
const firstRevision = 1

// state is what applying has led to, besides the versions of keys. It is
// written with the last step of a flush, in the same transaction.
type state struct {
	Format             int           `json:"format"`
	Index              uint64        `json:"index"`
	Term               uint64        `json:"term"`
	ConfigurationIndex uint64        `json:"configuration_index"`
	Configuration      []byte        `json:"configuration"`
	Revision           int64         `json:"revision"`
	Compacted          int64         `json:"compacted"`
	Hash               uint64        `json:"hash"`
	Requests           requestWindow `json:"requests"`
	AccessHash         uint64        `json:"access_hash,omitempty"` // Of users, roles and tenants; 0: there were never any.
	// Tenants is what they use. In memory it is in usages.
	Tenants map[string]Usage `json:"tenants,omitempty"`
}

func newState() state {
	return state{Format: formatVersion, Revision: firstRevision}
}

func (st *state) position() replication.Position {
	return replication.Position{
		Index:              st.Index,
		Term:               st.Term,
		ConfigurationIndex: st.ConfigurationIndex,
		Configuration:      st.Configuration,
	}
}

var stateKey = []byte("state")

func (st *state) encode() []byte {
	payload, err := json.Marshal(st)
	if err != nil {
		panic(fmt.Sprintf("store: state %+v does not encode: %v", st, err))
	}
	record := append(make([]byte, checksumBytes, checksumBytes+len(payload)), payload...)
	return seal(stateKey, record)
}

func decodeState(record []byte) (state, error) {
	payload, err := unseal(stateKey, record)
	if err != nil {
		return state{}, err
	}
	var st state
	if err := json.Unmarshal(payload, &st); err != nil {
		return state{}, corrupt("state: %v", err)
	}
	if st.Format < formatVersion || st.Format > tenantsFormat {
		return state{}, fmt.Errorf("store: the file has format %d, this version reads formats %d to %d: run the version of Baton that wrote it", st.Format, formatVersion, tenantsFormat)
	}
	return st, nil
}

// scrubKey holds the place where the next scrub begins.
var scrubKey = []byte("scrub")

func encodeScrub(next place) []byte {
	return seal(scrubKey, append(make([]byte, checksumBytes), next.logKey()...))
}

func decodeScrub(record []byte) (place, error) {
	if record == nil {
		return place{}, nil
	}
	payload, err := unseal(scrubKey, record)
	if err != nil {
		return place{}, err
	}
	return readLogKey(payload)
}
