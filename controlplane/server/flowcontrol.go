package server

import (
	"context"
	"errors"
	"fmt"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/kubernetes"

	"github.com/reevehq/reeve/controlplane/scheme"
)

// ensureFlowControl makes the FlowSchemas and PriorityLevelConfigurations that every cluster has. The mandatory ones
// are put right if they were changed; the suggested ones only while their annotation says that they are ours.
func ensureFlowControl(ctx context.Context, client kubernetes.Interface) error {
	var errs []error
	levels := client.FlowcontrolV1().PriorityLevelConfigurations()
	for _, want := range append(copies(bootstrap.MandatoryPriorityLevelConfigurations), copies(bootstrap.SuggestedPriorityLevelConfigurations)...) {
		scheme.Scheme.Default(want)
		want.Annotations = map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"}
		got, err := levels.Get(ctx, want.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			_, err = levels.Create(ctx, want, metav1.CreateOptions{FieldManager: flowManager})
			err = ignoreExists(err)
		case err == nil && ours(got) && !apiequality.Semantic.DeepEqual(got.Spec, want.Spec):
			got.Spec = want.Spec
			_, err = levels.Update(ctx, got, metav1.UpdateOptions{FieldManager: flowManager})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("ensure priority level %q: %w", want.Name, err))
		}
	}
	schemas := client.FlowcontrolV1().FlowSchemas()
	for _, want := range append(copies(bootstrap.MandatoryFlowSchemas), copies(bootstrap.SuggestedFlowSchemas)...) {
		scheme.Scheme.Default(want)
		want.Annotations = map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"}
		got, err := schemas.Get(ctx, want.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			_, err = schemas.Create(ctx, want, metav1.CreateOptions{FieldManager: flowManager})
			err = ignoreExists(err)
		case err == nil && ours(got) && !apiequality.Semantic.DeepEqual(got.Spec, want.Spec):
			got.Spec = want.Spec
			_, err = schemas.Update(ctx, got, metav1.UpdateOptions{FieldManager: flowManager})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("ensure flow schema %q: %w", want.Name, err))
		}
	}
	return errors.Join(errs...)
}

// flowManager is the field manager that upstream writes these objects as.
const flowManager = "api-priority-and-fairness-config-producer-v1"

// ours says whether the object follows the release: the exempt and catch-all ones always, the others unless the
// administrator has taken them over.
func ours(obj metav1.Object) bool {
	name := obj.GetName()
	return name == "exempt" || name == "catch-all" || obj.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey] == "true"
}

func copies[T any, P interface {
	*T
	runtime.Object
}](in []P) []P {
	out := make([]P, len(in))
	for i := range in {
		out[i] = in[i].DeepCopyObject().(P)
	}
	return out
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
