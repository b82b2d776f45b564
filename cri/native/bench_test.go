package native

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkPod measures what a pod costs this runtime, with a network that takes no time: the sandbox, its container to
// started, and the removal of both; one after the other, and n at once.
func BenchmarkPod(b *testing.B) {
	g := newRig(b, func(c *Config) { c.Logger = nil })
	var run, start, gone []time.Duration
	i := 0
	for b.Loop() {
		i++
		began := time.Now()
		sb := g.sandbox(fmt.Sprintf("p%d", i))
		ran := time.Now()
		g.run(sb, containerConfig("c", nil, "sleep", "1000"))
		started := time.Now()
		if err := g.RemovePodSandbox(b.Context(), sb); err != nil {
			b.Fatal(err)
		}
		run, start, gone = append(run, ran.Sub(began)), append(start, started.Sub(ran)), append(gone, time.Since(started))
	}
	for name, d := range map[string][]time.Duration{"sandbox": run, "container": start, "remove": gone} {
		slices.Sort(d)
		b.ReportMetric(float64(d[len(d)/2].Microseconds())/1000, name+"-p50-ms")
	}
}

func BenchmarkPodsAtOnce(b *testing.B) {
	const n = 30
	g := newRig(b, func(c *Config) { c.Logger = nil })
	for b.Loop() {
		var wg sync.WaitGroup
		ids := make([]string, n)
		errs := make([]error, n)
		for i := range n {
			wg.Go(func() {
				ids[i], errs[i] = g.RunPodSandbox(b.Context(), g.sandboxConfig(fmt.Sprintf("p%d", i)), "")
				if errs[i] != nil {
					return
				}
				id, err := g.CreateContainer(b.Context(), ids[i], containerConfig("c", nil, "sleep", "1000"), nil)
				if err == nil {
					err = g.StartContainer(b.Context(), id)
				}
				errs[i] = err
			})
		}
		wg.Wait()
		b.StopTimer()
		for i := range n {
			wg.Go(func() { errs[i] = errors.Join(errs[i], g.RemovePodSandbox(b.Context(), ids[i])) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
