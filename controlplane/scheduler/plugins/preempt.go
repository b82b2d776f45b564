package plugins

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"
)

// Preemption makes room for a pod by evicting pods of lower priority from one node, which it then nominates.
type Preemption struct {
	handle  framework.Handle
	budgets policylisters.PodDisruptionBudgetLister
}

// NewPreemption starts nothing; it reads disruption budgets from the shared informers.
func NewPreemption(h framework.Handle) *Preemption {
	return &Preemption{handle: h, budgets: h.SharedInformerFactory().Policy().V1().PodDisruptionBudgets().Lister()}
}

func (*Preemption) Name() string { return NameDefaultPreemption }

// PostFilter returns the nominated node, or a status whose message says why preemption does not help.
func (p *Preemption) PostFilter(ctx context.Context, cs framework.CycleState, pod *v1.Pod, statuses framework.NodeToStatusReader) (*framework.PostFilterResult, *framework.Status) {
	all, err := p.handle.SnapshotSharedLister().NodeInfos().List()
	if err != nil {
		return nil, framework.AsStatus(err)
	}
	if ok, why := p.eligible(pod, statuses); !ok {
		return nil, fail("preemption: " + why)
	}
	var nodes []framework.NodeInfo
	reasons := map[string]int{}
	for _, n := range all {
		if statuses.Get(n.Node().Name).Code() == framework.Unschedulable {
			nodes = append(nodes, n)
		} else {
			reasons["Preemption is not helpful for scheduling"]++
		}
	}
	budgets, err := p.budgets.List(labels.Everything())
	if err != nil {
		return nil, framework.AsStatus(err)
	}
	candidates, failed := p.tryAll(ctx, cs, pod, nodes, budgets)
	if len(candidates) == 0 {
		for why, n := range failed {
			reasons[why] += n
		}
		clear := &framework.PostFilterResult{NominatingInfo: &framework.NominatingInfo{NominatingMode: framework.ModeOverride}}
		return clear, fail("preemption: " + Explain(len(all), reasons))
	}
	best := pick(candidates)
	if err := p.evict(ctx, pod, best); err != nil {
		return nil, framework.AsStatus(err)
	}
	p.displaced(ctx, pod, best.node)
	return &framework.PostFilterResult{NominatingInfo: &framework.NominatingInfo{
		NominatedNodeName: best.node, NominatingMode: framework.ModeOverride,
	}}, framework.NewStatus(framework.Success)
}

// eligible refuses pods that may not preempt, or whose earlier victims are still going.
func (p *Preemption) eligible(pod *v1.Pod, statuses framework.NodeToStatusReader) (bool, string) {
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == v1.PreemptNever {
		return false, "not eligible due to preemptionPolicy=Never."
	}
	nominated := pod.Status.NominatedNodeName
	if nominated == "" || statuses.Get(nominated).Code() == framework.UnschedulableAndUnresolvable {
		return true, ""
	}
	n, err := p.handle.SnapshotSharedLister().NodeInfos().Get(nominated)
	if err != nil {
		return true, ""
	}
	for _, pi := range n.GetPods() {
		q := pi.GetPod()
		if q.DeletionTimestamp == nil || corev1.PodPriority(q) >= corev1.PodPriority(pod) {
			continue
		}
		for _, c := range q.Status.Conditions {
			if c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonPreemptionByScheduler {
				return false, "not eligible due to a terminating pod on the nominated node."
			}
		}
	}
	return true, ""
}

