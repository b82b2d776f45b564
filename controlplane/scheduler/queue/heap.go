package queue

import (
	"container/heap"

	"k8s.io/apimachinery/pkg/types"
)

// podHeap is a priority queue of pods by UID, ordered by less.
type podHeap struct {
	items []*Pod
	index map[types.UID]int
	less  func(a, b *Pod) bool
}

func newHeap(less func(a, b *Pod) bool) *podHeap {
	return &podHeap{index: map[types.UID]int{}, less: less}
}

func (h *podHeap) Len() int           { return len(h.items) }
func (h *podHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *podHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.index[h.items[i].uid()], h.index[h.items[j].uid()] = i, j
}
func (h *podHeap) Push(x any) {
	p := x.(*Pod)
	h.index[p.uid()] = len(h.items)
	h.items = append(h.items, p)
}
func (h *podHeap) Pop() any {
	last := len(h.items) - 1
	p := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	delete(h.index, p.uid())
	return p
}

func (h *podHeap) get(uid types.UID) *Pod {
	if i, ok := h.index[uid]; ok {
		return h.items[i]
	}
	return nil
}

func (h *podHeap) put(p *Pod) {
	if i, ok := h.index[p.uid()]; ok {
		h.items[i] = p
		heap.Fix(h, i)
		return
	}
	heap.Push(h, p)
}

func (h *podHeap) delete(uid types.UID) *Pod {
	if i, ok := h.index[uid]; ok {
		return heap.Remove(h, i).(*Pod)
	}
	return nil
}

func (h *podHeap) peek() *Pod {
	if len(h.items) == 0 {
		return nil
	}
	return h.items[0]
}

func (h *podHeap) pop() *Pod { return heap.Pop(h).(*Pod) }
