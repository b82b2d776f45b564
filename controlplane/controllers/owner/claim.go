package owner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Claimer adopts and releases objects of type T for one owner.
type Claimer[T metav1.Object] struct {
	Owner    metav1.Object
	Kind     schema.GroupVersionKind
	Selector labels.Selector
	// Match narrows the selector further, for adoption only; nil means all.
	Match func(T) bool
	// Fresh reads the owner past the cache; adoption asks it once, so that a deleted owner adopts nothing.
	Fresh func(ctx context.Context) (metav1.Object, error)
	// Patch sends a strategic merge patch.
	Patch func(ctx context.Context, obj T, patch []byte) error
	// Keep holds back from releasing objects that no longer match (Jobs' pods, …); nil means release.
	Keep bool
}

// Claim returns those of objs that belong to the owner after adopting matching orphans and releasing what no longer
// matches. Objects owned by others are left alone.
func (c *Claimer[T]) Claim(ctx context.Context, objs []T) ([]T, error) {
	var mine []T
	var errs []error
	var mayAdopt error
	asked := false
	for _, o := range objs {
		ref := metav1.GetControllerOfNoCopy(o)
		matches := c.Selector.Matches(labels.Set(o.GetLabels()))
		if ref != nil {
			switch {
			case ref.UID != c.Owner.GetUID():
			case matches || c.Keep:
				mine = append(mine, o)
			case c.Owner.GetDeletionTimestamp() != nil:
			default:
				if err := c.release(ctx, o); err != nil {
					errs = append(errs, err)
				}
			}
			continue
		}
		if !matches || c.Owner.GetDeletionTimestamp() != nil || o.GetDeletionTimestamp() != nil || (c.Match != nil && !c.Match(o)) {
			continue
		}
		if !asked {
			mayAdopt, asked = c.mayAdopt(ctx), true
		}
		if mayAdopt != nil {
			errs = append(errs, mayAdopt)
			continue
		}
		if err := c.adopt(ctx, o); err != nil {
			if !apierrors.IsNotFound(err) {
				errs = append(errs, err)
			}
			continue
		}
		mine = append(mine, o)
	}
	return mine, errors.Join(errs...)
}

func (c *Claimer[T]) mayAdopt(ctx context.Context) error {
	if c.Fresh == nil {
		return nil
	}
	o, err := c.Fresh(ctx)
	if err != nil {
		return fmt.Errorf("look at %s %q before adopting: %w", c.Kind.Kind, c.Owner.GetName(), err)
	}
	if o.GetUID() != c.Owner.GetUID() {
		return fmt.Errorf("%s %q is another object now", c.Kind.Kind, c.Owner.GetName())
	}
	if o.GetDeletionTimestamp() != nil {
		return fmt.Errorf("%s %q is being deleted and adopts nothing", c.Kind.Kind, c.Owner.GetName())
	}
	return nil
}

func (c *Claimer[T]) adopt(ctx context.Context, o T) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":             o.GetUID(),
		"ownerReferences": []metav1.OwnerReference{*metav1.NewControllerRef(c.Owner, c.Kind)},
	}})
	if err != nil {
		return fmt.Errorf("encode adoption of %q: %w", o.GetName(), err)
	}
	if err := c.Patch(ctx, o, patch); err != nil {
		return fmt.Errorf("adopt %q: %w", o.GetName(), err)
	}
	return nil
}

func (c *Claimer[T]) release(ctx context.Context, o T) error {
	patch := fmt.Sprintf(`{"metadata":{"uid":%q,"ownerReferences":[{"$patch":"delete","uid":%q}]}}`, o.GetUID(), c.Owner.GetUID())
	err := c.Patch(ctx, o, []byte(patch))
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) { // gone, or someone else released it first
		return nil
	}
	return fmt.Errorf("release %q: %w", o.GetName(), err)
}

// UIDs indexes objects by UID.
func UIDs[T metav1.Object](objs []T) map[types.UID]T {
	m := make(map[types.UID]T, len(objs))
	for _, o := range objs {
		m[o.GetUID()] = o
	}
	return m
}
