package env

import (
	"context"
	"fmt"
	"slices"
	"sort"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/reevehq/reeve/internal/downward"
	"github.com/reevehq/reeve/internal/expansion"
)

// Objects reads the ConfigMaps and Secrets that the pod names; volumes/objects.Cache is the real one.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Input is what an environment is made from.
type Input struct {
	Pod       *corev1.Pod
	Container *corev1.Container
	Addresses downward.Addresses
	// Allocatable is what a limit that is not set reads as.
	Allocatable corev1.ResourceList
	// Services are those of the pod's namespace and default/kubernetes, in any order.
	Services []*corev1.Service
	// Objects may be nil on a standalone node: references then fail.
	Objects Objects
}

// Var is one variable.
type Var struct{ Name, Value string }

// Reason under which a container waits whose environment cannot be made.
const Reason = "CreateContainerConfigError"

// Make answers the environment: envFrom in its order, then env in its order (a later one replaces an earlier one of the
// same name in place), then the Service variables that neither names, sorted. skipped names envFrom keys that cannot be
// variable names. The error is what the container's waiting message (reason CreateContainerConfigError) says.
//
// $(VAR) in a value refers to variables that were defined before it, envFrom's among them, and to Service variables.
func Make(ctx context.Context, in Input) (vars []Var, skipped []string, err error) {
	m := maker{ctx: ctx, in: in, index: map[string]int{}, services: map[string]string{}}
	enable := in.Pod.Spec.EnableServiceLinks == nil || *in.Pod.Spec.EnableServiceLinks
	for _, v := range serviceVars(selectServices(in.Services, in.Pod.Namespace, enable)) {
		m.services[v.Name] = v.Value
	}
	for i := range in.Container.EnvFrom {
		if err := m.from(&in.Container.EnvFrom[i]); err != nil {
			return nil, nil, err
		}
	}
	for i := range in.Container.Env {
		// The pod's own word always wins over a Service's variable, even before it is reached.
		delete(m.services, in.Container.Env[i].Name)
	}
	for i := range in.Container.Env {
		if err := m.one(&in.Container.Env[i]); err != nil {
			return nil, nil, err
		}
	}
	rest := make([]string, 0, len(m.services))
	for n := range m.services {
		if _, ok := m.index[n]; !ok {
			rest = append(rest, n)
		}
	}
	sort.Strings(rest)
	for _, n := range rest {
		m.vars = append(m.vars, Var{n, m.services[n]})
	}
	return m.vars, m.skipped, nil
}

type maker struct {
	ctx      context.Context
	in       Input
	vars     []Var
	index    map[string]int
	services map[string]string
	skipped  []string
}

func (m *maker) set(name, value string) {
	if i, ok := m.index[name]; ok {
		m.vars[i].Value = value
		return
	}
	m.index[name] = len(m.vars)
	m.vars = append(m.vars, Var{name, value})
}

func (m *maker) lookup(name string) (string, bool) {
	if i, ok := m.index[name]; ok {
		return m.vars[i].Value, true
	}
	v, ok := m.services[name]
	return v, ok
}

func (m *maker) from(src *corev1.EnvFromSource) error {
	data := map[string]string{}
	switch {
	case src.ConfigMapRef != nil:
		cm, err := m.configMap(src.ConfigMapRef.Name, src.ConfigMapRef.Optional)
		if err != nil || cm == nil {
			return err
		}
		data = cm.Data
	case src.SecretRef != nil:
		s, err := m.secret(src.SecretRef.Name, src.SecretRef.Optional)
		if err != nil || s == nil {
			return err
		}
		for k, v := range s.Data {
			data[k] = string(v)
		}
	}
	keys := make([]string, 0, len(data))
	for k := range data {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		name := src.Prefix + k
		if !validName(name) {
			m.skipped = append(m.skipped, name)
			continue
		}
		m.set(name, data[k])
	}
	return nil
}

func (m *maker) one(e *corev1.EnvVar) error {
	if e.ValueFrom == nil {
		m.set(e.Name, expansion.Expand(e.Value, m.lookup))
		return nil
	}
	v, ok, err := m.valueFrom(e.ValueFrom)
	if err != nil || !ok {
		return err
	}
	m.set(e.Name, v)
	return nil
}

// valueFrom answers ok false where an optional source is absent: the variable is then not defined at all.
func (m *maker) valueFrom(src *corev1.EnvVarSource) (string, bool, error) {
	pod := m.in.Pod
	switch {
	case src.FieldRef != nil:
		v, err := downward.Field(pod, src.FieldRef.FieldPath, m.in.Addresses)
		return v, true, err
	case src.ResourceFieldRef != nil:
		c := m.in.Container
		if n := src.ResourceFieldRef.ContainerName; n != "" {
			var err error
			if c, err = downward.Container(pod, n); err != nil {
				return "", false, err
			}
		}
		v, err := downward.Resource(c, src.ResourceFieldRef.Resource, src.ResourceFieldRef.Divisor, m.in.Allocatable)
		return v, true, err
	case src.ConfigMapKeyRef != nil:
		ref := src.ConfigMapKeyRef
		cm, err := m.configMap(ref.Name, ref.Optional)
		if err != nil || cm == nil {
			return "", false, err
		}
		v, ok := cm.Data[ref.Key]
		if !ok && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return v, ok, nil
	case src.SecretKeyRef != nil:
		ref := src.SecretKeyRef
		s, err := m.secret(ref.Name, ref.Optional)
		if err != nil || s == nil {
			return "", false, err
		}
		v, ok := s.Data[ref.Key]
		if !ok && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(v), ok, nil
	}
	return "", false, nil
}

// configMap answers nil without an error where an optional one is absent.
func (m *maker) configMap(name string, optional *bool) (*corev1.ConfigMap, error) {
	if m.in.Objects == nil {
		return nil, fmt.Errorf("configmap %q: this node runs without an API server", name)
	}
	cm, err := m.in.Objects.ConfigMap(m.ctx, m.in.Pod.Namespace, name)
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil, nil
	}
	return cm, err
}

func (m *maker) secret(name string, optional *bool) (*corev1.Secret, error) {
	if m.in.Objects == nil {
		return nil, fmt.Errorf("secret %q: this node runs without an API server", name)
	}
	s, err := m.in.Objects.Secret(m.ctx, m.in.Pod.Namespace, name)
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil, nil
	}
	return s, err
}

// validName: since 1.34 a variable's name is any printable ASCII but "=" (core/v1 EnvVar.name).
func validName(name string) bool {
	if name == "" {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c < 0x20 || c > 0x7e || c == '=' {
			return false
		}
	}
	return true
}

func isTrue(b *bool) bool { return b != nil && *b }
