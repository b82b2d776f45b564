package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/reevehq/reeve/tests/node"
)

func TestMain(m *testing.M) { node.Main(m) }

// Rounds of the interleaved comparisons. p99 of 60 is the worst but none: read it with the spread.
const (
	warmups = 5
	rounds  = 60
)

// quantile of a sorted list, nearest rank.
func quantile(d []time.Duration, q float64) time.Duration {
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

// report gives a list's median, 99th percentile and extremes in milliseconds.
func report(b *testing.B, name string, d []time.Duration) (median time.Duration) {
	slices.Sort(d)
	ms := func(x time.Duration) float64 { return float64(x.Microseconds()) / 1000 }
	b.ReportMetric(ms(quantile(d, 0.5)), name+"-p50-ms")
	b.ReportMetric(ms(quantile(d, 0.99)), name+"-p99-ms")
	b.Logf("%s: n=%d min %.0f p25 %.0f p50 %.0f p75 %.0f p99 %.0f max %.0f ms", name, len(d),
		ms(d[0]), ms(quantile(d, 0.25)), ms(quantile(d, 0.5)), ms(quantile(d, 0.75)), ms(quantile(d, 0.99)), ms(d[len(d)-1]))
	return quantile(d, 0.5)
}

// bed is a node with a client and one watch of all pods.
type bed struct {
	*node.Node
	client kubernetes.Interface
	events <-chan watch.Event
	n      int
}

func newBed(b *testing.B) *bed {
	b.Helper()
	n := node.New(b)
	n.Busybox()
	n.Start()
	cfg, err := clientcmd.BuildConfigFromFlags("", n.Kubeconfig())
	if err != nil {
		b.Fatal(err)
	}
	cfg.QPS, cfg.Burst = 1000, 1000
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		b.Fatal(err)
	}
	w, err := client.CoreV1().Pods("default").Watch(context.Background(), metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(w.Stop)
	node.Eventually(b, "the default service account", func() error {
		_, err := client.CoreV1().ServiceAccounts("default").Get(context.Background(), "default", metav1.GetOptions{})
		return err
	})
	return &bed{Node: n, client: client, events: w.ResultChan()}
}

// create posts a pod of one container with the service account's token mounted and no probes.
func (d *bed) create(b *testing.B) string {
	b.Helper()
	d.n++
	name := fmt.Sprintf("pod-%d", d.n)
	grace := int64(1)
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []v1.Container{{Name: "c", Image: "localhost/reeve-hello:v1", ImagePullPolicy: v1.PullNever}},
		},
	}
	if _, err := d.client.CoreV1().Pods("default").Create(context.Background(), pod, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	return name
}

func (d *bed) delete(b *testing.B, name string) {
	b.Helper()
	if err := d.client.CoreV1().Pods("default").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
}

// await returns when the watch has shown want true for each name.
func (d *bed) await(b *testing.B, names []string, want func(watch.Event, *v1.Pod) bool) {
	b.Helper()
	left := map[string]bool{}
	for _, n := range names {
		left[n] = true
	}
	deadline := time.After(node.WaitTimeout)
	for len(left) > 0 {
		select {
		case e, ok := <-d.events:
			if !ok {
				b.Fatal("the watch ended")
			}
			if p, isPod := e.Object.(*v1.Pod); isPod && left[p.Name] && want(e, p) {
				delete(left, p.Name)
			}
		case <-deadline:
			b.Fatalf("still waiting for %v", left)
		}
	}
}

func running(_ watch.Event, p *v1.Pod) bool { return p.Status.Phase == v1.PodRunning }
func gone(e watch.Event, _ *v1.Pod) bool    { return e.Type == watch.Deleted }

