package cronjob

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// schedule is a cron expression of five fields: bits of minutes, hours, days of month, months and days of week (0 is Sunday).
type schedule struct {
	minute, hour, dom, month, dow uint64
	anyDom, anyDow                bool // given as "*" or "?": then only the other day field counts
	every                         time.Duration
}

type field struct {
	name  string
	lo    int
	hi    int
	names map[string]int
}

var (
	months = map[string]int{"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12}
	days   = map[string]int{"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
	fields = []field{{"minute", 0, 59, nil}, {"hour", 0, 23, nil}, {"day of month", 1, 31, nil}, {"month", 1, 12, months}, {"day of week", 0, 6, days}}
	macros = map[string]string{
		"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
		"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
	}
)

// parse reads a cron expression. The error names the field and what is wrong with it.
func parse(s string) (*schedule, error) {
	s = strings.TrimSpace(s)
	if every, ok := strings.CutPrefix(s, "@every "); ok {
		d, err := time.ParseDuration(every)
		if err != nil || d < time.Second {
			return nil, fmt.Errorf("schedule %q: give a duration of a second or more after @every", s)
		}
		return &schedule{every: d.Truncate(time.Second)}, nil
	}
	if strings.HasPrefix(s, "@") {
		m, ok := macros[strings.ToLower(s)]
		if !ok {
			return nil, fmt.Errorf("schedule %q: unknown macro", s)
		}
		s = m
	}
	parts := strings.Fields(s)
	if len(parts) != len(fields) {
		return nil, fmt.Errorf("schedule %q: has %d fields, wants %d (minute hour day-of-month month day-of-week)", s, len(parts), len(fields))
	}
	var set [5]uint64
	for i, f := range fields {
		var err error
		if set[i], err = f.parse(parts[i]); err != nil {
			return nil, fmt.Errorf("schedule %q: %s: %w", s, f.name, err)
		}
	}
	wild := func(p string) bool { return strings.HasPrefix(p, "*") || strings.HasPrefix(p, "?") }
	return &schedule{minute: set[0], hour: set[1], dom: set[2], month: set[3], dow: set[4], anyDom: wild(parts[2]), anyDow: wild(parts[4])}, nil
}

func (f field) parse(s string) (set uint64, err error) {
	for _, part := range strings.Split(s, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		step := 1
		if stepped {
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 {
				return 0, fmt.Errorf("step %q is not a number above zero", stepText)
			}
		}
		lo, hi := f.lo, f.hi
		if span != "*" && span != "?" {
			a, b, ranged := strings.Cut(span, "-")
			if lo, err = f.value(a); err != nil {
				return 0, err
			}
			switch {
			case ranged:
				if hi, err = f.value(b); err != nil {
					return 0, err
				}
			case !stepped:
				hi = lo
			}
			if lo > hi {
				return 0, fmt.Errorf("range %q ends before it begins", span)
			}
		}
		for v := lo; v <= hi; v += step {
			set |= 1 << v
		}
	}
	return set, nil
}

func (f field) value(s string) (int, error) {
	if v, ok := f.names[strings.ToLower(s)]; ok {
		return v, nil
	}
	v, err := strconv.Atoi(s)
	if err != nil || v < f.lo || v > f.hi {
		return 0, fmt.Errorf("%q is not within %d–%d", s, f.lo, f.hi)
	}
	return v, nil
}

func (s *schedule) day(t time.Time) bool {
	dom, dow := s.dom&(1<<t.Day()) != 0, s.dow&(1<<int(t.Weekday())) != 0
	if s.anyDom || s.anyDow {
		return dom && dow
	}
	return dom || dow // both given: either will do
}

// next is the first time after t, in t's location; zero if there is none within five years. A time that the clock skips in
// spring does not come that day; one that it repeats in autumn comes once.
func (s *schedule) next(t time.Time) time.Time {
	if s.every > 0 {
		return t.Add(s.every - time.Duration(t.Nanosecond()))
	}
	loc := t.Location()
	after := t
	t = t.Truncate(time.Minute).Add(time.Minute)
	limit := t.AddDate(5, 0, 0)
	for t.Before(limit) {
		switch {
		case s.month&(1<<int(t.Month())) == 0:
			t = time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, loc)
		case !s.day(t):
			t = time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, loc)
		case s.hour&(1<<t.Hour()) == 0:
			n := t.Add(time.Hour - time.Duration(t.Minute())*time.Minute)
			t = n
		case s.minute&(1<<t.Minute()) == 0:
			rest := s.minute >> (t.Minute() + 1)
			if rest == 0 {
				t = t.Add(time.Duration(60-t.Minute()) * time.Minute)
				continue
			}
			t = t.Add(time.Duration(bits.TrailingZeros64(rest)+1) * time.Minute)
		default:
			if t.After(after) {
				return t
			}
			t = t.Add(time.Minute)
		}
	}
	return time.Time{}
}
