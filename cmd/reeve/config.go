package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// loadConfigFile sets every flag that path names and the command line does not. The file is YAML or JSON, one key a
// flag (without the dashes), lists as lists. All errors are reported: unknown keys, values that do not parse.
func loadConfigFile(flags *pflag.FlagSet, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read --config: %w", err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(b, &values); err != nil {
		return fmt.Errorf("--config %q is not a YAML mapping of flag names to values: %w", path, err)
	}
	keys := make([]string, 0, len(values))
	for k := range values {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var all error
	for _, key := range keys {
		flag := flags.Lookup(key)
		if flag == nil || key == "config" || key == "help" {
			all = errors.Join(all, fmt.Errorf("--config %q: unknown key %q; keys are the names of this command's flags", path, key))
			continue
		}
		if flag.Changed {
			continue
		}
		text, err := flagText(values[key])
		if err == nil {
			err = flags.Set(key, text)
		}
		if err != nil {
			all = errors.Join(all, fmt.Errorf("--config %q: key %q: %w", path, key, err))
		}
	}
	return all
}

// flagText renders a YAML value the way that a flag is written on a command line.
func flagText(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", errors.New("has no value")
	case string:
		return v, nil
	case bool, int64, float64:
		return fmt.Sprint(v), nil
	case []any:
		parts := make([]string, 0, len(v))
		for _, e := range v {
			if _, nested := e.([]any); nested {
				return "", errors.New("is a list of lists")
			}
			s, err := flagText(e)
			if err != nil {
				return "", err
			}
			parts = append(parts, s)
		}
		return strings.Join(parts, ","), nil
	case map[string]any:
		parts := make([]string, 0, len(v))
		for k, e := range v {
			s, err := flagText(e)
			if err != nil {
				return "", err
			}
			parts = append(parts, k+"="+s)
		}
		slices.Sort(parts)
		return strings.Join(parts, ","), nil
	}
	return "", fmt.Errorf("has a value of unknown type %T", v)
}

// logOptions say how a process logs.
type logOptions struct {
	Level  string
	Format string
}

func (o *logOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.Level, "log-level", "info", "least severe level to log: debug, info, warn or error")
	f.StringVar(&o.Format, "log-format", "text", "text or json")
}

// logger makes the process's logger on standard error. Unknown levels and formats are errors.
func (o *logOptions) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.Level)); err != nil {
		return nil, fmt.Errorf("--log-level %q is unknown; use debug, info, warn or error", o.Level)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch o.Format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, opts)), nil
	}
	return nil, fmt.Errorf("--log-format %q is unknown; use text or json", o.Format)
}
