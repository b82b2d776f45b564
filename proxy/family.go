package proxy

import (
	"errors"
	"os"

	"github.com/reevehq/reeve/proxy/plan"
)

// hasFamily says when the host lacks an IP family altogether (ipv6.disable=1, or a kernel without it): its rules could be
// written in some modes and would do nothing.
func hasFamily(f plan.Family) error {
	if f == plan.IPv4 {
		return nil
	}
	if _, err := os.Stat("/proc/thread-self/net/if_inet6"); err != nil {
		return errors.New("the node has an IPv6 address configured, but its kernel has no IPv6: enable it (ipv6.disable=0) or leave the address out")
	}
	return nil
}
