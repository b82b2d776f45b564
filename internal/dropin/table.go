package dropin

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Support says what becomes of a field or a flag.
type Support string

const (
	// Works: it does what it does upstream, with the difference that the note names.
	Works Support = "works"
	// Fixed: what it asks for is always so, or has no meaning here; nothing to do and nothing to warn of.
	Fixed Support = "no effect"
	// Missing: not implemented. It is accepted and named once at start.
	Missing Support = "not implemented"
	// Refused: starting with it would promise what is not kept; a value other than the neutral ones is an error.
	Refused Support = "refused"
)

// Entry says what becomes of one field of a configuration.
type Entry struct {
	// Path is the field's JSON path, as authentication.webhook.cacheTTL. An entry covers everything below its path that
	// has no entry of its own.
	Path    string
	Support Support
	// Note says why, or what differs from upstream.
	Note string
	// Neutral are values, written as in YAML, that ask for nothing: they are not named and not refused. Zero values never
	// are.
	Neutral []string
}

// Table is all that is known of a configuration's fields.
type Table []Entry

// entry finds the most specific entry for a path.
func (t Table) entry(path string) (Entry, bool) {
	var best Entry
	found := false
	for _, e := range t {
		if (path == e.Path || strings.HasPrefix(path, e.Path+".")) && (!found || len(e.Path) > len(best.Path)) {
			best, found = e, true
		}
	}
	return best, found
}

// Finding is a field that is set to something which is not done.
type Finding struct {
	Path, Value, Note string
}

func (f Finding) String() string {
	if f.Note == "" {
		return fmt.Sprintf("%s: %s", f.Path, f.Value)
	}
	return fmt.Sprintf("%s: %s (%s)", f.Path, f.Value, f.Note)
}

// Review goes through everything that is set in a document and answers what is not implemented and what is refused, each
// in the order of its paths.
func (t Table) Review(doc Document) (missing, refused []Finding) {
	walk(doc, "", func(path string, value any) {
		e, ok := t.entry(path)
		if !ok || neutral(e, value) {
			return
		}
		switch e.Support {
		case Missing:
			missing = append(missing, Finding{path, text(value), e.Note})
		case Refused:
			refused = append(refused, Finding{path, text(value), e.Note})
		}
	})
	return missing, refused
}

func neutral(e Entry, value any) bool {
	s := text(value)
	return zero(value) || slices.Contains(e.Neutral, s)
}

func zero(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case bool:
		return false // false is a choice; the entry's Neutral says whether it asks for something
	case string:
		return v == "" || v == "0s"
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return text(value) == "0"
}

// text writes a value as a person would in YAML.
func text(value any) string {
	switch v := value.(type) {
	case float64:
		if v == float64(int64(v)) {
			return fmt.Sprint(int64(v))
		}
	case []any:
		parts := make([]string, 0, len(v))
		for _, e := range v {
			parts = append(parts, text(e))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case map[string]any:
		parts := make([]string, 0, len(v))
		for _, k := range sortedKeys(v) {
			parts = append(parts, k+": "+text(v[k]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return fmt.Sprint(value)
}

// walk visits every leaf in the order of its path; lists are leaves.
func walk(doc map[string]any, prefix string, visit func(path string, value any)) {
	for _, k := range sortedKeys(doc) {
		path := k
		if prefix != "" {
			path = prefix + "." + k
		}
		if m, ok := doc[k].(map[string]any); ok && len(m) > 0 {
			walk(m, path, visit)
			continue
		}
		visit(path, doc[k])
	}
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Fields lists the JSON paths of every leaf of a configuration type; maps, lists and types that marshal themselves are
// leaves. For tests that a table forgets nothing.
func Fields(t reflect.Type) []string {
	var out []string
	collect(t, "", &out)
	return out
}

func collect(t reflect.Type, prefix string, out *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		ft := f.Type
		for ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if name == "-" || !f.IsExported() {
			continue
		}
		if opts == "inline" || f.Anonymous && name == "" {
			collect(ft, prefix, out)
			continue
		}
		path := prefix + name
		marshals := reflect.PointerTo(ft).Implements(reflect.TypeFor[interface{ UnmarshalJSON([]byte) error }]())
		if ft.Kind() == reflect.Struct && !marshals {
			collect(ft, path+".", out)
			continue
		}
		*out = append(*out, path)
	}
}

// Covers reports the paths that no entry is for, and the entries that are for no path.
func (t Table) Covers(paths []string) (forgotten, idle []string) {
	used := map[string]bool{}
	for _, p := range paths {
		if e, ok := t.entry(p); ok {
			used[e.Path] = true
		} else {
			forgotten = append(forgotten, p)
		}
	}
	for _, e := range t {
		if !used[e.Path] {
			idle = append(idle, e.Path)
		}
	}
	return forgotten, idle
}
