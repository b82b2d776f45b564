package dropin

import (
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Type is how a flag's value is written.
type Type string

const (
	Bool     Type = "bool"
	Int      Type = "int"
	Float    Type = "float"
	String   Type = "string"
	Duration Type = "duration"
	// Strings are separated by commas; the flag may be repeated.
	Strings Type = "strings"
	Ints    Type = "ints"
	// Map is key=value,…; MapLess key<value,… (eviction thresholds); Bools key=true|false,… (feature gates); Headers
	// key:value,… with repeated keys.
	Map     Type = "map"
	MapLess Type = "map<"
	Bools   Type = "bools"
	Headers Type = "headers"
)

// Flag is one flag of the upstream program.
type Flag struct {
	Name string
	Type Type
	// Path is the field of the configuration that the flag sets; what becomes of it is then the field's entry. Empty: the
	// flag stands for itself, and Support and Note are its own.
	Path string
	// Default is shown by --help and answers Value while the flag is not given.
	Default string
	Usage   string
	// Deprecated flags are told of when they are given: what upstream says of it, "config" standing for the word to move it
	// into the configuration file.
	Deprecated string
	Support    Support
	Note       string
	Neutral    []string
}

// inConfig is what a deprecated flag that has a field says.
const inConfig = "set %s in the file of --config instead"

// Flags are a program's flags, and after parsing what was given.
type Flags struct {
	list  []Flag
	given map[string]*value
	set   *pflag.FlagSet
}

// NewFlags adds the flags to set. Underscores in names mean dashes, as upstream.
func NewFlags(set *pflag.FlagSet, list []Flag) *Flags {
	f := &Flags{list: list, given: map[string]*value{}, set: set}
	set.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	for _, fl := range list {
		v := &value{kind: fl.Type, text: fl.Default}
		f.given[fl.Name] = v
		pf := set.VarPF(v, fl.Name, "", fl.Usage)
		if fl.Type == Bool {
			pf.NoOptDefVal = "true"
		}
		pf.DefValue = fl.Default
		if len(fl.Name) == 1 {
			pf.Shorthand = fl.Name
		}
	}
	return f
}

// Value is a flag's text, its default while it is not given.
func (f *Flags) Value(name string) string { return f.given[name].text }

// Given tells whether a flag is on the command line.
func (f *Flags) Given(name string) bool { return f.set.Changed(name) }

// Ignored are the given flags that stand for a field and are none of those named.
func (f *Flags) Ignored(but ...string) []string {
	var out []string
	for _, fl := range f.list {
		if fl.Path != "" && f.Given(fl.Name) && !slices.Contains(but, fl.Name) {
			out = append(out, "--"+fl.Name)
		}
	}
	return out
}

// Bool is a flag's value as a bool.
func (f *Flags) Bool(name string) bool { b, _ := strconv.ParseBool(f.Value(name)); return b }

// List is the value of a Strings flag, StringMap that of a Map flag.
func (f *Flags) List(name string) []string {
	l, _ := f.given[name].parsed.([]any)
	out := make([]string, 0, len(l))
	for _, s := range l {
		out = append(out, s.(string))
	}
	return out
}

// StringMap is the value of a Map flag.
func (f *Flags) StringMap(name string) map[string]string {
	m, _ := f.given[name].parsed.(map[string]any)
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = text(v)
	}
	return out
}

// Apply puts every given flag that stands for a field, or only those named, into the document: flags win over files. Maps
// take the place of the files', feature gates join them, as upstream.
func (f *Flags) Apply(doc Document, only ...string) {
	for _, fl := range f.list {
		if fl.Path != "" && f.Given(fl.Name) && (len(only) == 0 || slices.Contains(only, fl.Name)) {
			doc.Set(fl.Path, f.given[fl.Name].parsed, fl.Type == Bools)
		}
	}
}

// Review answers what was given of flags that stand for themselves and is not implemented or refused, and a sentence for
// each deprecated flag that was given.
func (f *Flags) Review() (missing, refused []Finding, deprecated []string) {
	for _, fl := range f.list {
		if !f.Given(fl.Name) {
			continue
		}
		if fl.Deprecated != "" {
			why := fl.Deprecated
			if why == "config" {
				why = fmt.Sprintf(inConfig, fl.Path)
			}
			deprecated = append(deprecated, "--"+fl.Name+": "+why)
		}
		if fl.Path != "" || neutral(Entry{Neutral: fl.Neutral}, f.given[fl.Name].parsed) {
			continue
		}
		finding := Finding{"--" + fl.Name, f.given[fl.Name].text, fl.Note}
		switch fl.Support {
		case Missing:
			missing = append(missing, finding)
		case Refused:
			refused = append(refused, finding)
		}
	}
	return missing, refused, deprecated
}

// value implements pflag.Value for every Type.
type value struct {
	kind   Type
	text   string
	parsed any
}

func (v *value) String() string { return v.text }

func (v *value) Type() string {
	switch v.kind {
	case Map, MapLess, Bools, Headers:
		return "mapping"
	}
	return string(v.kind)
}

// IsBoolFlag lets --flag stand for --flag=true.
func (v *value) IsBoolFlag() bool { return v.kind == Bool }

func (v *value) Set(s string) error {
	p, err := v.parse(s)
	if err != nil {
		return err
	}
	// Lists and maps may be given in pieces.
	switch have := v.parsed.(type) {
	case []any:
		v.parsed, v.text = append(have, p.([]any)...), v.text+","+s
		return nil
	case map[string]any:
		maps.Copy(have, p.(map[string]any))
		v.text += "," + s
		return nil
	}
	v.parsed, v.text = p, s
	return nil
}

func (v *value) parse(s string) (any, error) {
	switch v.kind {
	case Bool:
		return strconv.ParseBool(s)
	case Int:
		i, err := strconv.ParseInt(s, 10, 64)
		return i, err
	case Float:
		return strconv.ParseFloat(s, 64)
	case Duration:
		if _, err := time.ParseDuration(s); err != nil {
			return nil, err
		}
		return s, nil
	case String:
		return s, nil
	case Strings, Ints:
		out := []any{}
		if strings.TrimSpace(s) == "" {
			return out, nil
		}
		parts, err := csv.NewReader(strings.NewReader(s)).Read()
		for _, p := range parts {
			if p = strings.TrimSpace(p); v.kind == Strings {
				out = append(out, p)
				continue
			}
			i, err := strconv.ParseInt(p, 10, 32)
			if err != nil {
				return nil, err
			}
			out = append(out, i)
		}
		return out, err
	}
	return v.mapping(s)
}

func (v *value) mapping(s string) (any, error) {
	sep := map[Type]string{Map: "=", MapLess: "<", Bools: "=", Headers: ":"}[v.kind]
	out := map[string]any{}
	for pair := range strings.SplitSeq(s, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, val, ok := strings.Cut(pair, sep)
		key, val = strings.TrimSpace(key), strings.TrimSpace(val)
		if !ok || key == "" {
			return nil, fmt.Errorf("malformed pair %q: write key%svalue", pair, sep)
		}
		switch v.kind {
		case Bools:
			b, err := strconv.ParseBool(val)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, errors.Unwrap(err))
			}
			out[key] = b
		case Headers:
			have, _ := out[key].([]any)
			out[key] = append(have, val)
		default:
			out[key] = val
		}
	}
	return out, nil
}
