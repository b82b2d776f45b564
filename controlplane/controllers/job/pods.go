package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/reevehq/reeve/controlplane/controllers/owner"
	"github.com/reevehq/reeve/controlplane/controllers/podctl"
)

func (c *Controller) podAdded(p *v1.Pod) {
	if key := ownerKey(p); key != "" {
		if p.DeletionTimestamp != nil {
			c.podGone(p)
			return
		}
		c.expect.Created(key, 1)
		c.Add(key)
		return
	}
	if metav1.GetControllerOfNoCopy(p) != nil {
		return
	}
	list, err := c.jobs.Jobs(p.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, j := range list {
		if s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(p.Labels)) {
			c.Enqueue(j)
		}
	}
}

func (c *Controller) podGone(p *v1.Pod) {
	if key := ownerKey(p); key != "" {
		c.expect.Deleted(key, string(p.UID))
		c.Add(key)
	} else if hasFinalizer(p) {
		c.Add(p.Namespace + "/") // an orphan: freed below
	}
}

func (c *Controller) claim(ctx context.Context, j *batchv1.Job) ([]*v1.Pod, error) {
	sel, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("parse selector of Job %q: %w", j.Name, err)
	}
	claimer := owner.Claimer[*v1.Pod]{
		Owner: j, Kind: kind, Selector: sel, Patch: c.control.Patch, Match: podctl.Active,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return c.client.BatchV1().Jobs(j.Namespace).Get(ctx, j.Name, metav1.GetOptions{})
		},
	}
	return claimer.Claim(ctx, podctl.OwnedAndOrphans(c.pods, j.Namespace, j.UID))
}

// masked shows pods that were freed without their finalizer, though the cache still has it.
func (c *Controller) masked(pods []*v1.Pod) []*v1.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := slices.Clone(pods)
	for i, p := range out {
		if c.freed[p.UID] && hasFinalizer(p) {
			p = p.DeepCopy()
			p.Finalizers = slices.DeleteFunc(p.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
			out[i] = p
		}
	}
	return out
}

// free takes the tracking finalizer from pods.
func (c *Controller) free(ctx context.Context, pods []*v1.Pod) error {
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i, p := range pods {
		if !hasFinalizer(p) {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			patch := fmt.Sprintf(`{"metadata":{"uid":%q,"$deleteFromPrimitiveList/finalizers":[%q]}}`, p.UID, batchv1.JobTrackingFinalizer)
			err := c.control.Patch(ctx, p, []byte(patch))
			if err == nil {
				c.mu.Lock()
				c.freed[p.UID] = true
				c.mu.Unlock()
			}
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				errs[i] = fmt.Errorf("free pod %q: %w", p.Namespace+"/"+p.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// freeOrphans lets the pods of a Job that is gone go.
func (c *Controller) freeOrphans(ctx context.Context, namespace, name string) error {
	var free []*v1.Pod
	for _, obj := range c.pods.List() {
		p, ok := obj.(*v1.Pod)
		if !ok || p.Namespace != namespace || !hasFinalizer(p) {
			continue
		}
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil || ref.Kind == kind.Kind && ref.Name == name {
			free = append(free, p)
		}
	}
	return c.free(ctx, free)
}

func (c *Controller) remove(ctx context.Context, key string, j *batchv1.Job, pods []*v1.Pod) error {
	if len(pods) == 0 {
		return nil
	}
	uids := make([]string, len(pods))
	for i, p := range pods {
		uids[i] = string(p.UID)
	}
	c.expect.Expect(key, 0, uids...)
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, p := range pods {
		wg.Go(func() {
			gone, err := c.control.Delete(ctx, p, j)
			if gone || err != nil {
				c.expect.Deleted(key, string(p.UID))
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *Controller) create(ctx context.Context, key string, j *batchv1.Job, n need, pods []*v1.Pod) (int, error) {
	n.create = min(n.create, burst)
	if n.create == 0 {
		return 0, nil
	}
	c.expect.Expect(key, n.create)
	made, err := owner.SlowStart(n.create, func(i int) error {
		index := -1
		if len(n.index) > i {
			index = n.index[i]
		}
		_, err := c.control.Create(ctx, newPod(j, index, lastFailures(j, index, pods)), j)
		if apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
			c.expect.Created(key, 1)
			return nil
		}
		return err
	})
	c.expect.Created(key, n.create-made)
	return made, err
}

func lastFailures(j *batchv1.Job, index int, pods []*v1.Pod) int32 {
	if j.Spec.BackoffLimitPerIndex == nil || index < 0 {
		return -1
	}
	n := int32(0)
	for _, p := range pods {
		if indexOf(p) == index && failed(j, p) {
			n = max(n, failuresOf(p)+1)
		}
	}
	return n
}

// newPod is a pod of the Job; index is -1 for Jobs that are not indexed, failures -1 where they are not counted by index.
func newPod(j *batchv1.Job, index int, failures int32) *v1.Pod {
	p := podctl.FromTemplate(&j.Spec.Template, j.Namespace, j.Name, metav1.NewControllerRef(j, kind))
	p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
	if index < 0 {
		return p
	}
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	num := strconv.Itoa(index)
	p.Annotations[batchv1.JobCompletionIndexAnnotation] = num
	p.Labels[batchv1.JobCompletionIndexAnnotation] = num
	if failures >= 0 {
		p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(failures))
	}
	p.GenerateName = fmt.Sprintf("%s-%d-", j.Name, index)
	p.Spec.Hostname = fmt.Sprintf("%s-%d", j.Name, index)
	env := v1.EnvVar{Name: "JOB_COMPLETION_INDEX", ValueFrom: &v1.EnvVarSource{
		FieldRef: &v1.ObjectFieldSelector{APIVersion: "v1", FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)},
	}}
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if !slices.ContainsFunc(list[i].Env, func(e v1.EnvVar) bool { return e.Name == env.Name }) {
				list[i].Env = append(list[i].Env, env)
			}
		}
	}
	return p
}
