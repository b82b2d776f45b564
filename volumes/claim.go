package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// setUpClaim follows a claim to its volume: hostPath and local ones are served.
func (m *Manager) setUpClaim(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (Mounted, error) {
	if m.cfg.Claims == nil {
		return Mounted{}, errors.New("persistent volume claims need an API server, and this node runs without one")
	}
	src := v.PersistentVolumeClaim
	pvc, err := m.cfg.Claims.PersistentVolumeClaim(ctx, pod.Namespace, src.ClaimName)
	if err != nil {
		return Mounted{}, fmt.Errorf("get claim %q: %w", src.ClaimName, err)
	}
	if pvc.Status.Phase != corev1.ClaimBound || pvc.Spec.VolumeName == "" {
		return Mounted{}, fmt.Errorf("claim %q is not bound", src.ClaimName)
	}
	if pvc.DeletionTimestamp != nil {
		return Mounted{}, fmt.Errorf("claim %q is being deleted", src.ClaimName)
	}
	pv, err := m.cfg.Claims.PersistentVolume(ctx, pvc.Spec.VolumeName)
	if err != nil {
		return Mounted{}, fmt.Errorf("get volume %q of claim %q: %w", pvc.Spec.VolumeName, src.ClaimName, err)
	}
	if r := pv.Spec.ClaimRef; r == nil || r.UID != pvc.UID {
		return Mounted{}, fmt.Errorf("volume %q is not bound to claim %q", pv.Name, src.ClaimName)
	}
	if pvc.Spec.VolumeMode != nil && *pvc.Spec.VolumeMode == corev1.PersistentVolumeBlock {
		return Mounted{}, fmt.Errorf("claim %q: volumeMode Block is not supported on this node", src.ClaimName)
	}
	if err := m.checkAffinity(pv); err != nil {
		return Mounted{}, err
	}
	out := Mounted{ReadOnly: src.ReadOnly}
	switch {
	case pv.Spec.HostPath != nil:
		mt, err := setUpHostPath(pv.Spec.HostPath)
		out.HostPath = mt.HostPath
		return out, err
	case pv.Spec.Local != nil:
		fi, err := os.Stat(pv.Spec.Local.Path)
		if err != nil {
			return Mounted{}, fmt.Errorf("local volume %q: %w", pv.Name, err)
		}
		if !fi.IsDir() {
			return Mounted{}, fmt.Errorf("local volume %q: %q is not a directory", pv.Name, pv.Spec.Local.Path)
		}
		out.HostPath = pv.Spec.Local.Path
		if g := fsGroup(pod); g != nil && !out.ReadOnly {
			if err := giveTree(out.HostPath, *g, pod.Spec.SecurityContext.FSGroupChangePolicy); err != nil {
				return Mounted{}, err
			}
		}
		return out, nil
	}
	return Mounted{}, fmt.Errorf("volume %q is of a kind that this node does not support", pv.Name)
}

func (m *Manager) checkAffinity(pv *corev1.PersistentVolume) error {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil || m.cfg.NodeLabels == nil {
		return nil
	}
	node := &corev1.Node{}
	node.Labels = m.cfg.NodeLabels()
	sel, err := nodeaffinity.NewNodeSelector(pv.Spec.NodeAffinity.Required)
	if err != nil {
		return fmt.Errorf("volume %q: nodeAffinity: %w", pv.Name, err)
	}
	if !sel.Match(node) {
		return fmt.Errorf("volume %q belongs to other nodes: its nodeAffinity does not match this node's labels", pv.Name)
	}
	return nil
}
