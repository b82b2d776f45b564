package validation

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// report gathers field errors in the order in which they are found.
type report struct {
	list field.ErrorList
}

func (r *report) add(errs ...*field.Error) { r.list = append(r.list, errs...) }

func (r *report) invalid(p *field.Path, value any, detail string) {
	r.list = append(r.list, field.Invalid(p, value, detail))
}

func (r *report) required(p *field.Path, detail string) {
	r.list = append(r.list, field.Required(p, detail))
}

func (r *report) forbidden(p *field.Path, detail string) {
	r.list = append(r.list, field.Forbidden(p, detail))
}

func (r *report) duplicate(p *field.Path, value any) {
	r.list = append(r.list, field.Duplicate(p, value))
}

func (r *report) notFound(p *field.Path, value any) {
	r.list = append(r.list, field.NotFound(p, value))
}

// each reports one Invalid error a message, as the checks of apimachinery return them.
func (r *report) each(p *field.Path, value any, messages []string) {
	for _, m := range messages {
		r.invalid(p, value, m)
	}
}

// nonNegative reports a value below zero.
func (r *report) nonNegative(p *field.Path, value int64) {
	if value < 0 {
		r.invalid(p, value, "must be greater than or equal to 0")
	}
}

// oneOf reports a value that is not among those supported. An empty value is Required where required is set, else fine.
func oneOf[T ~string](r *report, p *field.Path, value T, required bool, supported ...T) {
	if value == "" {
		if required {
			r.required(p, "")
		}
		return
	}
	for _, s := range supported {
		if value == s {
			return
		}
	}
	r.add(field.NotSupported(p, value, supported))
}

// optionalOneOf is oneOf for a pointer: nil is fine, a pointer to an unsupported value, "" included, is not.
func optionalOneOf[T ~string](r *report, p *field.Path, value *T, supported ...T) {
	if value == nil {
		return
	}
	for _, s := range supported {
		if *value == s {
			return
		}
	}
	r.add(field.NotSupported(p, *value, supported))
}

// immutable reports a field that differs from what is stored.
func immutable[T any](r *report, p *field.Path, now, old T, equal func(a, b T) bool) {
	if !equal(now, old) {
		r.invalid(p, now, "field is immutable")
	}
}

// sorted visits a map in the order of its keys, so that the same object gets the same errors in the same order.
func sorted[K cmp.Ordered, V any](m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