// BenchmarkPod measures create → Running and delete → gone, one by one, interleaved with the bare sequence, and then
// bursts of pods at once.
func BenchmarkPod(b *testing.B) {
	d := newBed(b)
	dir := filepath.Join(d.Dir, "bare")
	if err := os.Mkdir(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	ref := newBare(b, filepath.Join(d.DataDir(), "containerd", "containerd.sock"), "k8s.io", "localhost/reeve-pause:v1", "localhost/reeve-hello:v1",
		dir, node.CgroupRoot(filepath.Base(d.Dir))+"/bare")
	var bareTimes, createTimes, deleteTimes []time.Duration
	for i := range warmups + rounds {
		bareTime := ref.run(b)
		began := time.Now()
		name := d.create(b)
		d.await(b, []string{name}, running)
		created := time.Since(began)
		began = time.Now()
		d.delete(b, name)
		d.await(b, []string{name}, gone)
		deleted := time.Since(began)
		if i >= warmups {
			bareTimes, createTimes, deleteTimes = append(bareTimes, bareTime), append(createTimes, created), append(deleteTimes, deleted)
		}
	}
	unit := report(b, "bare", bareTimes)
	median := report(b, "create-running", createTimes)
	report(b, "delete-gone", deleteTimes)
	b.ReportMetric(float64(median)/float64(unit), "create-per-bare")

	for _, burst := range []int{30, 80} {
		began := time.Now()
		var names []string
		for range burst {
			names = append(names, d.create(b))
		}
		d.await(b, names, running)
		b.ReportMetric(time.Since(began).Seconds(), fmt.Sprintf("%d-at-once-s", burst))
		for _, name := range names {
			d.delete(b, name)
		}
		d.await(b, names, gone)
	}
}

// BenchmarkReady measures `reeve server` on an empty data-dir → READY=1, which it tells when the node is Ready.
func BenchmarkReady(b *testing.B) {
	var times []time.Duration
	for range 5 {
		n := node.New(b)
		began := time.Now()
		n.Start()
		times = append(times, time.Since(began))
		n.Close()
	}
	report(b, "empty-ready", times)
}

// BenchmarkRest measures memory after rest and CPU at rest, with 10 pods and with 110. REST (a duration, default 60s) is
// how long the node rests before memory is read, and over how long CPU is measured.
func BenchmarkRest(b *testing.B) {
	for _, pods := range []int{10, 110} {
		b.Run(fmt.Sprintf("pods=%d", pods), func(b *testing.B) { benchmarkRest(b, pods) })
	}
}

func benchmarkRest(b *testing.B, pods int) {
	rest := 60 * time.Second
	if s := os.Getenv("REST"); s != "" {
		var err error
		if rest, err = time.ParseDuration(s); err != nil {
			b.Fatal(err)
		}
	}
	d := newBed(b)
	var names []string
	for range pods {
		names = append(names, d.create(b))
	}
	d.await(b, names, running)
	time.Sleep(rest) // the measurement's own condition: rest
	roles := map[string]int{"supervisor": 0, "controlplane": 0, "agent": 0, "logpump": 0}
	for role, file := range map[string]string{"supervisor": "server", "controlplane": "controlplane", "agent": "agent"} {
		pid, err := d.PIDOf(file)
		if err != nil {
			b.Fatal(err)
		}
		roles[role] = pid
	}
	for role, call := range map[string]string{"logpump": "logpump --dir", "logpump-keeper": "logpump --keep"} {
		pids := node.Processes(call, d.DataDir())
		if len(pids) != 1 {
			b.Fatalf("%s processes: %v, want one", role, pids)
		}
		roles[role] = pids[0]
	}
	before := map[string]time.Duration{}
	for role, pid := range roles {
		m := status(b, pid)
		b.ReportMetric(float64(m["RssAnon"])/1024, role+"-private-MB")
		b.ReportMetric(float64(m["VmRSS"])/1024, role+"-rss-MB")
		before[role] = cpu(b, pid)
	}
	time.Sleep(rest)
	var all time.Duration
	for role, pid := range roles {
		used := cpu(b, pid) - before[role]
		b.ReportMetric(100*used.Seconds()/rest.Seconds(), role+"-idle-cpu-%")
		all += used
	}
	b.ReportMetric(100*all.Seconds()/rest.Seconds(), "all-idle-cpu-%")
}

// status reads the kB figures of /proc/<pid>/status (proc(5)).
func status(b *testing.B, pid int) map[string]int {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	out := map[string]int{}
	for line := range strings.Lines(string(text)) {
		key, rest, _ := strings.Cut(line, ":")
		var kb int
		if n, _ := fmt.Sscanf(strings.TrimSpace(rest), "%d kB", &kb); n == 1 {
			out[key] = kb
		}
	}
	return out
}

// cpu is the processor time that a process has used: fields 14 and 15 of /proc/<pid>/stat, in ticks of 10 ms.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var user, system int64
	if _, err := fmt.Sscan(f[11]+" "+f[12], &user, &system); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
