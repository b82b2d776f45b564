package status

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"

	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// writeTimeout bounds one request to the API server.
	writeTimeout = 10 * time.Second
	// writers is how many pods' statuses are on their way at once.
	writers = 8
	// settleDelay holds back news that is likely overtaken at once: a pod on its way up is Running within it, and one
	// write does for two. Users see "Pending" until then, which is true.
	settleDelay = time.Second
)

// Writer brings statuses to the API server. Make it with NewWriter.
type Writer struct {
	client kubernetes.Interface
	log    *slog.Logger
	queue  workqueue.TypedRateLimitingInterface[types.UID]
	// gone hears of pods whose object the writer deleted or found missing.
	gone func(types.UID)

	mu   sync.Mutex
	pods map[types.UID]*entry
}

// entry is one pod: the object it is written to (the mirror pod of a static one) and where its status stands.
type entry struct {
	pod     *v1.Pod // the object as last seen from the API
	want    v1.PodStatus
	have    v1.PodStatus // as the API had it at our last write, or as pod has it
	haveRV  string
	set     bool // want is meaningful
	written bool // something was written or seen to be equal since want changed
	finish  bool // delete the object once want is there
}

// NewWriter returns a writer. gone may be nil.
func NewWriter(client kubernetes.Interface, gone func(types.UID), log *slog.Logger) *Writer {
	return &Writer{
		client: client, log: log, gone: gone, pods: map[types.UID]*entry{},
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](100*time.Millisecond, 10*time.Second),
			workqueue.TypedRateLimitingQueueConfig[types.UID]{Name: "pod_status"}),
	}
}

// Run writes until ctx ends.
func (w *Writer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for {
				uid, quit := w.queue.Get()
				if quit {
					return
				}
				if err := w.sync(ctx, uid); err != nil {
					if ctx.Err() == nil {
						w.log.Warn("Failed to write pod status", logkey.PodUID, string(uid), logkey.Err, err)
					}
					w.queue.AddRateLimited(uid)
				} else {
					w.queue.Forget(uid)
				}
				w.queue.Done(uid)
			}
		})
	}
	<-ctx.Done()
	w.queue.ShutDown()
	wg.Wait()
	return nil
}

// Set asks for status to be written to the object pod. urgent: at once, else after a moment in which it may be overtaken.
// finish: delete the object afterwards. Nothing is written that is already there.
func (w *Writer) Set(pod *v1.Pod, status v1.PodStatus, urgent, finish bool) {
	w.mu.Lock()
	e := w.pods[pod.UID]
	if e == nil {
		e = &entry{pod: pod, have: pod.Status, haveRV: pod.ResourceVersion}
		w.pods[pod.UID] = e
	}
	e.pod = pod
	changed := !e.set || !equality.Semantic.DeepEqual(e.want, status) || (finish && !e.finish)
	e.want, e.set, e.finish = status, true, e.finish || finish
	if changed {
		e.written = false
	}
	w.mu.Unlock()
	switch {
	case !changed:
	case urgent:
		w.queue.Add(pod.UID)
	default:
		w.queue.AddAfter(pod.UID, settleDelay)
	}
}

// Observe takes in the object as the watch shows it; somebody else's change to a condition of the node is put right.
func (w *Writer) Observe(pod *v1.Pod) {
	w.mu.Lock()
	e := w.pods[pod.UID]
	again := false
	if e != nil {
		e.pod = pod
		if e.set && e.written && pod.ResourceVersion != e.haveRV && newer(pod.ResourceVersion, e.haveRV) {
			e.have, e.haveRV = pod.Status, pod.ResourceVersion
			again = !Same(e.have, merge(e.have, e.want))
			e.written = !again
		}
	}
	w.mu.Unlock()
	if again {
		w.queue.Add(pod.UID)
	}
}

// newer compares resource versions, which are numbers for every store that the API server has.
func newer(a, b string) bool {
	if len(a) != len(b) {
		return len(a) > len(b)
	}
	return a > b
}

