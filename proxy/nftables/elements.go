package nftables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/nfnl"
)

// listMax bounds the elements' bytes in one message: an attribute's length has 16 bits.
const listMax = 60 << 10

// WriteElements removes and adds elements, in that order, in one transaction. The content of what is removed does not
// matter.
func (t *Table) WriteElements(_ context.Context, remove, add map[slot]content) error {
	batch, begin := message(nil, unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	batch = endMessage(batch, begin)
	batch, err := t.appendLists(batch, unix.NFT_MSG_DELSETELEM, unix.NLM_F_REQUEST, remove)
	if err == nil {
		batch, err = t.appendLists(batch, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_REQUEST|unix.NLM_F_CREATE, add)
	}
	if err != nil {
		return fmt.Errorf("encode elements of table %q: %w", t.cfg.Table, err)
	}
	batch, last := message(batch, unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	if err := t.socket.transact(endMessage(batch, last)); err != nil {
		return fmt.Errorf("write elements of table %q: %w", t.cfg.Table, err)
	}
	return nil
}

// appendLists appends messages with the elements, set by set.
func (t *Table) appendLists(batch []byte, kind, flags uint16, elements map[slot]content) ([]byte, error) {
	bySet := map[string][]slot{}
	for at := range elements {
		bySet[at.in] = append(bySet[at.in], at)
	}
	names := make([]string, 0, len(bySet))
	for name := range bySet {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for at := bySet[name]; len(at) > 0; {
			var begin, list int
			batch, begin = message(batch, nfnl.Type(kind), flags, netfilterFamily(t.cfg.Family), 0)
			batch = text(batch, unix.NFTA_SET_ELEM_LIST_TABLE, t.cfg.Table)
			batch = text(batch, unix.NFTA_SET_ELEM_LIST_SET, name)
			batch, list = nest(batch, unix.NFTA_SET_ELEM_LIST_ELEMENTS)
			for len(at) > 0 && len(batch)-list < listMax {
				c := elements[at[0]]
				if kind == unix.NFT_MSG_DELSETELEM {
					c = content{}
				}
				var err error
				if batch, err = appendElement(batch, at[0], c, t.cfg.Family); err != nil {
					return nil, err
				}
				at = at[1:]
			}
			batch = endMessage(endNest(batch, list), begin)
		}
	}
	return batch, nil
}

// dumpAttempts bounds the tries to list what others change meanwhile.
const dumpAttempts = 5

// ReadElements lists a map or set.
func (t *Table) ReadElements(ctx context.Context, name string) (map[string]content, error) {
	request, begin := message(nil, nfnl.Type(unix.NFT_MSG_GETSETELEM), unix.NLM_F_REQUEST|unix.NLM_F_DUMP, netfilterFamily(t.cfg.Family), 0)
	request = text(request, unix.NFTA_SET_ELEM_LIST_TABLE, t.cfg.Table)
	request = endMessage(text(request, unix.NFTA_SET_ELEM_LIST_SET, name), begin)
	var out map[string]content
	err := t.retry(ctx, func() error {
		out = map[string]content{}
		return t.socket.dump(slices.Clone(request), func(body []byte) error {
			for kind, list := range nfnl.Attributes(body) {
				if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
					continue
				}
				for _, item := range nfnl.Attributes(list) {
					key, c, err := readElement(name, t.cfg.Family, item)
					if err != nil {
						return err
					}
					out[key] = c
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list elements of %q in table %q: %w", name, t.cfg.Table, err)
	}
	return out, nil
}

// retry repeats a listing that met a change.
func (t *Table) retry(ctx context.Context, list func() error) error {
	var err error
	for range dumpAttempts {
		if err = list(); !errors.Is(err, errInterrupted) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// objects are a table's chains, maps and sets.
type objects struct {
	chains     map[string]bool
	maps, sets map[string]bool
}

func (o objects) none() bool { return len(o.chains)+len(o.maps)+len(o.sets) == 0 }

// ReadObjects lists the table's chains, maps and sets. No table is no error.
func (t *Table) ReadObjects(ctx context.Context) (objects, error) {
	out := objects{}
	err := t.retry(ctx, func() error {
		out = objects{map[string]bool{}, map[string]bool{}, map[string]bool{}}
		for _, q := range []struct{ get, table, name uint16 }{
			{unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME},
			{unix.NFT_MSG_GETSET, unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME},
		} {
			request, begin := message(nil, nfnl.Type(q.get), unix.NLM_F_REQUEST|unix.NLM_F_DUMP, netfilterFamily(t.cfg.Family), 0)
			if q.get == unix.NFT_MSG_GETSET {
				request = text(request, q.table, t.cfg.Table)
			}
			err := t.socket.dump(endMessage(request, begin), func(body []byte) error {
				var table, name string
				flags := uint32(0)
				for kind, data := range nfnl.Attributes(body) {
					switch {
					case kind == q.table:
						table = nfnl.String(data)
					case kind == q.name:
						name = nfnl.String(data)
					case kind == unix.NFTA_SET_FLAGS && q.get == unix.NFT_MSG_GETSET && len(data) >= 4:
						flags = uint32(data[0])<<24 | uint32(data[1])<<16 | uint32(data[2])<<8 | uint32(data[3])
					}
				}
				switch {
				case table != t.cfg.Table:
				case q.get == unix.NFT_MSG_GETCHAIN:
					out.chains[name] = true
				case flags&unix.NFT_SET_ANONYMOUS != 0:
				case flags&unix.NFT_SET_MAP != 0:
					out.maps[name] = true
				default:
					out.sets[name] = true
				}
				return nil
			})
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return objects{}, fmt.Errorf("list the objects of table %q: %w", t.cfg.Table, err)
	}
	return out, nil
}
