package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/testns"
)

// CNI plugins' images choose their kind of iptables by the hint, in every mode: it is made, found again after others have
// flushed everything, stays when the mode changes, and goes with the rest.
func TestHintForPluginsIsKept(t *testing.T) {
	each(t, func(t *testing.T, flavor string) {
		w := newWorld(t, 1, flavor)
		w.service("web", "10.96.0.77", nil) // of which IPVS remembers no test's connections, for whose end it would wait
		w.endpoints("web", 0)
		command := "iptables"
		if flavor != onNFTables && flavor != onIPVS {
			command += "-" + flavor
		}
		there := func() bool {
			return strings.Contains(testns.Sh(t, "%s-save -t mangle", command), ":KUBE-IPTABLES-HINT ")
		}
		quick := func(c *Config) { c.CanaryPeriod = 100 * time.Millisecond }
		w.run(quick)
		testns.Eventually(t, "the hint", there)
		w.settled("default/web:dns cluster IP")
		testns.Sh(t, "%s -w 5 -t mangle -F; %[1]s -w 5 -t mangle -X; %s", command, w.on(command+" -w 5 -t nat -F; "+command+" -w 5 -t nat -X", "nft flush ruleset"))
		testns.Eventually(t, "the hint after a flush", there)
		w.settled("default/web:dns cluster IP")

		w.stop()
		w.run(func(c *Config) {
			quick(c)
			if c.Mode = ModeNFTables; flavor == onNFTables {
				c.Mode = ModeIPTables
			}
		})
		testns.Eventually(t, "the mode before to go", func() bool {
			if flavor == onNFTables {
				return !strings.Contains(testns.Sh(t, "nft list tables"), "ip reeve-proxy")
			}
			return !strings.Contains(testns.Sh(t, "%s-save", command), "-j KUBE")
		})
		testns.Eventually(t, "the hint after a change of mode", there)
		w.stop()
		w.cleanup()
		if there() {
			t.Error("the hint was left by cleanup")
		}
	})
}
