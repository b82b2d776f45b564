package dropin

import (
	"testing"

	"github.com/reevehq/reeve/tests/node"
)

func TestMain(m *testing.M) { node.Main(m) }
