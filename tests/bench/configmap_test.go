package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/tests/node"
)

// BenchmarkConfigMap measures from the API's answer to a changed ConfigMap to the file that a pod sees, with 100 pods
// that all mount one ConfigMap and each one of its own.
func BenchmarkConfigMap(b *testing.B) {
	const pods, changes = 100, 10
	d := newBed(b)
	ctx := context.Background()
	maps := d.client.CoreV1().ConfigMaps("default")
	set := func(name, value string, create bool) {
		b.Helper()
		c := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"key": value}}
		var err error
		if create {
			_, err = maps.Create(ctx, c, metav1.CreateOptions{})
		} else {
			_, err = maps.Update(ctx, c, metav1.UpdateOptions{})
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	set("shared", "0", true)
	var names []string
	for i := range pods {
		name := fmt.Sprintf("reader-%d", i)
		set(name, "0", true)
		volume := func(of string) v1.Volume {
			return v1.Volume{Name: of, VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: of}}}}
		}
		grace := int64(1)
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{
			TerminationGracePeriodSeconds: &grace, Volumes: []v1.Volume{volume("shared"), volume(name)},
			Containers: []v1.Container{{Name: "c", Image: "localhost/reeve-hello:v1", ImagePullPolicy: v1.PullNever,
				VolumeMounts: []v1.VolumeMount{{Name: "shared", MountPath: "/shared"}, {Name: name, MountPath: "/own"}}}},
		}}
		if _, err := d.client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		names = append(names, name)
	}
	d.await(b, names, running)
	list, err := d.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	file := func(p *v1.Pod, volume string) string {
		return filepath.Join(d.Dir, "kubelet", "pods", string(p.UID), "volumes", "kubernetes.io~configmap", volume, "key")
	}
	// seen waits for the value in each file and adds how long after began that was, looking every millisecond.
	seen := func(times *[]time.Duration, began time.Time, value string, files map[string]bool) {
		b.Helper()
		for len(files) > 0 {
			for f := range files {
				if got, err := os.ReadFile(f); err == nil && string(got) == value {
					*times = append(*times, time.Since(began))
					delete(files, f)
				}
			}
			if time.Since(began) > node.WaitTimeout {
				b.Fatalf("%d files do not follow", len(files))
			}
			time.Sleep(time.Millisecond)
		}
	}
	var all, own []time.Duration
	for i := 1; i <= changes; i++ {
		value := fmt.Sprint(i)
		files := map[string]bool{}
		for k := range list.Items {
			files[file(&list.Items[k], "shared")] = true
		}
		set("shared", value, false)
		seen(&all, time.Now(), value, files)
	}
	for k := range list.Items {
		p := &list.Items[k]
		set(p.Name, "own", false)
		seen(&own, time.Now(), "own", map[string]bool{file(p, p.Name): true})
	}
	report(b, "shared-configmap", all)
	report(b, "own-configmap", own)
}
