//go:build !race

package rolebin

import "embed"

//go:embed all:payload
var payload embed.FS

// payloadDir is the folder of payload that holds this build's programs.
const payloadDir = "payload"
