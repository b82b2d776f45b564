package scheme

import (
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func decodeInto(t *testing.T, query string, into runtime.Object) error {
	t.Helper()
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	return ParameterCodec.DecodeParameters(values, corev1.SchemeGroupVersion, into)
}

func TestQueryStringsBecomeOptions(t *testing.T) {
	var log corev1.PodLogOptions
	err := decodeInto(t, "container=c&follow=true&previous=false&tailLines=5&sinceTime=2026-01-02T03:04:05Z&timestamps=&limitBytes=0&other=x", &log)
	if err != nil {
		t.Fatal(err)
	}
	if log.Container != "c" || !log.Follow || log.Previous || *log.TailLines != 5 || !log.Timestamps || *log.LimitBytes != 0 ||
		!log.SinceTime.Time.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) || log.SinceSeconds != nil {
		t.Errorf("log options = %+v", log)
	}
	var exec corev1.PodExecOptions
	if err := decodeInto(t, "command=sh&command=-c&command=echo+a%26b&stdout=1&tty=0&stdin=true", &exec); err != nil {
		t.Fatal(err)
	}
	if strings.Join(exec.Command, "|") != "sh|-c|echo a&b" || !exec.Stdout || exec.TTY || !exec.Stdin {
		t.Errorf("exec options = %+v", exec)
	}
	var forward corev1.PodPortForwardOptions
	if err := decodeInto(t, "ports=80&ports=443,8080", &forward); err != nil {
		t.Fatal(err)
	}
	if len(forward.Ports) != 3 || forward.Ports[2] != 8080 {
		t.Errorf("port forward options = %+v", forward)
	}
	if err := decodeInto(t, "tailLines=many", &log); err == nil || !strings.Contains(err.Error(), "tailLines") {
		t.Errorf("bad number: %v, want an error that names tailLines", err)
	}
}
