package table

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/controlplane/apis"
)

func TestEveryKindFillsItsColumns(t *testing.T) {
	for _, kind := range apis.Kinds() {
		table, err := For(kind).ConvertToTable(context.Background(), kind.New(), nil)
		if err != nil {
			t.Errorf("%s: %v", kind.GroupResource(), err)
			continue
		}
		if len(table.Rows) != 1 || len(table.Rows[0].Cells) != len(table.ColumnDefinitions) {
			t.Errorf("%s: %d cells for %d columns", kind.GroupResource(), len(table.Rows[0].Cells), len(table.ColumnDefinitions))
		}
		for i, column := range table.ColumnDefinitions {
			switch cell := table.Rows[0].Cells[i].(type) {
			case string, bool:
			case int64:
				if column.Type != "integer" {
					t.Errorf("%s: column %s is a number and not said to be one", kind.GroupResource(), column.Name)
				}
			default:
				t.Errorf("%s: column %s holds a %T, which does not survive a copy", kind.GroupResource(), column.Name, cell)
			}
		}
		empty, err := For(kind).ConvertToTable(context.Background(), kind.NewList(), nil)
		if err != nil || len(empty.Rows) != 0 || len(empty.ColumnDefinitions) == 0 {
			t.Errorf("%s: empty list gives %v, %v", kind.GroupResource(), empty, err)
		}
	}
	for name := range printers {
		found := false
		for _, kind := range apis.Kinds() {
			found = found || kind.GroupResource().String() == name
		}
		if !found {
			t.Errorf("printer of %q: no such kind", name)
		}
	}
}

func TestPodStatusSaysWhyItDoesNotRun(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	yes := true
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
	}
	exited := func(code int32, reason string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason}}
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	deleted := metav1.Now()
	for _, test := range []struct {
		name string
		pod  corev1.Pod
		want string
	}{
		{"new", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}}, "0/1 Pending 0"},
		{"pulling", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{
			{State: waiting("ImagePullBackOff")}}}}, "0/1 ImagePullBackOff 0"},
		{"running", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{State: running, Ready: true, RestartCount: 2}}}}, "1/1 Running 2"},
		{"crashed", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{State: exited(1, "Error")}}}}, "0/1 Error 0"},
		{"killed without a reason", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{
			{State: exited(137, "")}}}}, "0/1 ExitCode:137 0"},
		{"done", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded, ContainerStatuses: []corev1.ContainerStatus{
			{State: exited(0, "Completed")}}}}, "0/1 Completed 0"},
		{"evicted", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"}}, "0/1 Evicted 0"},
		{"terminating", corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &deleted}, Status: corev1.PodStatus{
			Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{State: running, Ready: true}}}}, "1/1 Terminating 0"},
		{"init running", corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "i"}, {Name: "j"}}}, Status: corev1.PodStatus{
			Phase: corev1.PodPending, InitContainerStatuses: []corev1.ContainerStatus{{Name: "i", State: exited(0, "")}, {Name: "j", State: running}}}},
			"0/1 Init:1/2 0"},
		{"init failed", corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "i"}}}, Status: corev1.PodStatus{
			Phase: corev1.PodPending, InitContainerStatuses: []corev1.ContainerStatus{{Name: "i", State: exited(1, "Error"), RestartCount: 3}}}},
			"0/1 Init:Error 3"},
		{"sidecar", corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "s", RestartPolicy: &always}}}, Status: corev1.PodStatus{
			Phase: corev1.PodRunning, InitContainerStatuses: []corev1.ContainerStatus{{Name: "s", State: running, Started: &yes, Ready: true, RestartCount: 1}},
			ContainerStatuses: []corev1.ContainerStatus{{State: running, Ready: true}}}}, "2/2 Running 1"},
		{"gated", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated}}}}, "0/1 SchedulingGated 0"},
	} {
		test.pod.Spec.Containers = []corev1.Container{{Name: "c"}}
		cells := podCells(&test.pod, time.Now())
		if got := fmt.Sprint(cells[0], " ", cells[1], " ", cells[2]); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
