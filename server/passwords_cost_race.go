//go:build race

package server

import "golang.org/x/crypto/bcrypt"

// passwordCost is low under the race detector, which makes hashing ten times as slow.
const passwordCost = bcrypt.MinCost

const decoy = "$2a$04$KEpxwEc31dUJ7AhK334pNOdmwlpB0IN2EwSRBsAzaa.4HJ04Yn.kO"
