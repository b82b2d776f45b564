package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/reevehq/reeve/agent"
)

func TestResourceFlags(t *testing.T) {
	var o resourceOptions
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	o.addFlags(f)
	if err := f.Parse([]string{
		"--eviction-hard=memory.available<100Mi,nodefs.available<10%", "--eviction-soft-grace-period=memory.available=1m30s",
		"--system-reserved=cpu=200m,memory=1Gi", "--eviction-max-pod-grace-period=30", "--pod-max-pids=100",
	}); err != nil {
		t.Fatal(err)
	}
	// `reeve server` writes a changed flag out again for its agent.
	var again resourceOptions
	g := pflag.NewFlagSet("", pflag.ContinueOnError)
	again.addFlags(g)
	if err := g.Parse([]string{"--eviction-hard=" + f.Lookup("eviction-hard").Value.String(), "--eviction-soft-grace-period=" + f.Lookup("eviction-soft-grace-period").Value.String()}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(o.EvictionHard, again.EvictionHard) + cmp.Diff(o.EvictionSoftGracePeriod, again.EvictionSoftGracePeriod); d != "" {
		t.Errorf("after writing and reading again (-want +got):\n%s", d)
	}
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	var c agent.Config
	o.apply(&c)
	if c.EvictionHard["nodefs.available"] != "10%" || c.EvictionSoftGracePeriod["memory.available"] != "1m30s" || c.SystemReserved.Cpu().MilliValue() != 200 ||
		c.SystemReserved.Memory().Value() != 1<<30 || c.EvictionMaxPodGracePeriod != 30*time.Second || c.PodPidsLimit != 100 {
		t.Errorf("agent configuration = %+v", c)
	}
	c = agent.Config{}
	(&resourceOptions{}).apply(&c)
	if c.EvictionHard != nil {
		t.Error("without the flag evictionHard is not left to its defaults")
	}
}

func TestBadResourceFlags(t *testing.T) {
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(resourceOptions).addFlags(f)
	for _, arg := range []string{"--eviction-hard=memory.available", "--eviction-soft=<1Gi", "--eviction-hard=a<1,a<2"} {
		if err := f.Parse([]string{arg}); err == nil || !strings.Contains(err.Error(), arg[:strings.Index(arg, "=")]) {
			t.Errorf("%s: %v, want an error that names the flag", arg, err)
		}
	}
	o := resourceOptions{SystemReserved: map[string]string{"gpu": "1"}, KubeReserved: map[string]string{"cpu": "x"}, EnforceNodeAllocatable: []string{"all"}}
	err := o.check()
	for _, want := range []string{"--system-reserved", `"gpu"`, "--kube-reserved", "--enforce-node-allocatable"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("check = %v, want it to name %s", err, want)
		}
	}
}
