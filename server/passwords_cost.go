//go:build !race

package server

import "golang.org/x/crypto/bcrypt"

const passwordCost = bcrypt.DefaultCost

// decoy is compared for a user who does not exist or has no password, so that the
// answer takes as long. Nobody knows a password for it.
const decoy = "$2a$10$CaxtCdqQ5NvEbfgGpFQzKuiieDc2fiz/7SywO3gWDeFaPIBV3ibRO"
