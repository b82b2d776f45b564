package nftables

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/reevehq/reeve/proxy/plan"
)

// reading notes which maps and sets are listed.
type reading struct {
	fakeTable
	read []string
}

func (r *reading) ReadElements(ctx context.Context, name string) (map[string]content, error) {
	r.read = append(r.read, name)
	return r.fakeTable.ReadElements(ctx, name)
}

// What others did to some elements is mended by looking at their maps only, flushed rules without looking at any, and a
// table that is gone as a whole.
func TestHealingLooksOnlyWhereDamageIs(t *testing.T) {
	k := &reading{fakeTable: newFake(plan.IPv4)}
	b := New(testConfig(plan.IPv4), k)
	all := map[plan.Name]*plan.Planned{}
	for i := range 50 {
		name, p := synthetic(i, 1+i%3, 0)
		all[name] = p
	}
	if err := b.Apply(t.Context(), all, true); err != nil {
		t.Fatal(err)
	}
	want := canonical(k.fakeTable)
	for _, c := range []struct {
		what, mended string
		damage       func()
		read         []string
	}{
		{"nothing", "", func() {}, nil},
		{"elements removed and added", "elements of service-ips", func() {
			at := slot{serviceIPs, "10.96.0.7 . tcp . 80"}
			has, _ := k.fakeTable.ReadElements(t.Context(), serviceIPs)
			if err := k.WriteElements(t.Context(), map[slot]content{at: has[at.key]}, map[slot]content{{serviceIPs, "10.9.9.9 . tcp . 80"}: {value: "drop"}}); err != nil {
				t.Fatal(err)
			}
			b.damage.note(serviceIPs, false, false)
		}, []string{serviceIPs}},
		{"a chain flushed", "rules", func() { k.Table.Chains[servicesChain].Rules = nil; b.damage.note("", true, false) }, nil},
		{"the table removed", "everything", func() { k.Table = nil; b.damage.note("", true, false) }, nil},
	} {
		k.read = nil
		c.damage()
		mended, err := b.Heal(t.Context())
		if err != nil || mended != c.mended {
			t.Errorf("%s: mended %q, %v; want %q", c.what, mended, err, c.mended)
		}
		if !slices.Equal(k.read, c.read) {
			t.Errorf("%s: listed %v, want %v", c.what, k.read, c.read)
		}
		if diff := cmp.Diff(want, canonical(k.fakeTable)); diff != "" {
			t.Errorf("%s: (- before, + healed)\n%s", c.what, diff)
		}
	}
}
