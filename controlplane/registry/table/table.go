package table

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/reevehq/reeve/controlplane/apis"
)

// printer is one kind's columns and how an object fills them.
type printer struct {
	// columns start with the name, except where unnamed.
	columns []metav1.TableColumnDefinition
	unnamed bool
	// cells gives the values, one a column after the name.
	cells func(obj runtime.Object, now time.Time) []any
	// conditions says that the row of a finished object is marked, so that clients can tell it (pods, jobs).
	conditions func(obj runtime.Object) []metav1.TableRowCondition
}

// For gives the kind's table convertor: its own columns, or name and time of creation.
func For(kind *apis.Kind) rest.TableConvertor {
	p, ok := printers[kind.GroupResource().String()]
	if !ok {
		return rest.NewDefaultTableConvertor(kind.GroupResource())
	}
	return convertor{p}
}

type convertor struct {
	p printer
}

// ConvertToTable implements rest.TableConvertor for one object or a list of the kind. Other objects (the Status that a
// delete answers with) are refused as not acceptable, which makes clients fall back to the object itself.
func (c convertor) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{}
	now := time.Now()
	add := func(obj runtime.Object) error {
		m, err := meta.Accessor(obj)
		if err != nil {
			return fmt.Errorf("print %T as a table: %w", obj, err)
		}
		row := metav1.TableRow{Object: runtime.RawExtension{Object: obj}}
		if !c.p.unnamed {
			row.Cells = append(row.Cells, m.GetName())
		}
		row.Cells = append(row.Cells, c.p.cells(obj, now)...)
		if c.p.conditions != nil {
			row.Conditions = c.p.conditions(obj)
		}
		table.Rows = append(table.Rows, row)
		return nil
	}
	var err error
	if meta.IsListType(object) {
		err = meta.EachListItem(object, add)
	} else {
		err = add(object)
	}
	if err != nil {
		return nil, err
	}
	if m, err := meta.ListAccessor(object); err == nil {
		table.ResourceVersion, table.Continue, table.RemainingItemCount = m.GetResourceVersion(), m.GetContinue(), m.GetRemainingItemCount()
	} else if m, err := meta.CommonAccessor(object); err == nil {
		table.ResourceVersion = m.GetResourceVersion()
	}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		table.ColumnDefinitions = c.p.columns
	}
	return table, nil
}

var docs = metav1.ObjectMeta{}.SwaggerDoc()

// columns builds definitions from names. A leading "+" marks a column of the wide output; "#" one that holds a number.
func columns(names ...string) []metav1.TableColumnDefinition {
	out := []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: docs["name"]}}
	for _, name := range names {
		d := metav1.TableColumnDefinition{Type: "string"}
		if rest, wide := strings.CutPrefix(name, "+"); wide {
			name, d.Priority = rest, 1
		}
		if rest, number := strings.CutPrefix(name, "#"); number {
			name, d.Type = rest, "integer"
		}
		d.Name, d.Description = name, name
		if name == "Age" {
			d.Description = docs["creationTimestamp"]
		}
		out = append(out, d)
	}
	return out
}

// of is a printer of objects of type T.
func of[T runtime.Object](cells func(T, time.Time) []any, names ...string) printer {
	return printer{columns: columns(names...), cells: func(obj runtime.Object, now time.Time) []any {
		t, ok := obj.(T)
		if !ok {
			return make([]any, len(names))
		}
		return cells(t, now)
	}}
}

const (
	none    = "<none>"
	unknown = "<unknown>"
	unset   = "<unset>"
)

// age is how long ago t was, in kubectl's short form.
func age(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

func labelsOf(m map[string]string) string {
	if len(m) == 0 {
		return none
	}
	parts := make([]string, 0, len(m))
	for k, v := range m {
		parts = append(parts, k+"="+v)
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

func selectorOf(s *metav1.LabelSelector) string {
	if s == nil {
		return none
	}
	return metav1.FormatLabelSelector(s)
}

// or gives what stands for an empty value.
func or(value, empty string) string {
	if value == "" {
		return empty
	}
	return value
}

func joined(values []string, empty string) string { return or(strings.Join(values, ","), empty) }

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func orUnset[T any](p *T) string {
	if p == nil {
		return unset
	}
	return fmt.Sprint(*p)
}
