package scheduler

import (
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"

	"github.com/reevehq/reeve/controlplane/scheduler/queue"
)

func (p *profile) logger() klog.Logger { return klog.Background() }

// watch turns informer events into changes of the cache and the queue. stop takes the handlers back.
func (s *Scheduler) watch() (synced []cache.DoneChecker, stop func(), err error) {
	inf := s.cfg.Informers
	var undo []func()
	var errs []error
	on := func(i cache.SharedIndexInformer, what string, h cache.ResourceEventHandler) {
		reg, err := i.AddEventHandler(h)
		if err != nil {
			errs = append(errs, fmt.Errorf("watch %s: %w", what, err))
			return
		}
		synced = append(synced, reg.HasSyncedChecker())
		undo = append(undo, func() { _ = i.RemoveEventHandler(reg) })
	}
	on(inf.Core().V1().Nodes().Informer(), "nodes", cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			n := obj.(*v1.Node)
			s.cache.SetNode(n)
			s.moved(framework.Node, framework.Add, nil, n)
		},
		UpdateFunc: func(o, obj any) {
			old, n := o.(*v1.Node), obj.(*v1.Node)
			s.cache.SetNode(n)
			if a := queue.NodeChange(old, n); a != 0 {
				s.moved(framework.Node, a, old, n)
			}
		},
		DeleteFunc: func(obj any) {
			if n, ok := last[*v1.Node](obj); ok {
				s.cache.RemoveNode(n.Name)
				s.moved(framework.Node, framework.Delete, n, nil)
			}
		},
	})
	on(inf.Core().V1().Pods().Informer(), "pods", cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { s.podChanged(nil, obj.(*v1.Pod)) },
		UpdateFunc: func(o, obj any) { s.podChanged(o.(*v1.Pod), obj.(*v1.Pod)) },
		DeleteFunc: func(obj any) {
			if p, ok := last[*v1.Pod](obj); ok {
				s.podGone(p)
			}
		},
	})
	others := map[framework.EventResource]cache.SharedIndexInformer{
		framework.PersistentVolume:      inf.Core().V1().PersistentVolumes().Informer(),
		framework.PersistentVolumeClaim: inf.Core().V1().PersistentVolumeClaims().Informer(),
		framework.StorageClass:          inf.Storage().V1().StorageClasses().Informer(),
	}
	for r, i := range others {
		on(i, string(r), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { s.moved(r, framework.Add, nil, obj) },
			UpdateFunc: func(o, obj any) { s.moved(r, framework.Update, o, obj) },
			DeleteFunc: func(obj any) { s.moved(r, framework.Delete, obj, nil) },
		})
	}
	// Plugins read these too; waiting for them keeps the first decisions from being made on half a picture.
	for _, i := range []cache.SharedIndexInformer{
		inf.Core().V1().Namespaces().Informer(), inf.Core().V1().Services().Informer(), inf.Core().V1().ReplicationControllers().Informer(),
		inf.Apps().V1().ReplicaSets().Informer(), inf.Apps().V1().StatefulSets().Informer(), inf.Policy().V1().PodDisruptionBudgets().Informer(),
	} {
		synced = append(synced, i.HasSyncedChecker())
	}
	return synced, func() {
		for _, f := range undo {
			f()
		}
	}, errors.Join(errs...)
}

func (s *Scheduler) moved(r framework.EventResource, a framework.ActionType, old, obj any) {
	s.queue.MoveOn(framework.ClusterEvent{Resource: r, ActionType: a}, old, obj)
}

func last[T any](obj any) (T, bool) {
	if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = d.Obj
	}
	t, ok := obj.(T)
	return t, ok
}

// placed pods take room; finished ones no longer do.
func placed(p *v1.Pod) bool { return p != nil && p.Spec.NodeName != "" && !finished(p) }

func finished(p *v1.Pod) bool {
	return p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed
}

func (s *Scheduler) ours(p *v1.Pod) bool {
	_, ok := s.profiles[p.Spec.SchedulerName]
	return ok && p.Spec.NodeName == "" && !finished(p)
}

func (s *Scheduler) podChanged(old, pod *v1.Pod) {
	if old != nil && old.UID != pod.UID { // deleted and made anew between two looks
		s.podGone(old)
		old = nil
	}
	was, is := placed(old), placed(pod)
	switch {
	case is && !was:
		s.queue.Delete(pod)
		s.cache.SetPod(pod)
		s.moved(framework.Pod, framework.Add, nil, pod)
	case is:
		s.cache.SetPod(pod)
		for _, a := range queue.PodChange(old, pod) {
			s.moved(framework.Pod, a, old, pod)
		}
	case was:
		s.podGone(old)
	case s.ours(pod):
		if s.cache.IsAssumed(pod.UID) {
			return // our own writes before the binding shows
		}
		if old == nil || !s.ours(old) {
			s.queue.Add(pod)
			return
		}
		if old.ResourceVersion != pod.ResourceVersion {
			s.queue.Update(old, pod)
		}
	case old != nil:
		s.queue.Delete(pod)
	}
}

func (s *Scheduler) podGone(pod *v1.Pod) {
	if w := s.waiting.get(pod.UID); w != nil {
		w.Reject("", "pod was deleted")
	}
	s.queue.Delete(pod)
	s.cache.RemovePod(pod.UID)
	if pod.Spec.NodeName != "" {
		s.moved(framework.Pod, framework.Delete, pod, nil)
	}
}
