package deployment

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

// ensureNew finds the ReplicaSet of the current template, brings its annotations up to date, and makes it if create says so.
func (c *Controller) ensureNew(ctx context.Context, d *appsv1.Deployment, sets []*appsv1.ReplicaSet, create bool) (*appsv1.ReplicaSet, []*appsv1.ReplicaSet, error) {
	found := findNew(d, sets)
	olds := without(sets, found)
	revision := nextRevision(olds)
	if found != nil {
		rs := found.DeepCopy()
		changed := annotate(d, rs, revision, true)
		if rs.Spec.MinReadySeconds != d.Spec.MinReadySeconds {
			rs.Spec.MinReadySeconds, changed = d.Spec.MinReadySeconds, true
		}
		if changed {
			var err error
			if rs, err = c.updateSet(ctx, rs); err != nil {
				return nil, nil, err
			}
		}
		s := d.Status.DeepCopy()
		if cur := condition(s, appsv1.DeploymentProgressing); hasDeadline(d) && cur == nil {
			setCondition(s, newCondition(appsv1.DeploymentProgressing, v1.ConditionTrue, reasonFound,
				fmt.Sprintf("Found new replica set %q", rs.Name), metav1.Now()))
		}
		return rs, olds, c.noteRevision(ctx, d, rs.Annotations[annRevision], *s)
	}
	if !create {
		return nil, olds, nil
	}
	rs, err := c.createSet(ctx, d, olds, revision)
	if err != nil {
		return nil, nil, err
	}
	s := d.Status.DeepCopy()
	if hasDeadline(d) {
		setCondition(s, newCondition(appsv1.DeploymentProgressing, v1.ConditionTrue, reasonNew,
			fmt.Sprintf("Created new replica set %q", rs.Name), metav1.Now()))
	}
	return rs, olds, c.noteRevision(ctx, d, rs.Annotations[annRevision], *s)
}

func (c *Controller) createSet(ctx context.Context, d *appsv1.Deployment, olds []*appsv1.ReplicaSet, revision int64) (*appsv1.ReplicaSet, error) {
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := *d.Spec.Template.DeepCopy()
	template.Labels = with(template.Labels, hashLabel, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = with(selector.MatchLabels, hashLabel, hash)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: d.Name + "-" + hash, Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32), MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: template},
	}
	n := newSize(d, append(olds, rs), 0)
	rs.Spec.Replicas = &n
	annotate(d, rs, revision, false)
	cctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	made, err := c.client.AppsV1().ReplicaSets(d.Namespace).Create(cctx, rs, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		have, getErr := c.client.AppsV1().ReplicaSets(d.Namespace).Get(cctx, rs.Name, metav1.GetOptions{})
		if getErr != nil {
			return nil, fmt.Errorf("get ReplicaSet %q: %w", rs.Name, getErr)
		}
		if ref := metav1.GetControllerOfNoCopy(have); ref != nil && ref.UID == d.UID && sameTemplate(&have.Spec.Template, &d.Spec.Template) {
			return have, nil // ours, only the cache did not show it yet
		}
		// Two templates with one hash: count, so that the next name differs.
		s := d.Status.DeepCopy()
		if s.CollisionCount == nil {
			s.CollisionCount = new(int32)
		}
		*s.CollisionCount++
		return nil, errors.Join(fmt.Errorf("create ReplicaSet: %w", err), c.storeStatus(ctx, d, *s))
	case apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause):
		return nil, fmt.Errorf("create ReplicaSet: %w", err)
	case err != nil:
		msg := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
		c.recorder.Event(d, v1.EventTypeWarning, reasonFailed, msg)
		if hasDeadline(d) {
			s := d.Status.DeepCopy()
			setCondition(s, newCondition(appsv1.DeploymentProgressing, v1.ConditionFalse, reasonFailed, msg, metav1.Now()))
			if serr := c.storeStatus(ctx, d, *s); serr != nil {
				return nil, errors.Join(err, serr)
			}
		}
		return nil, fmt.Errorf("create ReplicaSet %q: %w", rs.Name, err)
	}
	if n > 0 {
		c.recorder.Eventf(d, v1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", made.Name, n)
	}
	return made, nil
}

func with(m map[string]string, k, v string) map[string]string {
	out := map[string]string{k: v}
	for kk, vv := range m {
		if kk != k {
			out[kk] = vv
		}
	}
	return out
}

func (c *Controller) updateSet(ctx context.Context, rs *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	out, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, rs, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update ReplicaSet %q: %w", rs.Namespace+"/"+rs.Name, err)
	}
	return out, nil
}

// scaleAll sizes ReplicaSets and their annotations; what is right already costs nothing.
func (c *Controller) scaleAll(ctx context.Context, d *appsv1.Deployment, list []scaling) error {
	for _, s := range list {
		from := size(s.rs)
		rs := s.rs.DeepCopy()
		changed := setSizes(rs, wanted(d), mostPods(d))
		if from == s.to && !changed {
			continue
		}
		rs.Spec.Replicas = &s.to
		updated, err := c.updateSet(ctx, rs)
		if err != nil {
			return err
		}
		*s.rs = *updated // the caller's picture follows, for the status
		if from != s.to {
			way := "up"
			if s.to < from {
				way = "down"
			}
			c.recorder.Eventf(d, v1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", way, rs.Name, from, s.to)
		}
	}
	return nil
}

func (c *Controller) prune(ctx context.Context, d *appsv1.Deployment, olds []*appsv1.ReplicaSet) error {
	for _, rs := range surplus(d, olds) {
		cctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
		err := c.client.AppsV1().ReplicaSets(rs.Namespace).Delete(cctx, rs.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(rs.UID))})
		cancel()
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete old ReplicaSet %q: %w", rs.Namespace+"/"+rs.Name, err)
		}
	}
	return nil
}
