package server

import (
	"slices"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The streamed forms of the lists (KEP 5825), for nodes whose lists outgrow one message.

// inChunks sends items in messages of at most itemsAtOnce.
func inChunks[T any](items []T, err error, send func([]T) error) error {
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(items, itemsAtOnce) {
		if err := send(chunk); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) StreamPodSandboxes(q *runtimeapi.StreamPodSandboxesRequest, st grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	items, err := s.rt.ListPodSandbox(st.Context(), q.Filter)
	return inChunks(items, err, func(c []*runtimeapi.PodSandbox) error {
		return st.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: c})
	})
}

func (s *service) StreamContainers(q *runtimeapi.StreamContainersRequest, st grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	items, err := s.rt.ListContainers(st.Context(), q.Filter)
	return inChunks(items, err, func(c []*runtimeapi.Container) error {
		return st.Send(&runtimeapi.StreamContainersResponse{Containers: c})
	})
}

func (s *service) StreamContainerStats(q *runtimeapi.StreamContainerStatsRequest, st grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	items, err := s.rt.ListContainerStats(st.Context(), q.Filter)
	return inChunks(items, err, func(c []*runtimeapi.ContainerStats) error {
		return st.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: c})
	})
}

func (s *service) StreamPodSandboxStats(q *runtimeapi.StreamPodSandboxStatsRequest, st grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	items, err := s.rt.ListPodSandboxStats(st.Context(), q.Filter)
	return inChunks(items, err, func(c []*runtimeapi.PodSandboxStats) error {
		return st.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: c})
	})
}

func (s *service) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, st grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	items, err := s.rt.ListPodSandboxMetrics(st.Context())
	return inChunks(items, err, func(c []*runtimeapi.PodSandboxMetrics) error {
		return st.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: c})
	})
}

func (s *service) StreamImages(q *runtimeapi.StreamImagesRequest, st grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	items, err := s.rt.ListImages(st.Context(), q.Filter)
	return inChunks(items, err, func(c []*runtimeapi.Image) error {
		return st.Send(&runtimeapi.StreamImagesResponse{Images: c})
	})
}