// merge returns want with everything that is not the node's to say as have has it.
func merge(have, want v1.PodStatus) v1.PodStatus {
	out := want
	out.NominatedNodeName, out.Resize = have.NominatedNodeName, have.Resize
	out.ResourceClaimStatuses, out.ExtendedResourceClaimStatus = have.ResourceClaimStatuses, have.ExtendedResourceClaimStatus
	if have.QOSClass != "" {
		out.QOSClass = have.QOSClass
	}
	if have.StartTime != nil {
		out.StartTime = have.StartTime
	}
	out.Conditions = nil
	mine := func(t v1.PodConditionType) bool {
		return slices.ContainsFunc(want.Conditions, func(c v1.PodCondition) bool { return c.Type == t }) &&
			(slices.Contains(Owned, t) || t == v1.DisruptionTarget)
	}
	for _, c := range want.Conditions {
		if mine(c.Type) {
			out.Conditions = append(out.Conditions, c)
		}
	}
	for _, c := range have.Conditions {
		if !mine(c.Type) && !passing(c.Type) {
			out.Conditions = append(out.Conditions, c)
		}
	}
	return out
}

// Forget drops the pod: its object is gone.
func (w *Writer) Forget(uid types.UID) {
	w.mu.Lock()
	delete(w.pods, uid)
	w.mu.Unlock()
}

// Same compares what the node owns of two statuses.
func Same(a, b v1.PodStatus) bool {
	return equality.Semantic.DeepEqual(normal(a), normal(b))
}

// normal brings a status to the form in which the API gives it back: times to the second, no empty for nil.
func normal(s v1.PodStatus) v1.PodStatus {
	b, err := json.Marshal(s)
	if err != nil {
		return s
	}
	var out v1.PodStatus
	if err := json.Unmarshal(b, &out); err != nil {
		return s
	}
	return out
}

func (w *Writer) sync(ctx context.Context, uid types.UID) error {
	w.mu.Lock()
	e := w.pods[uid]
	if e == nil || !e.set {
		w.mu.Unlock()
		return nil
	}
	pod, want, have, finish := e.pod, e.want, e.have, e.finish
	w.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	patch, err := diff(pod.UID, have, merge(have, want))
	if err != nil {
		return fmt.Errorf("compare status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if patch != nil {
		got, err := w.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		switch {
		case apierrors.IsNotFound(err) || apierrors.IsConflict(err) && w.replaced(ctx, pod):
			w.drop(uid)
			return nil
		case err != nil:
			return fmt.Errorf("patch status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		w.mu.Lock()
		if x := w.pods[uid]; x == e {
			e.have, e.haveRV = got.Status, got.ResourceVersion
		}
		w.mu.Unlock()
	}
	w.mu.Lock()
	overtaken := w.pods[uid] == e && !equality.Semantic.DeepEqual(e.want, want)
	if !overtaken {
		e.written = true
	}
	w.mu.Unlock()
	if overtaken {
		w.queue.Add(uid)
		return nil
	}
	if !finish {
		return nil
	}
	zero := int64(0)
	err = w.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	w.drop(uid)
	return nil
}

// replaced tells whether another pod has taken the name, or nobody.
func (w *Writer) replaced(ctx context.Context, pod *v1.Pod) bool {
	got, err := w.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	return apierrors.IsNotFound(err) || err == nil && got.UID != pod.UID
}

func (w *Writer) drop(uid types.UID) {
	w.Forget(uid)
	if w.gone != nil {
		w.gone(uid)
	}
}

// diff makes the strategic merge patch from have to want, guarded by the UID; nil if there is nothing to change.
func diff(uid types.UID, have, want v1.PodStatus) ([]byte, error) {
	oldJSON, err := json.Marshal(v1.Pod{Status: have})
	if err != nil {
		return nil, err
	}
	newJSON, err := json.Marshal(v1.Pod{Status: want})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(oldJSON, newJSON, v1.Pod{})
	if err != nil {
		return nil, err
	}
	if string(patch) == "{}" {
		return nil, nil
	}
	var m map[string]any
	if err := json.Unmarshal(patch, &m); err != nil {
		return nil, err
	}
	m["metadata"] = map[string]any{"uid": uid}
	return json.Marshal(m)
}
