package volumes

import (
	"testing"

	"github.com/reevehq/reeve/internal/testns"
)

// Mounts are made in a mount namespace of the test's own, which the kernel removes with it.
func TestMain(m *testing.M) { testns.Main(m) }