func (p *Preemption) tryAll(ctx context.Context, cs framework.CycleState, pod *v1.Pod, nodes []framework.NodeInfo, budgets []*policyv1.PodDisruptionBudget) ([]candidate, map[string]int) {
	var mu sync.Mutex
	var found []candidate
	failed := map[string]int{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	want := max(len(nodes)/10, 100) // enough to choose from in a large cluster
	p.handle.Parallelizer().Until(ctx, len(nodes), func(i int) {
		c, status := p.tryNode(ctx, cs.Clone(), pod, nodes[i].Snapshot(), budgets)
		mu.Lock()
		defer mu.Unlock()
		if status.IsSuccess() {
			if found = append(found, c); len(found) >= want && c.violations == 0 {
				cancel()
			}
			return
		}
		for _, r := range status.Reasons() {
			failed[r]++
		}
	}, NameDefaultPreemption)
	return found, failed
}

// tryNode takes all lower pods away and, if the pod then fits, puts back as many as it can, the most important first.
func (p *Preemption) tryNode(ctx context.Context, cs framework.CycleState, pod *v1.Pod, n framework.NodeInfo, budgets []*policyv1.PodDisruptionBudget) (candidate, *framework.Status) {
	remove := func(pi framework.PodInfo) error {
		if err := n.RemovePod(klog.Background(), pi.GetPod()); err != nil {
			return err
		}
		return p.handle.RunPreFilterExtensionRemovePod(ctx, cs, pod, pi, n).AsError()
	}
	add := func(pi framework.PodInfo) error {
		n.AddPodInfo(pi)
		return p.handle.RunPreFilterExtensionAddPod(ctx, cs, pod, pi, n).AsError()
	}
	infos := map[types.UID]framework.PodInfo{}
	var lower []*v1.Pod
	for _, pi := range slices.Clone(n.GetPods()) {
		if corev1.PodPriority(pi.GetPod()) < corev1.PodPriority(pod) {
			if err := remove(pi); err != nil {
				return candidate{}, framework.AsStatus(err)
			}
			infos[pi.GetPod().UID] = pi
			lower = append(lower, pi.GetPod())
		}
	}
	if len(lower) == 0 {
		return candidate{}, failForGood("No preemption victims found for incoming pod")
	}
	if s := p.handle.RunFilterPluginsWithNominatedPods(ctx, cs, pod, n); !s.IsSuccess() {
		return candidate{}, s
	}
	slices.SortFunc(lower, moreImportant)
	c := candidate{node: n.Node().Name}
	violating, fine := splitByBudget(lower, budgets)
	for i, group := range [][]*v1.Pod{violating, fine} {
		for _, v := range group {
			if err := add(infos[v.UID]); err != nil {
				return candidate{}, framework.AsStatus(err)
			}
			if p.handle.RunFilterPluginsWithNominatedPods(ctx, cs, pod, n).IsSuccess() {
				continue
			}
			if err := remove(infos[v.UID]); err != nil {
				return candidate{}, framework.AsStatus(err)
			}
			c.victims = append(c.victims, v)
			if i == 0 {
				c.violations++
			}
		}
	}
	if len(c.victims) == 0 { // room appeared meanwhile; the next attempt will see it
		return candidate{}, fail("No preemption victims found for incoming pod")
	}
	slices.SortFunc(c.victims, moreImportant)
	return c, nil
}

// evict marks and deletes the victims. A victim already gone is fine.
func (p *Preemption) evict(ctx context.Context, pod *v1.Pod, c candidate) error {
	errs := make([]error, len(c.victims))
	p.handle.Parallelizer().Until(ctx, len(c.victims), func(i int) { errs[i] = p.evictOne(ctx, pod, c.victims[i], c.node) }, NameDefaultPreemption)
	return errors.Join(errs...)
}

func (p *Preemption) evictOne(ctx context.Context, pod, victim *v1.Pod, node string) error {
	if w := p.handle.GetWaitingPod(victim.UID); w != nil {
		w.Reject(p.Name(), "preempted")
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pods := p.handle.ClientSet().CoreV1().Pods(victim.Namespace)
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": victim.UID},
		"status": map[string]any{"conditions": []v1.PodCondition{{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue, ObservedGeneration: victim.Generation,
			Reason: v1.PodReasonPreemptionByScheduler, LastTransitionTime: metav1.Now(),
			Message: fmt.Sprintf("%s: preempting to accommodate a higher priority pod", pod.Spec.SchedulerName),
		}}},
	})
	if err != nil {
		return fmt.Errorf("encode condition of pod %q: %w", victim.Name, err)
	}
	if _, err := pods.Patch(ctx, victim.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("mark pod %q as preempted: %w", victim.Namespace+"/"+victim.Name, err)
	}
	if err := pods.Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(victim.UID))}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete preempted pod %q: %w", victim.Namespace+"/"+victim.Name, err)
	}
	p.handle.EventRecorder().Eventf(victim, pod, v1.EventTypeNormal, "Preempted", "Preempting",
		"Preempted by pod %v on node %v", pod.UID, node)
	return nil
}

// displaced lets lower pods that were nominated for the node look elsewhere.
func (p *Preemption) displaced(ctx context.Context, pod *v1.Pod, node string) {
	for _, pi := range p.handle.NominatedPodsForNode(node) {
		q := pi.GetPod()
		if corev1.PodPriority(q) >= corev1.PodPriority(pod) {
			continue
		}
		p.handle.DeleteNominatedPodIfExists(q)
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		// A failed patch only costs the pod a later attempt: its claim is already gone here.
		_, _ = p.handle.ClientSet().CoreV1().Pods(q.Namespace).Patch(cctx, q.Name, types.MergePatchType,
			[]byte(`{"status":{"nominatedNodeName":null}}`), metav1.PatchOptions{}, "status")
		cancel()
	}
}

// EventsToRegister: a deletion anywhere may be a victim's.
func (p *Preemption) EventsToRegister(context.Context) ([]framework.ClusterEventWithHint, error) {
	return []framework.ClusterEventWithHint{on(framework.Pod, framework.Delete, nil)}, nil
}
