package foreign

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/reevehq/reeve/proxy/foreign/firewalld"
)

// askTimeout bounds what a firewalld that hangs may cost: the rules in others' tables are written by then.
const askTimeout = 30 * time.Second

// keepFirewalld asks a running firewalld for what it takes at run time. Rules in its table open the rest; where it keeps that
// locked, the trouble of it is told by what then does not pass.
func (k *Keeper) keepFirewalld(ctx context.Context, ports []uint16, troubles []Trouble) ([]string, []Trouble, error) {
	if k.firewalld == nil {
		return nil, troubles, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := k.firewalld.Keep(ctx, firewalld.Wants{Pods: k.cfg.Facts.ClusterCIDRs, Ports: ports})
	if !r.Running {
		return nil, troubles, err
	}
	return r.Changed, k.cfg.afterAsking(r, err, troubles), err
}

// afterAsking answers what is still in trouble when firewalld was asked.
func (c Config) afterAsking(r firewalld.Result, err error, troubles []Trouble) []Trouble {
	var out []Trouble
	for _, source := range slices.Sorted(maps.Keys(r.Taken)) {
		out = append(out, Trouble{Where: "firewalld", partly: fmt.Sprintf(
			"the pods' range %s is a source of the zone %s and was left there; what pods may send is this zone's to say", source, r.Taken[source])})
	}
	if r.Strict {
		out = append(out, Trouble{Where: "firewalld", partly: "StrictForwardPorts in firewalld.conf lets nothing pass that goes by a Service; set it to no and reload firewalld"})
	}
	for _, t := range troubles {
		switch {
		case !t.firewalld:
			out = append(out, t)
		case err != nil || len(c.Facts.ClusterCIDRs) == 0 || len(r.Taken) > 0:
			t.Err = errors.Join(t.Err, err)
			out = append(out, t)
		case c.ServiceLabel != 0:
			t.partly = fmt.Sprintf("pods may send, but what others send to Services or to pods is dropped (%v)", t.Err)
			out = append(out, t)
		case t.hook == forward && !r.ToPods:
			t.partly = fmt.Sprintf("pods may send, and Services are reached, but what others send to a pod itself is dropped (%v). A policy of firewalld's lets it pass: target ACCEPT, ingress zone ANY, egress zone trusted", t.Err)
			out = append(out, t)
		}
	}
	return out
}

func cleanFirewalld(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return firewalld.Cleanup(ctx)
}
