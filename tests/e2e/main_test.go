package e2e

import (
	"testing"

	"github.com/reevehq/reeve/tests/node"
)

func TestMain(m *testing.M) { node.Main(m) }

// story is a node with the words of these tests.
type story struct{ *node.Node }
