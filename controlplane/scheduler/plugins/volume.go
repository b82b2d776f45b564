package plugins

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/klog/v2"
	schedconfig "k8s.io/kube-scheduler/config/v1"
	"k8s.io/kube-scheduler/framework"

	"github.com/reevehq/reeve/controlplane/scheduler/state"
)

// Volumes places pods where their claims can be used: bound volumes by their node affinity; claims that wait for their
// first consumer by a fitting volume or by provisioning for the chosen node.
type Volumes struct {
	handle  framework.Handle
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	timeout time.Duration

	mu      sync.Mutex
	assumed map[string]string // volume name → claim key, between Reserve and the volume's own update
}

// NewVolumes takes the plugin's arguments; nil means that binding may take 600 s.
func NewVolumes(h framework.Handle, args *schedconfig.VolumeBindingArgs) *Volumes {
	inf := h.SharedInformerFactory()
	p := &Volumes{
		handle: h, timeout: 600 * time.Second, assumed: map[string]string{},
		claims:  inf.Core().V1().PersistentVolumeClaims().Lister(),
		volumes: inf.Core().V1().PersistentVolumes().Lister(),
		classes: inf.Storage().V1().StorageClasses().Lister(),
	}
	if args != nil && args.BindTimeoutSeconds != nil {
		p.timeout = time.Duration(*args.BindTimeoutSeconds) * time.Second
	}
	return p
}

func (*Volumes) Name() string { return NameVolumeBinding }

type volumeState struct {
	bound   []*v1.PersistentVolume
	delayed []*v1.PersistentVolumeClaim
	mu      *sync.Mutex
	plans   map[string]volumePlan // by node
}

type volumePlan struct {
	static    map[string]string // volume → claim name
	provision []string          // claim names
}

func (s *volumeState) Clone() framework.StateData { return s }

func (p *Volumes) PreFilter(_ context.Context, cs framework.CycleState, pod *v1.Pod, _ []framework.NodeInfo) (*framework.PreFilterResult, *framework.Status) {
	st := &volumeState{mu: &sync.Mutex{}, plans: map[string]volumePlan{}}
	any := false
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		name := state.ClaimName(pod, vol)
		if name == "" {
			continue
		}
		any = true
		pvc, err := p.claims.PersistentVolumeClaims(pod.Namespace).Get(name)
		if apierrors.IsNotFound(err) {
			if vol.Ephemeral != nil {
				return nil, failForGood(fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name))
			}
			return nil, failForGood(fmt.Sprintf("persistentvolumeclaim %q not found", name))
		}
		if err != nil {
			return nil, framework.AsStatus(err)
		}
		if pvc.DeletionTimestamp != nil {
			return nil, failForGood(fmt.Sprintf("persistentvolumeclaim %q is being deleted", name))
		}
		if pvc.Status.Phase == v1.ClaimLost {
			return nil, failForGood(fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, pvc.Spec.VolumeName))
		}
		if vol.Ephemeral != nil {
			if err := ephemeral.VolumeIsForPod(pod, pvc); err != nil {
				return nil, failForGood(err.Error())
			}
		}
		if pvc.Spec.VolumeName != "" && metav1.HasAnnotation(pvc.ObjectMeta, volume.AnnBindCompleted) {
			pv, err := p.volumes.Get(pvc.Spec.VolumeName)
			if err != nil {
				return nil, failForGood("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
			}
			st.bound = append(st.bound, pv)
			continue
		}
		delayed, err := volume.IsDelayBindingMode(pvc, p.classes)
		if err != nil {
			return nil, framework.AsStatus(fmt.Errorf("find binding mode of claim %q: %w", name, err))
		}
		if !delayed || pvc.Spec.VolumeName != "" {
			return nil, failForGood("pod has unbound immediate PersistentVolumeClaims")
		}
		st.delayed = append(st.delayed, pvc)
	}
	if !any {
		return nil, skip()
	}
	cs.Write("PreFilter"+NameVolumeBinding, st)
	return nil, nil
}

func (*Volumes) PreFilterExtensions() framework.PreFilterExtensions { return nil }

func (p *Volumes) Filter(_ context.Context, cs framework.CycleState, pod *v1.Pod, n framework.NodeInfo) *framework.Status {
	st, err := read[*volumeState](cs, "PreFilter"+NameVolumeBinding)
	if err != nil {
		return framework.AsStatus(err)
	}
	node := n.Node()
	for _, pv := range st.bound {
		if err := volume.CheckNodeAffinity(pv, node.Labels); err != nil {
			return failForGood("node(s) didn't match PersistentVolume's node affinity")
		}
	}
	if len(st.delayed) == 0 {
		return nil
	}
	plan, status := p.plan(st.delayed, node)
	if !status.IsSuccess() {
		return status
	}
	st.mu.Lock()
	st.plans[node.Name] = plan
	st.mu.Unlock()
	return nil
}

