package proxy

import (
	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/proxy/conntrack"
	"github.com/reevehq/reeve/proxy/plan"
)

// forgetUntranslated deletes the conntrack entries of what was first sent to a Service while its rules were missing, so that
// the next packet of it is translated. In mode ipvs it is the kernel's IPVS that translates, which conntrack does not show.
func (l *loop) forgetUntranslated(i int, be backend) {
	l.missing[i] = false
	if l.cfg.Mode == ModeIPVS {
		return
	}
	var index conntrack.Index
	for _, p := range l.planned {
		index.AddServed(be.Family(), p)
	}
	l.clean(&index, be.Family())
}

// forgetFlows deletes the conntrack entries that the pending changes made stale. Failing is no reason to program again;
// the next change of the Service would try anew.
func (l *loop) forgetFlows() {
	for _, be := range l.backends {
		var index conntrack.Index
		stale := false
		for name, p := range l.pending {
			if index.Add(be.Family(), p.before, l.planned[name]) {
				stale = true
			}
		}
		if stale {
			l.clean(&index, be.Family())
		}
	}
}

func (l *loop) clean(index *conntrack.Index, family plan.Family) {
	n, err := index.Clean(family)
	l.metrics.flowsDeleted(family, n)
	if err != nil {
		l.cfg.Logger.Warn("Failed to forget stale flows", logkey.IPFamily, int(family), logkey.Err, err)
	}
}
