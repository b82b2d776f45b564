package validation

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/reevehq/reeve/controlplane/apis/defaults"
)

var testScheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, defaults.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return s
}()

// parse decodes a manifest and defaults it, as the API server does before it validates.
func parse[T runtime.Object](t testing.TB, manifest string) T {
	t.Helper()
	raw, err := yaml.YAMLToJSONStrict([]byte(manifest))
	if err != nil {
		t.Fatalf("%v", err)
	}
	obj, _, err := serializer.NewCodecFactory(testScheme, serializer.EnableStrict).UniversalDeserializer().Decode(raw, nil, nil)
	if err != nil {
		t.Fatalf("%v", err)
	}
	testScheme.Default(obj)
	return obj.(T)
}

// brief is what upstream's clients can tell apart: the type of each error and its field.
func brief(errs field.ErrorList) []string {
	out := []string{}
	for _, e := range errs {
		out = append(out, fmt.Sprintf("%s %s", short[e.Type], e.Field))
	}
	slices.Sort(out)
	return out
}

var short = map[field.ErrorType]string{
	field.ErrorTypeInvalid: "invalid", field.ErrorTypeRequired: "required", field.ErrorTypeForbidden: "forbidden",
	field.ErrorTypeNotSupported: "unsupported", field.ErrorTypeDuplicate: "duplicate", field.ErrorTypeNotFound: "notfound",
	field.ErrorTypeTooLong: "toolong", field.ErrorTypeTooMany: "toomany", field.ErrorTypeInternal: "internal", field.ErrorTypeTypeInvalid: "typeinvalid",
}

type createCase[T runtime.Object] struct {
	name string
	do   func(T)
	want []string
}

// checkCreate applies each change to a valid object and compares what Create says.
func checkCreate[T runtime.Object](t *testing.T, manifest string, cases []createCase[T]) {
	t.Helper()
	if errs := Create(context.Background(), parse[T](t, manifest)); len(errs) > 0 {
		t.Fatalf("the valid object is refused: %v", errs)
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			obj := parse[T](t, manifest)
			tc.do(obj)
			before := obj.DeepCopyObject()
			errs := Create(context.Background(), obj)
			compare(t, errs, tc.want)
			if d := cmp.Diff(before, runtime.Object(obj)); d != "" {
				t.Errorf("validation changed the object:\n%s", d)
			}
		})
	}
}

// checkUpdate applies each change to a copy of a valid object and compares what check says of the change.
func checkUpdate[T runtime.Object](t *testing.T, manifest string, check func(ctx context.Context, obj, old runtime.Object) field.ErrorList, cases []createCase[T]) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			old, obj := parse[T](t, manifest), parse[T](t, manifest)
			for _, o := range []runtime.Object{old, obj} {
				o.(interface{ SetResourceVersion(string) }).SetResourceVersion("1")
			}
			tc.do(obj)
			before := old.DeepCopyObject()
			compare(t, check(context.Background(), obj, old), tc.want)
			if d := cmp.Diff(before, runtime.Object(old)); d != "" {
				t.Errorf("validation changed the old object:\n%s", d)
			}
		})
	}
}

func compare(t *testing.T, errs field.ErrorList, want []string) {
	t.Helper()
	slices.Sort(want)
	if want == nil {
		want = []string{}
	}
	if d := cmp.Diff(want, brief(errs)); d != "" {
		t.Errorf("errors (-want +got):\n%s\n%v", d, errs)
	}
}

func subresource(name string) func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	return func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
		return UpdateSubresource(ctx, name, obj, old)
	}
}
