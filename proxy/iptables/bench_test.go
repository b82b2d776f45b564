package iptables

import (
	"fmt"
	"testing"

	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

// BenchmarkApply measures programming at a number of Services with two endpoints: everything from empty, one endpoint
// changed, one Service added and removed.
func BenchmarkApply(b *testing.B) {
	for _, flavor := range []xtables.Flavor{xtables.NFT, xtables.Legacy} {
		for _, n := range []int{1, 1000, 10000} {
			if n == 10000 && testing.Short() {
				continue
			}
			b.Run(fmt.Sprintf("%s/%d", flavor, n), func(b *testing.B) {
				be, _ := open(b, flavor, plan.IPv4)
				all := map[plan.Name]*plan.Planned{}
				for i := range n {
					name, p := synthetic(i, 2, 0)
					all[name] = p
				}
				apply := func(changes map[plan.Name]*plan.Planned, full bool) {
					if err := be.Apply(b.Context(), changes, full); err != nil {
						b.Fatal(err)
					}
				}
				apply(all, true)
				b.Run("full", func(b *testing.B) {
					for range b.N {
						apply(all, true)
					}
				})
				b.Run("endpoint", func(b *testing.B) {
					for v := range b.N {
						name, p := synthetic(n/2, 2, v+1)
						apply(map[plan.Name]*plan.Planned{name: p}, false)
					}
				})
				b.Run("service", func(b *testing.B) {
					for range b.N {
						name, p := synthetic(n+1, 2, 0)
						apply(map[plan.Name]*plan.Planned{name: p}, false)
						apply(map[plan.Name]*plan.Planned{name: nil}, false)
					}
				})
			})
		}
	}
}
