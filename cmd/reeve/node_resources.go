package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/reevehq/reeve/agent"
)

// resourceOptions are the node's flags about what pods may have and what happens when it runs out: named, and written,
// as upstream's kubelet's.
type resourceOptions struct {
	SystemReserved, KubeReserved map[string]string
	EnforceNodeAllocatable       []string
	PodMaxPids                   int64

	EvictionHard, EvictionSoft, EvictionSoftGracePeriod, EvictionMinimumReclaim signalMap

	EvictionMaxPodGracePeriod        int
	EvictionPressureTransitionPeriod time.Duration

	ImageGCHighThreshold, ImageGCLowThreshold int
	MinimumImageTTL, MaximumImageTTL          time.Duration
}

func (o *resourceOptions) addFlags(f *pflag.FlagSet) {
	f.StringToStringVar(&o.SystemReserved, "system-reserved", nil, "what the system keeps from pods: cpu=200m,memory=500Mi,ephemeral-storage=1Gi,pid=1000")
	f.StringToStringVar(&o.KubeReserved, "kube-reserved", nil, "what reeve keeps from pods, written as --system-reserved")
	f.StringSliceVar(&o.EnforceNodeAllocatable, "enforce-node-allocatable", []string{"pods"}, "pods, to limit all pods together to what is not reserved, or none")
	f.Int64Var(&o.PodMaxPids, "pod-max-pids", -1, "most processes of one pod; -1 for no limit")
	f.Var(&o.EvictionHard, "eviction-hard", "what must be left, or pods go at once: memory.available<100Mi,nodefs.available<10%,… (default: upstream's)")
	f.Var(&o.EvictionSoft, "eviction-soft", "what must be left, or pods go after --eviction-soft-grace-period: memory.available<300Mi,…")
	f.Var(&o.EvictionSoftGracePeriod, "eviction-soft-grace-period", "how long each soft threshold must be crossed: memory.available=1m30s,…")
	f.Var(&o.EvictionMinimumReclaim, "eviction-minimum-reclaim", "how much more than a threshold must be left for a shortage to be over: nodefs.available=1Gi,…")
	f.IntVar(&o.EvictionMaxPodGracePeriod, "eviction-max-pod-grace-period", 0, "seconds that a pod has at most to end at a soft threshold")
	f.DurationVar(&o.EvictionPressureTransitionPeriod, "eviction-pressure-transition-period", 5*time.Minute, "how long a pressure condition stays after its cause has gone")
	f.IntVar(&o.ImageGCHighThreshold, "image-gc-high-threshold", 85, "percentage of the image filesystem above which unused images are removed")
	f.IntVar(&o.ImageGCLowThreshold, "image-gc-low-threshold", 80, "percentage down to which they are removed")
	f.DurationVar(&o.MinimumImageTTL, "minimum-image-ttl-duration", 2*time.Minute, "age below which an unused image is not removed")
	f.DurationVar(&o.MaximumImageTTL, "maximum-image-ttl-duration", 0, "age above which an unused image is removed; 0 for none")
}

// check reports what the agent's own checks do not see because it never gets that far.
func (o *resourceOptions) check() error {
	_, errKube := reserved("--kube-reserved", o.KubeReserved)
	_, errSystem := reserved("--system-reserved", o.SystemReserved)
	var errs []error
	for _, s := range o.EnforceNodeAllocatable {
		if s != "pods" && s != "none" && s != "" {
			errs = append(errs, fmt.Errorf("--enforce-node-allocatable %q is not supported; use pods or none", s))
		}
	}
	return errors.Join(errKube, errSystem, errors.Join(errs...))
}

// apply hands the values to the agent, which checks those that bear a KubeletConfiguration field's name.
func (o *resourceOptions) apply(c *agent.Config) {
	c.KubeReserved, _ = reserved("", o.KubeReserved) // checked before
	c.SystemReserved, _ = reserved("", o.SystemReserved)
	c.EnforceNodeAllocatable = o.EnforceNodeAllocatable
	c.PodPidsLimit = max(o.PodMaxPids, 0)
	c.EvictionHard, c.EvictionSoft = o.EvictionHard, o.EvictionSoft
	c.EvictionSoftGracePeriod, c.EvictionMinimumReclaim = o.EvictionSoftGracePeriod, o.EvictionMinimumReclaim
	c.EvictionMaxPodGracePeriod = time.Duration(o.EvictionMaxPodGracePeriod) * time.Second
	c.EvictionPressureTransitionPeriod = o.EvictionPressureTransitionPeriod
	c.ImageGCHighThresholdPercent, c.ImageGCLowThresholdPercent = o.ImageGCHighThreshold, o.ImageGCLowThreshold
	c.ImageMinimumGCAge, c.ImageMaximumGCAge = o.MinimumImageTTL, o.MaximumImageTTL
}

// reservable are the resources that can be kept from pods.
var reservable = []string{"cpu", "memory", "ephemeral-storage", "pid"}

func reserved(flag string, m map[string]string) (v1.ResourceList, error) {
	out := v1.ResourceList{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(m)) {
		q, err := resource.ParseQuantity(m[name])
		switch {
		case !slices.Contains(reservable, name):
			errs = append(errs, fmt.Errorf("%s: resource %q cannot be reserved; use one of %v", flag, name, reservable))
		case err != nil || q.Sign() < 0:
			errs = append(errs, fmt.Errorf("%s: %s=%q is not a quantity such as 500Mi", flag, name, m[name]))
		default:
			out[v1.ResourceName(name)] = q
		}
	}
	return out, errors.Join(errs...)
}

// signalMap is a flag of the form signal<value,… or signal=value,….
type signalMap map[string]string

func (m *signalMap) Type() string { return "signal<value,…" }

func (m *signalMap) String() string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(*m)) {
		parts = append(parts, k+"<"+(*m)[k])
	}
	return strings.Join(parts, ",")
}

func (m *signalMap) Set(s string) error {
	out := map[string]string{}
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		i := strings.IndexAny(part, "<=")
		if i <= 0 || i == len(part)-1 {
			return fmt.Errorf("%q is not of the form signal<value", part)
		}
		k, v := strings.TrimSpace(part[:i]), strings.TrimSpace(part[i+1:])
		if _, dup := out[k]; dup {
			return fmt.Errorf("%q is given twice", k)
		}
		out[k] = v
	}
	*m = out
	return nil
}
