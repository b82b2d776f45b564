package registry

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
)

// ComponentStatuses serves the deprecated componentstatuses: the health of the parts of the control plane, asked for at
// each read and never stored.
type ComponentStatuses struct {
	rest.TableConvertor
	checks []ComponentCheck
}

// ComponentCheck asks one part how it is.
type ComponentCheck struct {
	Name string
	// Check returns nil when the part is healthy.
	Check func(context.Context) error
}

var (
	_ rest.Lister             = (*ComponentStatuses)(nil)
	_ rest.Getter             = (*ComponentStatuses)(nil)
	_ rest.ShortNamesProvider = (*ComponentStatuses)(nil)
)

// NewComponentStatuses lists the checks in the given order.
func NewComponentStatuses(checks ...ComponentCheck) *ComponentStatuses {
	return &ComponentStatuses{rest.NewDefaultTableConvertor(corev1.Resource("componentstatuses")), checks}
}

func (c *ComponentStatuses) New() runtime.Object     { return &corev1.ComponentStatus{} }
func (c *ComponentStatuses) NewList() runtime.Object { return &corev1.ComponentStatusList{} }
func (c *ComponentStatuses) Destroy()                {}
func (c *ComponentStatuses) NamespaceScoped() bool   { return false }
func (c *ComponentStatuses) ShortNames() []string    { return []string{"cs"} }
func (c *ComponentStatuses) GetSingularName() string { return "componentstatus" }

func (c *ComponentStatuses) List(ctx context.Context, _ *internalversion.ListOptions) (runtime.Object, error) {
	list := &corev1.ComponentStatusList{}
	for _, check := range c.checks {
		list.Items = append(list.Items, *ask(ctx, check))
	}
	return list, nil
}

func (c *ComponentStatuses) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	for _, check := range c.checks {
		if check.Name == name {
			return ask(ctx, check), nil
		}
	}
	return nil, apierrors.NewNotFound(corev1.Resource("componentstatuses"), name)
}

func ask(ctx context.Context, check ComponentCheck) *corev1.ComponentStatus {
	condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err := check.Check(ctx); err != nil {
		condition.Status, condition.Message, condition.Error = corev1.ConditionFalse, "unhealthy", fmt.Sprint(err)
	}
	return &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: check.Name}, Conditions: []corev1.ComponentCondition{condition}}
}