func (p *Volumes) plan(claims []*v1.PersistentVolumeClaim, node *v1.Node) (volumePlan, *framework.Status) {
	all, err := p.volumes.List(labels.Everything())
	if err != nil {
		return volumePlan{}, framework.AsStatus(err)
	}
	taken := map[string]*v1.PersistentVolume{}
	p.mu.Lock()
	for name := range p.assumed {
		taken[name] = nil
	}
	p.mu.Unlock()
	plan := volumePlan{static: map[string]string{}}
	for _, pvc := range claims {
		if want := pvc.Annotations[volume.AnnSelectedNode]; want != "" {
			if want != node.Name {
				return plan, failForGood("node(s) didn't find available persistent volumes to bind")
			}
			plan.provision = append(plan.provision, pvc.Name)
			continue
		}
		class := volume.GetPersistentVolumeClaimClass(pvc)
		var ofClass []*v1.PersistentVolume
		for _, pv := range all {
			if volume.GetPersistentVolumeClass(pv) == class {
				ofClass = append(ofClass, pv)
			}
		}
		pv, err := volume.FindMatchingVolume(pvc, ofClass, node, taken, false, true)
		if err != nil {
			return plan, framework.AsStatus(fmt.Errorf("find volume for claim %q: %w", pvc.Name, err))
		}
		if pv != nil {
			taken[pv.Name] = pv
			plan.static[pv.Name] = pvc.Name
			continue
		}
		sc, err := p.classes.Get(class)
		if err != nil {
			return plan, failForGood(fmt.Sprintf("storageclass %q of claim %q not found", class, pvc.Name))
		}
		if sc.Provisioner == "kubernetes.io/no-provisioner" || !topologyAllows(sc, node) {
			return plan, failForGood("node(s) didn't find available persistent volumes to bind")
		}
		plan.provision = append(plan.provision, pvc.Name)
	}
	return plan, nil
}

func topologyAllows(sc *storagev1.StorageClass, node *v1.Node) bool {
	if len(sc.AllowedTopologies) == 0 {
		return true
	}
	for _, t := range sc.AllowedTopologies {
		ok := true
		for _, e := range t.MatchLabelExpressions {
			hit := false
			for _, v := range e.Values {
				hit = hit || node.Labels[e.Key] == v
			}
			ok = ok && hit
		}
		if ok {
			return true
		}
	}
	return false
}

func (p *Volumes) EventsToRegister(context.Context) ([]framework.ClusterEventWithHint, error) {
	uses := func(_ klog.Logger, pod *v1.Pod, _, obj any) (framework.QueueingHint, error) {
		pvc, ok := obj.(*v1.PersistentVolumeClaim)
		if !ok {
			return framework.Queue, nil
		}
		if pvc.Namespace == pod.Namespace {
			for i := range pod.Spec.Volumes {
				if state.ClaimName(pod, &pod.Spec.Volumes[i]) == pvc.Name {
					return framework.Queue, nil
				}
			}
		}
		return framework.QueueSkip, nil
	}
	return []framework.ClusterEventWithHint{
		on(framework.PersistentVolumeClaim, framework.Add|framework.Update, uses),
		on(framework.PersistentVolume, framework.Add|framework.Update, nil),
		on(framework.StorageClass, framework.Add|framework.Update, nil),
		on(framework.Node, framework.Add|framework.UpdateNodeLabel, nil),
	}, nil
}

// OnePod keeps a ReadWriteOncePod claim to one pod in the cluster.
type OnePod struct {
	Handle framework.Handle
	Claims corelisters.PersistentVolumeClaimLister
}

func (OnePod) Name() string { return NameVolumeRestriction }

func (p OnePod) PreFilter(_ context.Context, _ framework.CycleState, pod *v1.Pod, _ []framework.NodeInfo) (*framework.PreFilterResult, *framework.Status) {
	for i := range pod.Spec.Volumes {
		name := state.ClaimName(pod, &pod.Spec.Volumes[i])
		if name == "" {
			continue
		}
		pvc, err := p.Claims.PersistentVolumeClaims(pod.Namespace).Get(name)
		if err != nil {
			continue // VolumeBinding says so
		}
		for _, m := range pvc.Spec.AccessModes {
			if m == v1.ReadWriteOncePod && p.Handle.SnapshotSharedLister().StorageInfos().IsPVCUsedByPods(pod.Namespace+"/"+name) {
				return nil, fail("node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode")
			}
		}
	}
	return nil, skip()
}

func (OnePod) PreFilterExtensions() framework.PreFilterExtensions { return nil }

func (OnePod) EventsToRegister(context.Context) ([]framework.ClusterEventWithHint, error) {
	return []framework.ClusterEventWithHint{on(framework.Pod, framework.Delete, nil)}, nil
}
