//go:build race

package rolebin

import "embed"

// A build with the race detector carries programs built with it, in a folder of their own so that the two never mix.
//
//go:embed all:payload-race
var payload embed.FS

// payloadDir is the folder of payload that holds this build's programs.
const payloadDir = "payload-race"
