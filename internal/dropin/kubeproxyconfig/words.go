package kubeproxyconfig

import "github.com/reevehq/reeve/internal/dropin"

// Short words for the tables.
const (
	works   = dropin.Works
	fixed   = dropin.Fixed
	missing = dropin.Missing
	refused = dropin.Refused

	boolean  = dropin.Bool
	integer  = dropin.Int
	number   = dropin.Float
	text     = dropin.String
	duration = dropin.Duration
	list     = dropin.Strings
	gates    = dropin.Bools
)
