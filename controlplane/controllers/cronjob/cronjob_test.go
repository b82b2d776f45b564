package cronjob

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func at(s string, loc *time.Location) time.Time {
	t, err := time.ParseInLocation("2006-01-02 15:04:05", s, loc)
	if err != nil {
		panic(err)
	}
	return t
}

func TestNext(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err) // the package carries the zones
	}
	for _, c := range []struct {
		expr, from, want string
		loc              *time.Location
	}{
		{"* * * * *", "2026-01-01 10:00:30", "2026-01-01 10:01:00", time.UTC},
		{"*/15 * * * *", "2026-01-01 10:46:00", "2026-01-01 11:00:00", time.UTC},
		{"0 9-17/4 * * mon-fri", "2026-01-02 17:30:00", "2026-01-05 09:00:00", time.UTC}, // Friday evening
		{"30 2 29 2 *", "2026-01-01 00:00:00", "2028-02-29 02:30:00", time.UTC},
		{"0 0 13 * fri", "2026-01-01 00:00:00", "2026-01-02 00:00:00", time.UTC}, // either day will do
		{"0 0 1,15 jan,jul ?", "2026-01-16 00:00:00", "2026-07-01 00:00:00", time.UTC},
		{"5/20 * * * *", "2026-01-01 10:05:00", "2026-01-01 10:25:00", time.UTC},
		{"@daily", "2026-01-01 10:00:00", "2026-01-02 00:00:00", time.UTC},
		{"@every 90s", "2026-01-01 10:00:00", "2026-01-01 10:01:30", time.UTC},
		{"30 2 * * *", "2026-03-28 12:00:00", "2026-03-30 02:30:00", berlin}, // the 29th has no 02:30
		{"0 4 * * *", "2026-10-24 12:00:00", "2026-10-25 04:00:00", berlin},
	} {
		s, err := parse(c.expr)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		if got := s.next(at(c.from, c.loc)); !got.Equal(at(c.want, c.loc)) {
			t.Errorf("%s after %s: %s, want %s", c.expr, c.from, got, c.want)
		}
	}
	if s, _ := parse("0 0 30 2 *"); !s.next(at("2026-01-01 00:00:00", time.UTC)).IsZero() {
		t.Error("the 30th of February came")
	}
}

func TestBadSchedulesNameTheField(t *testing.T) {
	for expr, part := range map[string]string{
		"* * * *": "has 4 fields", "60 * * * *": "minute", "* 24 * * *": "hour", "* * 0 * *": "day of month", "* * * foo *": "month",
		"* * * * 7-8": "day of week", "*/0 * * * *": "step", "5-1 * * * *": "ends before it begins", "@sometimes": "unknown macro", "@every 1": "duration",
	} {
		if _, err := parse(expr); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: error %v does not say %q", expr, err, part)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("*/5 1-3 * jan sun,mon")
	f.Add("@hourly")
	from := at("2026-01-01 00:00:00", time.UTC)
	f.Fuzz(func(t *testing.T, expr string) {
		s, err := parse(expr)
		if err != nil || s.every > 0 {
			return
		}
		n := s.next(from)
		if !n.IsZero() && (!n.After(from) || s.minute&(1<<n.Minute()) == 0 || s.hour&(1<<n.Hour()) == 0 || s.month&(1<<int(n.Month())) == 0 || !s.day(n)) {
			t.Errorf("%q: %s does not fit", expr, n)
		}
	})
}

func TestDue(t *testing.T) {
	s, _ := parse("0 * * * *")
	now := at("2026-01-01 10:30:00", time.UTC)
	cj := func(last string, deadline *int64) *batchv1.CronJob {
		c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(at("2026-01-01 07:30:00", time.UTC))}}
		c.Spec.StartingDeadlineSeconds = deadline
		if last != "" {
			c.Status.LastScheduleTime = ptr.To(metav1.NewTime(at(last, time.UTC)))
		}
		return c
	}
	for _, c := range []struct {
		name   string
		cj     *batchv1.CronJob
		missed int
		last   string
	}{
		{"never ran", cj("", nil), 3, "2026-01-01 10:00:00"},
		{"ran an hour ago", cj("2026-01-01 09:00:00", nil), 1, "2026-01-01 10:00:00"},
		{"up to date", cj("2026-01-01 10:00:00", nil), 0, ""},
		{"older ones are too late", cj("", ptr.To[int64](5460)), 2, "2026-01-01 10:00:00"},
		{"all are too late", cj("", ptr.To[int64](60)), 0, ""},
	} {
		last, missed, next := due(c.cj, s, now)
		if missed != c.missed || c.last != "" && !last.Equal(at(c.last, time.UTC)) || !next.Equal(at("2026-01-01 11:00:00", time.UTC)) {
			t.Errorf("%s: last %s, missed %d, next %s", c.name, last, missed, next)
		}
	}
	dense, _ := parse("* * * * *")
	old := cj("2020-01-01 00:00:00", nil)
	if last, missed, _ := due(old, dense, now); missed <= manyMissed || !last.Equal(now) {
		t.Errorf("after years of standstill: last %s, missed %d", last, missed)
	}
}
