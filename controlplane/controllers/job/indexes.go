package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
)

// indexes is a sorted set of completion indexes. Its text form is that of status.completedIndexes: "1,3-5,7".
type indexes []int

func parseIndexes(s string, completions int) (out indexes) {
	for _, part := range strings.Split(s, ",") {
		if part == "" {
			continue
		}
		lo, hi, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(lo)
		if err != nil {
			continue
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(hi); err != nil {
				continue
			}
		}
		for i := a; i <= b && i < completions; i++ {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (x indexes) String() string {
	var parts []string
	for i := 0; i < len(x); {
		j := i
		for j+1 < len(x) && x[j+1] == x[j]+1 {
			j++
		}
		switch {
		case j == i:
			parts = append(parts, strconv.Itoa(x[i]))
		case j == i+1: // two in a row are listed, as upstream does
			parts = append(parts, strconv.Itoa(x[i]), strconv.Itoa(x[j]))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", x[i], x[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}

func (x indexes) has(i int) bool {
	_, ok := slices.BinarySearch(x, i)
	return ok
}

func (x indexes) with(i int) indexes {
	at, ok := slices.BinarySearch(x, i)
	if ok {
		return x
	}
	return slices.Insert(slices.Clone(x), at, i)
}

// indexOf is the pod's completion index, or -1.
func indexOf(p *v1.Pod) int {
	n, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || n < 0 {
		return -1
	}
	return n
}

func failuresOf(p *v1.Pod) int32 {
	n, err := strconv.ParseInt(p.Annotations[batchv1.JobIndexFailureCountAnnotation], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

func indexed(j *batchv1.Job) bool {
	return j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
}
