package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	schedconfig "k8s.io/kube-scheduler/config/v1"
	"k8s.io/kube-scheduler/framework"

	"github.com/reevehq/reeve/controlplane/scheduler/plugins"
)

// Factory makes a plugin for one profile; args is nil when the configuration gives none.
type Factory func(ctx context.Context, args *runtime.RawExtension, h framework.Handle) (framework.Plugin, error)

// Config is what Run needs.
type Config struct {
	// Client writes bindings, conditions, events and evictions. It should not be rate limited. Required.
	Client kubernetes.Interface
	// Informers are shared with the controllers; Run starts those it needs. Required.
	Informers informers.SharedInformerFactory
	// KubeConfig is handed to plugins that ask for it. Optional.
	KubeConfig *rest.Config
	// Profiles as in a KubeSchedulerConfiguration; empty means one, "default-scheduler", with the default plugins.
	// Extension points other than multiPoint are honoured for disabling and for score weights.
	Profiles []schedconfig.KubeSchedulerProfile
	// Plugins adds to the built-in plugins, by name; they run where a profile enables them.
	Plugins map[string]Factory
	// PercentageOfNodesToScore ends the search once that share of nodes was found fit; 0 adapts to the cluster's size.
	PercentageOfNodesToScore int32
	// Parallelism bounds goroutines within one decision; 0 means 16.
	Parallelism int
	Log         *slog.Logger
}

func (c *Config) complete() error {
	var errs []error
	if c.Client == nil {
		errs = append(errs, errors.New("scheduler config: Client is required"))
	}
	if c.Informers == nil {
		errs = append(errs, errors.New("scheduler config: Informers is required"))
	}
	if c.PercentageOfNodesToScore < 0 || c.PercentageOfNodesToScore > 100 {
		errs = append(errs, fmt.Errorf("scheduler config: percentageOfNodesToScore: %d is not within 0–100", c.PercentageOfNodesToScore))
	}
	if c.Parallelism < 0 {
		errs = append(errs, fmt.Errorf("scheduler config: parallelism: %d is negative", c.Parallelism))
	}
	if c.Parallelism == 0 {
		c.Parallelism = 16
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if len(c.Profiles) == 0 {
		c.Profiles = []schedconfig.KubeSchedulerProfile{{}}
	}
	return errors.Join(errs...)
}

// defaultPlugins in the order in which they filter, cheap and decisive ones first, with upstream's score weights.
var defaultPlugins = []schedconfig.Plugin{
	weighted(plugins.NameSchedulingGates, 0), weighted(plugins.NamePrioritySort, 0),
	weighted(plugins.NameNodeUnschedulable, 0), weighted(plugins.NameNodeName, 0),
	weighted(plugins.NameTaintToleration, 3), weighted(plugins.NameNodeAffinity, 2),
	weighted(plugins.NameNodePorts, 0), weighted(plugins.NameFit, 1),
	weighted(plugins.NameVolumeRestriction, 0), weighted(plugins.NameVolumeBinding, 0),
	weighted(plugins.NameSpread, 2), weighted(plugins.NameInterPod, 2),
	weighted(plugins.NameDefaultPreemption, 0), weighted(plugins.NameBalanced, 1),
	weighted(plugins.NameImageLocality, 1), weighted(plugins.NameDefaultBinder, 0),
}

func weighted(name string, w int32) schedconfig.Plugin {
	return schedconfig.Plugin{Name: name, Weight: &w}
}

func builtin() map[string]Factory {
	fixed := func(p framework.Plugin) Factory {
		return func(context.Context, *runtime.RawExtension, framework.Handle) (framework.Plugin, error) {
			return p, nil
		}
	}
	return map[string]Factory{
		plugins.NameSchedulingGates:   fixed(plugins.Gates{}),
		plugins.NamePrioritySort:      fixed(plugins.Sort{}),
		plugins.NameNodeUnschedulable: fixed(plugins.Unschedulable{}),
		plugins.NameNodeName:          fixed(plugins.NodeName{}),
		plugins.NameTaintToleration:   fixed(plugins.Taints{}),
		plugins.NameNodePorts:         fixed(plugins.Ports{}),
		plugins.NameNodeAffinity: with(func(_ framework.Handle, a *schedconfig.NodeAffinityArgs) (framework.Plugin, error) {
			var added *v1.NodeAffinity
			if a != nil {
				added = a.AddedAffinity
			}
			return plugins.NewNodeAffinity(added)
		}),
		plugins.NameFit: with(func(_ framework.Handle, a *schedconfig.NodeResourcesFitArgs) (framework.Plugin, error) {
			return plugins.NewFit(a)
		}),
		plugins.NameBalanced: with(func(_ framework.Handle, a *schedconfig.NodeResourcesBalancedAllocationArgs) (framework.Plugin, error) {
			return plugins.NewBalanced(a), nil
		}),
		plugins.NameSpread: with(func(h framework.Handle, a *schedconfig.PodTopologySpreadArgs) (framework.Plugin, error) {
			return plugins.NewSpread(h, a), nil
		}),
		plugins.NameInterPod: with(func(h framework.Handle, a *schedconfig.InterPodAffinityArgs) (framework.Plugin, error) {
			return plugins.NewInterPod(h, a), nil
		}),
		plugins.NameVolumeBinding: with(func(h framework.Handle, a *schedconfig.VolumeBindingArgs) (framework.Plugin, error) {
			return plugins.NewVolumes(h, a), nil
		}),
		plugins.NameVolumeRestriction: func(_ context.Context, _ *runtime.RawExtension, h framework.Handle) (framework.Plugin, error) {
			return plugins.OnePod{Handle: h, Claims: h.SharedInformerFactory().Core().V1().PersistentVolumeClaims().Lister()}, nil
		},
		plugins.NameImageLocality: func(_ context.Context, _ *runtime.RawExtension, h framework.Handle) (framework.Plugin, error) {
			return plugins.Images{Handle: h}, nil
		},
		plugins.NameDefaultPreemption: func(_ context.Context, _ *runtime.RawExtension, h framework.Handle) (framework.Plugin, error) {
			return plugins.NewPreemption(h), nil
		},
		plugins.NameDefaultBinder: func(_ context.Context, _ *runtime.RawExtension, h framework.Handle) (framework.Plugin, error) {
			return plugins.Binder{Handle: h}, nil
		},
	}
}

func with[T any](make func(framework.Handle, *T) (framework.Plugin, error)) Factory {
	return func(_ context.Context, raw *runtime.RawExtension, h framework.Handle) (framework.Plugin, error) {
		if raw == nil {
			return make(h, nil)
		}
		args, ok := raw.Object.(any).(*T)
		if !ok {
			args = new(T)
			if err := json.Unmarshal(raw.Raw, args); err != nil {
				return nil, fmt.Errorf("decode plugin args: %w", err)
			}
		}
		return make(h, args)
	}
}
