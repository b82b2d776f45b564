package scheduler

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"

	"github.com/reevehq/reeve/controlplane/scheduler/queue"
)

// handle is what plugins see of the scheduler. The queue is embedded for its nominations.
type handle struct {
	*queue.Queue
	s *Scheduler
	p *profile
}

var _ framework.Handle = (*handle)(nil)

func (h *handle) SnapshotSharedLister() framework.SharedLister           { return h.s.snapshot }
func (h *handle) ClientSet() kubernetes.Interface                        { return h.s.cfg.Client }
func (h *handle) KubeConfig() *rest.Config                               { return h.s.cfg.KubeConfig }
func (h *handle) EventRecorder() events.EventRecorderLogger              { return h.p.recorder }
func (h *handle) SharedInformerFactory() informers.SharedInformerFactory { return h.s.cfg.Informers }
func (h *handle) Parallelizer() framework.Parallelizer                   { return parallel(h.s.cfg.Parallelism) }
func (h *handle) ProfileName() string                                    { return h.p.name }
func (h *handle) Extenders() []framework.Extender                        { return nil }

// These belong to features that reeve does not have; plugins must expect nil.
func (h *handle) SharedDRAManager() framework.SharedDRAManager            { return nil }
func (h *handle) SharedCSIManager() framework.CSIManager                  { return nil }
func (h *handle) APIDispatcher() framework.APIDispatcher                  { return nil }
func (h *handle) APICacher() framework.APICacher                          { return nil }
func (h *handle) PodGroupManager() framework.PodGroupManager              { return nil }
func (h *handle) SignPod(context.Context, *v1.Pod) framework.PodSignature { return nil }

func (h *handle) AddPodInPreBind(types.UID, context.CancelCauseFunc) {}
func (h *handle) GetPodInPreBind(types.UID) framework.PodInPreBind   { return nil }
func (h *handle) RemovePodInPreBind(types.UID)                       {}
func (h *handle) Activate(_ klog.Logger, pods map[string]*v1.Pod)    { h.Queue.Activate(pods) }

func (h *handle) IterateOverWaitingPods(f func(framework.WaitingPod)) { h.s.waiting.each(f) }

func (h *handle) GetWaitingPod(uid types.UID) framework.WaitingPod {
	if w := h.s.waiting.get(uid); w != nil {
		return w
	}
	return nil
}

func (h *handle) RejectWaitingPod(uid types.UID) bool {
	if w := h.s.waiting.get(uid); w != nil {
		return w.Reject("", "removed")
	}
	return false
}

func (h *handle) RunFilterPlugins(ctx context.Context, cs framework.CycleState, pod *v1.Pod, n framework.NodeInfo) *framework.Status {
	skipped := cs.GetSkipFilterPlugins()
	for _, pl := range h.p.filter {
		if skipped.Has(pl.Name()) {
			continue
		}
		if s := pl.Filter(ctx, cs, pod, n); !s.IsSuccess() {
			return s.WithPlugin(pl.Name())
		}
	}
	return nil
}

// RunFilterPluginsWithNominatedPods filters as if pods of at least this priority that are nominated for the node were
// there already, and again without them, since they may never come.
func (h *handle) RunFilterPluginsWithNominatedPods(ctx context.Context, cs framework.CycleState, pod *v1.Pod, n framework.NodeInfo) *framework.Status {
	var added []framework.PodInfo
	for _, pi := range h.NominatedPodsForNode(n.Node().Name) {
		if corev1.PodPriority(pi.GetPod()) >= corev1.PodPriority(pod) && pi.GetPod().UID != pod.UID {
			added = append(added, pi)
		}
	}
	if len(added) > 0 {
		with, state := n.Snapshot(), cs.Clone()
		for _, pi := range added {
			with.AddPodInfo(pi)
			if s := h.RunPreFilterExtensionAddPod(ctx, state, pod, pi, with); !s.IsSuccess() {
				return s
			}
		}
		if s := h.RunFilterPlugins(ctx, state, pod, with); !s.IsSuccess() {
			return s
		}
	}
	return h.RunFilterPlugins(ctx, cs, pod, n)
}

