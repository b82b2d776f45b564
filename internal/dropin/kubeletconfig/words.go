package kubeletconfig

import "github.com/reevehq/reeve/internal/dropin"

// Short words for the tables.
const (
	works   = dropin.Works
	fixed   = dropin.Fixed
	missing = dropin.Missing
	refused = dropin.Refused

	boolean    = dropin.Bool
	integer    = dropin.Int
	text       = dropin.String
	duration   = dropin.Duration
	list       = dropin.Strings
	integers   = dropin.Ints
	mapping    = dropin.Map
	thresholds = dropin.MapLess
	gates      = dropin.Bools
	headers    = dropin.Headers
)
