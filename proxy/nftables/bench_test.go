package nftables

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/testns"
	"github.com/reevehq/reeve/proxy/plan"
)

// BenchmarkApply measures programming at a number of Services with two endpoints: everything from empty, everything over
// what is there, one endpoint changed, one Service added and removed.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			be, _ := open(b, plan.IPv4)
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
			b.Run("empty", func(b *testing.B) {
				for range b.N {
					b.StopTimer()
					testns.Sh(b, "nft delete table ip reeve-proxy 2>/dev/null; true")
					b.StartTimer()
					apply(all, true)
				}
			})
			b.Run("full", func(b *testing.B) {
				for range b.N {
					apply(all, true)
				}
			})
			b.Run("endpoint", func(b *testing.B) {
				var took []time.Duration
				for v := range b.N {
					name, p := synthetic(n/2, 2, v+1)
					start := time.Now()
					apply(map[plan.Name]*plan.Planned{name: p}, false)
					took = append(took, time.Since(start))
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			})
			b.Run("service", func(b *testing.B) {
				for range b.N {
					name, p := synthetic(n+1, 2, 0)
					apply(map[plan.Name]*plan.Planned{name: p}, false)
					apply(map[plan.Name]*plan.Planned{name: nil}, false)
				}
			})
			b.Run("intact", func(b *testing.B) {
				for range b.N {
					if ok, err := be.Intact(b.Context()); !ok || err != nil {
						b.Fatal(ok, err)
					}
				}
			})
		})
	}
}
