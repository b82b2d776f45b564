package validation

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// cronField is one of the five fields of a schedule: minute, hour, day of month, month, day of week.
type cronField struct {
	name     string
	min, max int
	words    []string
}

var cronFields = []cronField{
	{name: "minute", min: 0, max: 59},
	{name: "hour", min: 0, max: 23},
	{name: "day of month", min: 1, max: 31},
	{name: "month", min: 1, max: 12, words: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{name: "day of week", min: 0, max: 6, words: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

var cronMacros = []string{"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}

// parseSchedule checks a cron expression: five fields, a macro, or "@every <duration>", after an optional zone.
func parseSchedule(text string) error {
	if strings.HasPrefix(text, "TZ=") || strings.HasPrefix(text, "CRON_TZ=") {
		_, rest, ok := strings.Cut(text, " ")
		if !ok {
			return errors.New("a time zone without a schedule")
		}
		text = strings.TrimSpace(rest)
	}
	if strings.HasPrefix(text, "@") {
		if every, ok := strings.CutPrefix(text, "@every "); ok {
			if _, err := time.ParseDuration(every); err != nil {
				return fmt.Errorf("failed to parse duration %s: %w", text, err)
			}
			return nil
		}
		if !slices.Contains(cronMacros, text) {
			return fmt.Errorf("unrecognized descriptor: %s", text)
		}
		return nil
	}
	parts := strings.Fields(text)
	if len(parts) != len(cronFields) {
		return fmt.Errorf("expected exactly %d fields, found %d: [%s]", len(cronFields), len(parts), text)
	}
	for i, part := range parts {
		for _, item := range strings.Split(part, ",") {
			if err := cronFields[i].check(item); err != nil {
				return err
			}
		}
	}
	return nil
}

// check checks one item of a list: "*", "?", "n", "n-m", each with an optional "/step".
func (f cronField) check(item string) error {
	span, step, hasStep := strings.Cut(item, "/")
	if hasStep {
		if n, err := strconv.Atoi(step); err != nil || n <= 0 {
			return fmt.Errorf("step of %s should be a positive number: %s", f.name, item)
		}
	}
	if span == "*" || span == "?" {
		return nil
	}
	from, to, hasEnd := strings.Cut(span, "-")
	first, err := f.number(from)
	if err != nil {
		return fmt.Errorf("%w: %s", err, item)
	}
	last := first
	if hasEnd {
		if last, err = f.number(to); err != nil {
			return fmt.Errorf("%w: %s", err, item)
		}
	}
	switch {
	case first < f.min:
		return fmt.Errorf("beginning of range (%d) below minimum (%d): %s", first, f.min, item)
	case last > f.max:
		return fmt.Errorf("end of range (%d) above maximum (%d): %s", last, f.max, item)
	case first > last:
		return fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", first, last, item)
	}
	return nil
}

func (f cronField) number(text string) (int, error) {
	if i := slices.Index(f.words, strings.ToLower(text)); i >= 0 {
		return f.min + i, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("failed to parse %s", f.name)
	}
	return n, nil
}

// domainPath checks "domain/path".
func domainPath(p *field.Path, value string) field.ErrorList {
	return validation.IsDomainPrefixedPath(p, value)
}
