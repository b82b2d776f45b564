package validation

import (
	"fmt"
	"math/rand"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/randfill"
)

// words are what random strings are made of: names, numbers and separators that checks look at.
var words = []string{"", "a", "web", "A b", "-x", "example.com/x", "a.b.c", "10.0.0.1", "fd00::1", "10.0.0.0/8", "/", "../a", "a/../b", "*", "*/*",
	"TCP", "Always", "None", "ClusterIP", "LoadBalancer", "In", "Exists", "metadata.labels['a']", "limits.cpu", "cpu", "memory", "hugepages-2Mi",
	"@hourly", "* * * * *", "1-3,5", "true", "object.x", strings.Repeat("a", 300)}

func filler(seed int64) *randfill.Filler {
	return randfill.NewWithSeed(seed).NilChance(.3).NumElements(0, 3).MaxDepth(14).Funcs(
		func(s *string, c randfill.Continue) { *s = words[c.Intn(len(words))] },
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewMilliQuantity(c.Int63n(5000)-500, resource.DecimalSI)
		},
		func(v *intstr.IntOrString, c randfill.Continue) {
			*v = intstr.FromInt32(c.Int31n(100) - 10)
			if c.Bool() {
				*v = intstr.FromString(words[c.Intn(len(words))])
			}
		},
		func(t *metav1.Time, c randfill.Continue) { *t = metav1.NewTime(time.Unix(c.Int63n(1e9), 0).UTC()) },
		func(t *metav1.MicroTime, c randfill.Continue) {
			*t = metav1.NewMicroTime(time.Unix(c.Int63n(1e9), 0).UTC())
		},
		func(e *runtime.RawExtension, c randfill.Continue) { e.Raw = []byte(`{"a":1}`) },
		// apimachinery walks labels and annotations in any order: one is enough.
		func(m *map[string]string, c randfill.Continue) {
			*m = map[string]string{words[c.Intn(len(words))]: words[c.Intn(len(words))]}
		},
		func(f *metav1.FieldsV1, _ randfill.Continue) { f.Raw = []byte(`{}`) },
	)
}

// TestRandomObjects: whatever a client sends, validation answers, the same way twice, and changes nothing.
func TestRandomObjects(t *testing.T) {
	rounds := 15
	if testing.Short() {
		rounds = 3
	}
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	f := filler(seed)
	for typ, rules := range kinds() {
		for range rounds {
			obj, old := reflect.New(typ.Elem()).Interface().(runtime.Object), reflect.New(typ.Elem()).Interface().(runtime.Object)
			f.Fill(obj)
			f.Fill(old)
			if rand.Intn(2) == 0 {
				testScheme.Default(obj)
			}
			if m, ok := obj.(metav1.Object); ok && len(m.GetLabels()) > 1 {
				m.SetLabels(nil) // Defaulting labels namespaces.
			}
			checks := map[string]func() field.ErrorList{
				"create": func() field.ErrorList { return Create(t.Context(), obj) },
				"update": func() field.ErrorList { return Update(t.Context(), obj, old) },
				"same":   func() field.ErrorList { return Update(t.Context(), obj, obj) },
			}
			for name := range rules.subresources {
				checks[name] = func() field.ErrorList { return UpdateSubresource(t.Context(), name, obj, old) }
			}
			for name, check := range checks {
				func() {
					defer func() {
						if p := recover(); p != nil {
							t.Fatalf("%s of a %s panics (seed %d): %v\n%#v", name, typ, seed, p, obj)
						}
					}()
					now, before := obj.DeepCopyObject(), old.DeepCopyObject()
					first := fmt.Sprint(check())
					// Generated code walks maps in any order.
					if d := cmp.Diff(first, fmt.Sprint(check())); d != "" && rules.create != nil {
						t.Errorf("%s of a %s (seed %d) answers twice in two ways:\n%s", name, typ, seed, d)
					}
					if !reflect.DeepEqual(now, obj) || !reflect.DeepEqual(before, old) {
						t.Errorf("%s of a %s (seed %d) changes what it checks", name, typ, seed)
					}
				}()
			}
		}
	}
}

// TestValidObjectsStayValid: what may be stored may be stored again, unchanged.
func TestValidObjectsStayValid(t *testing.T) {
	for _, k := range kindCases {
		obj := patched(t, k.valid, "metadata: {resourceVersion: '1'}")
		if errs := Update(t.Context(), obj, obj.DeepCopyObject()); len(errs) > 0 {
			t.Errorf("%s cannot be written back unchanged: %v", k.kind, errs)
		}
	}
}
