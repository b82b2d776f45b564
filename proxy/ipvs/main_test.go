package ipvs

import (
	"testing"

	"github.com/reevehq/reeve/internal/testns"
)

func TestMain(m *testing.M) { testns.Main(m) }
