package scheduler

import (
	"context"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	schedconfig "k8s.io/kube-scheduler/config/v1"
	"k8s.io/kube-scheduler/framework"
)

// profile is a scheduler name with its plugins, sorted into extension points.
type profile struct {
	*handle
	name       string
	percentage int32
	recorder   events.EventRecorderLogger

	preEnqueue []framework.PreEnqueuePlugin
	sort       framework.QueueSortPlugin
	preFilter  []framework.PreFilterPlugin
	filter     []framework.FilterPlugin
	postFilter []framework.PostFilterPlugin
	preScore   []framework.PreScorePlugin
	score      []framework.ScorePlugin
	weights    map[string]int64
	reserve    []framework.ReservePlugin
	permit     []framework.PermitPlugin
	preBind    []framework.PreBindPlugin
	bind       []framework.BindPlugin
	postBind   []framework.PostBindPlugin
	hints      map[string][]framework.ClusterEventWithHint
}

func newProfile(ctx context.Context, s *Scheduler, cfg schedconfig.KubeSchedulerProfile) (*profile, error) {
	p := &profile{name: v1.DefaultSchedulerName, percentage: s.cfg.PercentageOfNodesToScore, weights: map[string]int64{}, hints: map[string][]framework.ClusterEventWithHint{}}
	if cfg.SchedulerName != nil && *cfg.SchedulerName != "" {
		p.name = *cfg.SchedulerName
	}
	if cfg.PercentageOfNodesToScore != nil {
		p.percentage = *cfg.PercentageOfNodesToScore
	}
	p.recorder = s.broadcaster.NewRecorder(s.scheme, p.name)
	p.handle = &handle{Queue: s.queue, s: s, p: p}
	args := map[string]*runtime.RawExtension{}
	for i := range cfg.PluginConfig {
		args[cfg.PluginConfig[i].Name] = &cfg.PluginConfig[i].Args
	}
	sets := cfg.Plugins
	if sets == nil {
		sets = &schedconfig.Plugins{}
	}
	for _, pl := range merge(defaultPlugins, sets.MultiPoint, extras(sets)) {
		make, ok := s.factories[pl.Name]
		if !ok {
			return nil, fmt.Errorf("profile %q: no plugin is called %q", p.name, pl.Name)
		}
		plugin, err := make(ctx, args[pl.Name], p.handle)
		if err != nil {
			return nil, fmt.Errorf("profile %q: make plugin %q: %w", p.name, pl.Name, err)
		}
		weight := int64(1)
		if pl.Weight != nil && *pl.Weight > 0 {
			weight = int64(*pl.Weight)
		}
		p.enlist(ctx, plugin, weight, sets)
	}
	if p.sort == nil || len(p.bind) == 0 {
		return nil, fmt.Errorf("profile %q: a queueSort and a bind plugin must be enabled", p.name)
	}
	return p, nil
}

// merge applies a multiPoint set to the defaults: "*" disables all, an enabled default takes the new weight.
func merge(defaults []schedconfig.Plugin, set schedconfig.PluginSet, extra []schedconfig.Plugin) []schedconfig.Plugin {
	var out []schedconfig.Plugin
	for _, d := range defaults {
		if !lists(set.Disabled, d.Name) {
			out = append(out, d)
		}
	}
	for _, e := range append(slices.Clone(set.Enabled), extra...) {
		if i := slices.IndexFunc(out, func(o schedconfig.Plugin) bool { return o.Name == e.Name }); i >= 0 {
			if e.Weight != nil && *e.Weight > 0 {
				out[i].Weight = e.Weight
			}
			continue
		}
		out = append(out, e)
	}
	return out
}

func extras(s *schedconfig.Plugins) (out []schedconfig.Plugin) {
	for _, set := range []schedconfig.PluginSet{s.PreEnqueue, s.QueueSort, s.PreFilter, s.Filter, s.PostFilter, s.PreScore, s.Score, s.Reserve, s.Permit, s.PreBind, s.Bind, s.PostBind} {
		out = append(out, set.Enabled...)
	}
	return out
}

func lists(disabled []schedconfig.Plugin, name string) bool {
	return slices.ContainsFunc(disabled, func(p schedconfig.Plugin) bool { return p.Name == name || p.Name == "*" })
}

func add[T framework.Plugin](list []T, pl framework.Plugin, set schedconfig.PluginSet) []T {
	if t, ok := pl.(T); ok && (!lists(set.Disabled, pl.Name()) || slices.ContainsFunc(set.Enabled, func(e schedconfig.Plugin) bool { return e.Name == pl.Name() })) {
		return append(list, t)
	}
	return list
}

func (p *profile) enlist(ctx context.Context, pl framework.Plugin, weight int64, s *schedconfig.Plugins) {
	p.preEnqueue = add(p.preEnqueue, pl, s.PreEnqueue)
	p.preFilter = add(p.preFilter, pl, s.PreFilter)
	p.filter = add(p.filter, pl, s.Filter)
	p.postFilter = add(p.postFilter, pl, s.PostFilter)
	p.preScore = add(p.preScore, pl, s.PreScore)
	p.score = add(p.score, pl, s.Score)
	p.reserve = add(p.reserve, pl, s.Reserve)
	p.permit = add(p.permit, pl, s.Permit)
	p.preBind = add(p.preBind, pl, s.PreBind)
	p.bind = add(p.bind, pl, s.Bind)
	p.postBind = add(p.postBind, pl, s.PostBind)
	p.weights[pl.Name()] = weight
	if q, ok := pl.(framework.QueueSortPlugin); ok && p.sort == nil {
		p.sort = q
	}
	if e, ok := pl.(framework.EnqueueExtensions); ok {
		if evs, err := e.EventsToRegister(ctx); err == nil {
			p.hints[pl.Name()] = evs
			return
		}
	}
	// A plugin that names no events may change its mind at any.
	p.hints[pl.Name()] = []framework.ClusterEventWithHint{{Event: framework.ClusterEvent{Resource: framework.WildCard, ActionType: framework.All}}}
}

// runPermit returns how long the pod must wait, zero if it need not.
func (p *profile) runPermit(ctx context.Context, cs framework.CycleState, pod *v1.Pod, node string) (map[string]time.Duration, *framework.Status) {
	waits := map[string]time.Duration{}
	for _, pl := range p.permit {
		status, wait := pl.Permit(ctx, cs, pod, node)
		switch {
		case status.IsSuccess():
		case status.IsWait():
			waits[pl.Name()] = min(wait, maxPermitWait)
		default:
			return nil, status.WithPlugin(pl.Name())
		}
	}
	return waits, nil
}

// maxPermitWait bounds what a permit plugin may ask for: 15 min, as upstream.
const maxPermitWait = 15 * time.Minute
