package objects

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// listTimeout bounds one list of a single object.
	listTimeout = 10 * time.Second
	// retryFirst is short because of the way to Running: the Node authorizer learns of a pod's references from the same
	// event that brings the pod here, and may be some milliseconds behind.
	retryFirst = 10 * time.Millisecond
	retryMax   = 10 * time.Second
	// watchMin and watchMax bound how long one watch request lasts; the spread keeps watches from ending all at once.
	watchMin = 5 * time.Minute
	watchMax = 10 * time.Minute
)

// follow keeps e current until ctx ends: list the one object, watch it from there, again when the watch ends. The list
// is consistent rather than from the server's cache, since "apply the ConfigMap, then the pod" must see the new content.
func (c *Cache) follow(ctx context.Context, e *entry) {
	delay := retryFirst
	for ctx.Err() == nil {
		rv, immutable, err := c.list(ctx, e)
		if err == nil {
			delay = retryFirst
			if immutable {
				// It can only be deleted, which changes nothing for the pods that use it.
				<-ctx.Done()
				return
			}
			err = c.watch(ctx, e, rv)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			continue // the watch ran its time
		}
		c.fail(e, err)
		if delay >= time.Second {
			c.log.Warn("Object could not be read, will retry", "object", e.ref.String(), logkey.Err, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay + rand.N(delay/2)):
		}
		delay = min(delay*2, retryMax)
	}
}

func (c *Cache) list(ctx context.Context, e *entry) (rv string, immutable bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	opts := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", e.ref.Name).String()}
	var obj runtime.Object
	switch e.ref.Kind {
	case ConfigMap:
		l, lerr := c.client.CoreV1().ConfigMaps(e.ref.Namespace).List(ctx, opts)
		if lerr != nil {
			return "", false, lerr
		}
		rv = l.ResourceVersion
		for i := range l.Items {
			if l.Items[i].Name == e.ref.Name {
				obj = l.Items[i].DeepCopy()
			}
		}
	case Secret:
		l, lerr := c.client.CoreV1().Secrets(e.ref.Namespace).List(ctx, opts)
		if lerr != nil {
			return "", false, lerr
		}
		rv = l.ResourceVersion
		for i := range l.Items {
			if l.Items[i].Name == e.ref.Name {
				obj = l.Items[i].DeepCopy()
			}
		}
	default:
		return "", false, fmt.Errorf("list %v: unknown kind", e.ref)
	}
	if obj != nil {
		trim(obj)
	}
	c.set(e, obj)
	return rv, isImmutable(obj), nil
}

// watch follows the object from rv until the server ends the watch (nil), or something is wrong with it.
func (c *Cache) watch(ctx context.Context, e *entry, rv string) error {
	seconds := int64((watchMin + rand.N(watchMax-watchMin)) / time.Second)
	opts := metav1.ListOptions{
		FieldSelector:       fields.OneTermEqualSelector("metadata.name", e.ref.Name).String(),
		ResourceVersion:     rv,
		AllowWatchBookmarks: true,
		TimeoutSeconds:      &seconds,
	}
	var w watch.Interface
	var err error
	if e.ref.Kind == Secret {
		w, err = c.client.CoreV1().Secrets(e.ref.Namespace).Watch(ctx, opts)
	} else {
		w, err = c.client.CoreV1().ConfigMaps(e.ref.Namespace).Watch(ctx, opts)
	}
	if err != nil {
		return err
	}
	defer w.Stop()
	start := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-w.ResultChan():
			if !ok {
				if time.Since(start) < time.Second {
					return errors.New("the watch ended at once")
				}
				return nil
			}
			switch ev.Type {
			case watch.Added, watch.Modified:
				if nameOf(ev.Object) != e.ref.Name {
					continue // a server that ignores the field selector
				}
				trim(ev.Object)
				c.set(e, ev.Object)
			case watch.Deleted:
				if nameOf(ev.Object) == e.ref.Name {
					c.set(e, nil)
				}
			case watch.Error:
				if err := apierrors.FromObject(ev.Object); !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
					return err
				}
				return nil // list again
			}
		}
	}
}

// trim drops what nobody here reads, to keep a hundred objects small.
func trim(obj runtime.Object) {
	if m, ok := obj.(metav1.Object); ok {
		m.SetManagedFields(nil)
		a := m.GetAnnotations()
		if _, ok := a["kubectl.kubernetes.io/last-applied-configuration"]; ok {
			delete(a, "kubectl.kubernetes.io/last-applied-configuration")
		}
	}
}

func isImmutable(obj runtime.Object) bool {
	switch o := obj.(type) {
	case *corev1.ConfigMap:
		return o.Immutable != nil && *o.Immutable
	case *corev1.Secret:
		return o.Immutable != nil && *o.Immutable
	}
	return false
}

func resourceVersion(obj runtime.Object) string {
	if m, ok := obj.(metav1.Object); ok && obj != nil {
		return m.GetResourceVersion()
	}
	return ""
}

func nameOf(obj runtime.Object) string {
	if m, ok := obj.(metav1.Object); ok {
		return m.GetName()
	}
	return ""
}