func (h *handle) RunPreFilterExtensionAddPod(ctx context.Context, cs framework.CycleState, pod *v1.Pod, add framework.PodInfo, n framework.NodeInfo) *framework.Status {
	return h.eachExtension(cs, func(e framework.PreFilterExtensions) *framework.Status { return e.AddPod(ctx, cs, pod, add, n) })
}

func (h *handle) RunPreFilterExtensionRemovePod(ctx context.Context, cs framework.CycleState, pod *v1.Pod, gone framework.PodInfo, n framework.NodeInfo) *framework.Status {
	return h.eachExtension(cs, func(e framework.PreFilterExtensions) *framework.Status { return e.RemovePod(ctx, cs, pod, gone, n) })
}

func (h *handle) eachExtension(cs framework.CycleState, f func(framework.PreFilterExtensions) *framework.Status) *framework.Status {
	skipped := cs.GetSkipFilterPlugins()
	for _, pl := range h.p.preFilter {
		e := pl.PreFilterExtensions()
		if e == nil || skipped.Has(pl.Name()) {
			continue
		}
		if s := f(e); !s.IsSuccess() {
			return s.WithPlugin(pl.Name())
		}
	}
	return nil
}

// RunPreScorePlugins prepares scoring and notes which plugins have nothing to say.
func (h *handle) RunPreScorePlugins(ctx context.Context, cs framework.CycleState, pod *v1.Pod, nodes []framework.NodeInfo) *framework.Status {
	skipped := queue.Set()
	for _, pl := range h.p.preScore {
		s := pl.PreScore(ctx, cs, pod, nodes)
		switch {
		case s.IsSkip():
			skipped.Insert(pl.Name())
		case !s.IsSuccess():
			return framework.AsStatus(s.AsError()).WithPlugin(pl.Name())
		}
	}
	cs.SetSkipScorePlugins(skipped)
	return nil
}

// RunScorePlugins returns each node's weighted total, in the order of nodes.
func (h *handle) RunScorePlugins(ctx context.Context, cs framework.CycleState, pod *v1.Pod, nodes []framework.NodeInfo) ([]framework.NodePluginScores, *framework.Status) {
	out := make([]framework.NodePluginScores, len(nodes))
	for i, n := range nodes {
		out[i].Name = n.Node().Name
	}
	skipped := cs.GetSkipScorePlugins()
	for _, pl := range h.p.score {
		if skipped.Has(pl.Name()) {
			continue
		}
		scores := make(framework.NodeScoreList, len(nodes))
		failed := make([]*framework.Status, len(nodes))
		h.Parallelizer().Until(ctx, len(nodes), func(i int) {
			scores[i].Name = out[i].Name
			scores[i].Score, failed[i] = pl.Score(ctx, cs, pod, nodes[i])
		}, pl.Name())
		for _, s := range failed {
			if !s.IsSuccess() {
				return nil, framework.AsStatus(s.AsError()).WithPlugin(pl.Name())
			}
		}
		if ext := pl.ScoreExtensions(); ext != nil {
			if s := ext.NormalizeScore(ctx, cs, pod, scores); !s.IsSuccess() {
				return nil, framework.AsStatus(s.AsError()).WithPlugin(pl.Name())
			}
		}
		for i := range scores {
			w := scores[i].Score * h.p.weights[pl.Name()]
			out[i].Scores = append(out[i].Scores, framework.PluginScore{Name: pl.Name(), Score: w})
			out[i].TotalScore += w
		}
	}
	return out, nil
}

// parallel runs work pieces on so many goroutines; few pieces run in place, as starting goroutines would cost more.
type parallel int

const inPlace = 8

func (n parallel) Until(ctx context.Context, pieces int, do workqueue.DoWorkPieceFunc, _ string) {
	if pieces <= inPlace {
		for i := range pieces {
			if ctx.Err() != nil {
				return
			}
			do(i)
		}
		return
	}
	workqueue.ParallelizeUntil(ctx, int(n), pieces, do, workqueue.WithChunkSize(max(1, pieces/int(n)/4)))
}
