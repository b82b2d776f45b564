package plugins

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/kube-scheduler/framework"
)

func (p *Volumes) Reserve(_ context.Context, cs framework.CycleState, pod *v1.Pod, node string) *framework.Status {
	st, err := read[*volumeState](cs, "PreFilter"+NameVolumeBinding)
	if err != nil {
		return nil // no claims
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for pv, claim := range st.plans[node].static {
		key := pod.Namespace + "/" + claim
		if other, ok := p.assumed[pv]; ok && other != key {
			return framework.AsStatus(fmt.Errorf("reserve volume %q: taken by claim %q meanwhile", pv, other))
		}
		p.assumed[pv] = key
	}
	return nil
}

func (p *Volumes) Unreserve(_ context.Context, cs framework.CycleState, _ *v1.Pod, node string) {
	st, err := read[*volumeState](cs, "PreFilter"+NameVolumeBinding)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for pv := range st.plans[node].static {
		delete(p.assumed, pv)
	}
}

func (p *Volumes) PreBindPreFlight(_ context.Context, cs framework.CycleState, _ *v1.Pod, _ string) (*framework.PreBindPreFlightResult, *framework.Status) {
	if st, err := read[*volumeState](cs, "PreFilter"+NameVolumeBinding); err != nil || len(st.delayed) == 0 {
		return nil, skip()
	}
	return &framework.PreBindPreFlightResult{}, nil
}

// PreBind writes the plan and waits until every claim is bound to a volume that the node can use.
func (p *Volumes) PreBind(ctx context.Context, cs framework.CycleState, pod *v1.Pod, node string) *framework.Status {
	st, err := read[*volumeState](cs, "PreFilter"+NameVolumeBinding)
	if err != nil || len(st.delayed) == 0 {
		return nil
	}
	plan := st.plans[node]
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if err := p.write(ctx, pod.Namespace, node, plan); err != nil {
		return framework.AsStatus(err)
	}
	defer p.Unreserve(ctx, cs, pod, node)
	names := map[string]bool{}
	for _, c := range plan.provision {
		names[c] = true
	}
	for c := range maps.Values(plan.static) {
		names[c] = true
	}
	tick := time.NewTicker(bindPoll)
	defer tick.Stop()
	asked := map[string]bool{}
	for {
		left := 0
		for name := range names {
			pvc, err := p.claims.PersistentVolumeClaims(pod.Namespace).Get(name)
			if apierrors.IsNotFound(err) {
				return framework.AsStatus(fmt.Errorf("bind volumes of pod %q: claim %q is gone", pod.Name, name))
			}
			if err != nil || pvc.Spec.VolumeName == "" || !metav1.HasAnnotation(pvc.ObjectMeta, volume.AnnBindCompleted) {
				left++
			}
			if err != nil || pvc.Spec.VolumeName != "" {
				continue
			}
			// A provisioner that cannot serve this node takes the annotation away: look for another node.
			switch on := pvc.Annotations[volume.AnnSelectedNode]; {
			case on == node:
				asked[name] = true
			case asked[name]:
				return fail(fmt.Sprintf("provisioning of claim %q on node %q failed", name, node))
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return framework.AsStatus(fmt.Errorf("bind volumes of pod %q: %d claims not bound in %s", pod.Name, left, p.timeout))
		case <-tick.C:
		}
	}
}

// bindPoll is how often the informer's cache is looked at while a provisioner works; no request leaves for it.
const bindPoll = 100 * time.Millisecond

func (p *Volumes) write(ctx context.Context, namespace, node string, plan volumePlan) error {
	var errs []error
	client := p.handle.ClientSet().CoreV1()
	for pvName, claim := range plan.static {
		pv, err := p.volumes.Get(pvName)
		if err != nil {
			return fmt.Errorf("get volume %q: %w", pvName, err)
		}
		pvc, err := p.claims.PersistentVolumeClaims(namespace).Get(claim)
		if err != nil {
			return fmt.Errorf("get claim %q: %w", claim, err)
		}
		bound, dirty, err := volume.GetBindVolumeToClaim(pv, pvc)
		if err != nil || !dirty {
			errs = append(errs, err)
			continue
		}
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		_, err = client.PersistentVolumes().Update(cctx, bound, metav1.UpdateOptions{})
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("bind volume %q to claim %q: %w", pvName, claim, err))
		}
	}
	for _, claim := range plan.provision {
		pvc, err := p.claims.PersistentVolumeClaims(namespace).Get(claim)
		if err != nil {
			return fmt.Errorf("get claim %q: %w", claim, err)
		}
		if pvc.Annotations[volume.AnnSelectedNode] == node {
			continue
		}
		pvc = pvc.DeepCopy()
		metav1.SetMetaDataAnnotation(&pvc.ObjectMeta, volume.AnnSelectedNode, node)
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		_, err = client.PersistentVolumeClaims(namespace).Update(cctx, pvc, metav1.UpdateOptions{})
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("ask to provision claim %q for node %q: %w", claim, node, err))
		}
	}
	return errors.Join(errs...)
}
