package agent

import (
	"context"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// runtimeClass makes a class with an overhead of 10 thousandths of a CPU and 8 Mi.
func (s *space) runtimeClass(name, handler string) {
	s.t.Helper()
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: handler, Overhead: &nodev1.Overhead{PodFixed: v1.ResourceList{
		v1.ResourceCPU: resource.MustParse("10m"), v1.ResourceMemory: resource.MustParse("8Mi")}}}
	if _, err := s.client.NodeV1().RuntimeClasses().Create(s.ctx(), class, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = s.client.NodeV1().RuntimeClasses().Delete(context.Background(), name, metav1.DeleteOptions{})
	})
}

func (s *space) deleteRuntimeClass(name string) {
	s.t.Helper()
	if err := s.client.NodeV1().RuntimeClasses().Delete(s.ctx(), name, metav1.DeleteOptions{}); err != nil {
		s.t.Fatal(err)
	}
}
