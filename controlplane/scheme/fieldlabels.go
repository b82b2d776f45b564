package scheme

import (
	"fmt"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/reevehq/reeve/controlplane/apis"
)

// fieldAliases are field labels that a version spells in another way than its hub.
var fieldAliases = map[schema.GroupVersionKind]map[string]string{
	{Version: "v1", Kind: "Pod"}: {"spec.host": "spec.nodeName"},
	eventsv1.SchemeGroupVersion.WithKind("Event"): {
		"regarding.kind":            "involvedObject.kind",
		"regarding.namespace":       "involvedObject.namespace",
		"regarding.name":            "involvedObject.name",
		"regarding.uid":             "involvedObject.uid",
		"regarding.apiVersion":      "involvedObject.apiVersion",
		"regarding.resourceVersion": "involvedObject.resourceVersion",
		"regarding.fieldPath":       "involvedObject.fieldPath",
		"reportingController":       "reportingComponent",
	},
}

// addFieldLabels tells the scheme which fields each kind can be selected by: those that its descriptor computes.
func addFieldLabels(s *runtime.Scheme) error {
	for _, kind := range apis.Kinds() {
		known := map[string]bool{"metadata.name": true}
		if kind.Namespaced() {
			known["metadata.namespace"] = true
		}
		if kind.Fields != nil {
			for label := range kind.Fields(kind.New()) {
				known[label] = true
			}
		}
		for _, gv := range kind.ServedIn() {
			gvk := gv.WithKind(kind.Kind)
			aliases := fieldAliases[gvk]
			fn := func(label, value string) (string, string, error) {
				if hub, ok := aliases[label]; ok {
					return hub, value, nil
				}
				if known[label] {
					return label, value, nil
				}
				return "", "", fmt.Errorf("field label not supported: %s", label)
			}
			if err := s.AddFieldLabelConversionFunc(gvk, fn); err != nil {
				return err
			}
		}
	}
	return nil
}
