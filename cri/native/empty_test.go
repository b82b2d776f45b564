package native

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// answers are a call's codes when its request names nothing, and when it names what there is, with the messages in it down to
// one depth after the other: the last code goes for those beyond.
type answers struct {
	bare  codes.Code
	named []codes.Code
}

var (
	alwaysOK   = answers{codes.OK, []codes.Code{codes.OK}}
	needsID    = answers{codes.InvalidArgument, []codes.Code{codes.OK}}
	refused    = answers{codes.InvalidArgument, []codes.Code{codes.InvalidArgument}}
	needsImage = answers{codes.InvalidArgument, []codes.Code{codes.InvalidArgument, codes.OK}}
)

// emptyAnswers has each call of CRI.
var emptyAnswers = map[protoreflect.Name]answers{
	"Version": alwaysOK, "Status": alwaysOK, "RuntimeConfig": alwaysOK, "UpdateRuntimeConfig": alwaysOK, "ImageFsInfo": alwaysOK,
	"ListPodSandbox": alwaysOK, "ListContainers": alwaysOK, "ListImages": alwaysOK, "ListContainerStats": alwaysOK, "ListPodSandboxStats": alwaysOK,
	"ListPodSandboxMetrics": alwaysOK, "ListMetricDescriptors": alwaysOK, "GetContainerEvents": alwaysOK,
	"StreamPodSandboxes": alwaysOK, "StreamContainers": alwaysOK, "StreamImages": alwaysOK, "StreamContainerStats": alwaysOK,
	"StreamPodSandboxStats": alwaysOK, "StreamPodSandboxMetrics": alwaysOK,

	"PodSandboxStatus": needsID, "PodSandboxStats": needsID, "UpdatePodSandboxResources": needsID, "PortForward": needsID,
	"ContainerStatus": needsID, "ContainerStats": needsID, "UpdateContainerResources": needsID, "ReopenContainerLog": needsID,
	// What is gone already is stopped and removed.
	"StopPodSandbox": needsID, "RemovePodSandbox": needsID, "StopContainer": needsID, "RemoveContainer": needsID,
	// A name is all that a sandbox needs, once.
	"RunPodSandbox":   {codes.InvalidArgument, []codes.Code{codes.InvalidArgument, codes.InvalidArgument, codes.OK, codes.AlreadyExists}},
	"CreateContainer": refused,                                                         // no metadata, then a variable without a name
	"StartContainer":  {codes.InvalidArgument, []codes.Code{codes.FailedPrecondition}}, // it runs already
	"ExecSync":        refused, "Exec": refused, "Attach": refused,                     // no command, no stream
	"CheckpointContainer": {codes.Unimplemented, []codes.Code{codes.Unimplemented}}, // docs/SCOPE.md

	"ImageStatus": needsImage, "RemoveImage": needsImage,
	"PullImage": {codes.InvalidArgument, []codes.Code{codes.InvalidArgument, codes.Unknown}}, // there is no such registry
}

// TestEmptyRequests: whatever parts a request lacks, each call of CRI answers what is missing, or does what it can, with the
// code of emptyAnswers. None ends the runtime.
func TestEmptyRequests(t *testing.T) {
	g := newRig(t)
	sb := g.sandbox("web")
	id := g.run(sb, containerConfig("c", nil, "sleep", "1000"))
	conn, err := grpc.NewClient(g.serve(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	// What would take away what the next calls are about comes with an unknown ID.
	names := map[protoreflect.Name]string{"pod_sandbox_id": sb, "container_id": id, "name": "x", "namespace": "x", "uid": "x", "image": "localhost/none:v1"}
	other := map[protoreflect.Name]string{"pod_sandbox_id": "none", "container_id": "none", "image": "localhost/none:v1"}
	calls := 0
	for _, service := range []protoreflect.FullName{"runtime.v1.RuntimeService", "runtime.v1.ImageService"} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(service)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			values := names
			switch m.Name() {
			case "StopPodSandbox", "RemovePodSandbox", "StopContainer", "RemoveContainer":
				values = other
			}
			want, known := emptyAnswers[m.Name()]
			if !known {
				t.Errorf("%s: say in emptyAnswers what it answers", m.Name())
				continue
			}
			for depth := range 5 {
				for _, values := range []map[protoreflect.Name]string{nil, values} {
					in := message(t, m.Input())
					fillIn(in.ProtoReflect(), depth, values)
					err := invoke(t, conn, m, in)
					calls++
					code := want.bare
					if values != nil {
						code = want.named[min(depth, len(want.named)-1)]
					}
					if status.Code(err) != code {
						t.Errorf("%s(%v): %v, want %s", m.Name(), in, err, code)
					}
					if err != nil && strings.Count(err.Error(), "rpc error") > 1 {
						t.Errorf("%s(%v): a status within a status: %v", m.Name(), in, err)
					}
					if code == codes.Unknown && !strings.Contains(err.Error(), "connection refused") {
						t.Errorf("%s(%v): %v", m.Name(), in, err)
					}
				}
			}
		}
	}
	t.Logf("%d calls", calls)
	if st := g.status(id); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container: %v", st)
	}
	list, err := g.ListPodSandbox(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if err := g.RemovePodSandbox(t.Context(), s.Id); err != nil {
			t.Error(err)
		}
	}
	g.empty()
}

// message is an empty one of that kind.
func message(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

// fillIn makes the messages in m, down to depth, and one element of each list of them; values are those of the strings that
// have such a name.
func fillIn(m protoreflect.Message, depth int, values map[protoreflect.Name]string) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.Kind() == protoreflect.StringKind && !f.IsList() && values[f.Name()] != "":
			m.Set(f, protoreflect.ValueOfString(values[f.Name()]))
		case f.Kind() != protoreflect.MessageKind || f.IsMap() || depth == 0:
		case f.IsList():
			fillIn(m.Mutable(f).List().AppendMutable().Message(), depth-1, values)
		default:
			fillIn(m.Mutable(f).Message(), depth-1, values)
		}
	}
}

// invoke calls a method and takes all answers of a stream.
func invoke(t *testing.T, conn *grpc.ClientConn, m protoreflect.MethodDescriptor, in proto.Message) error {
	t.Helper()
	path := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := message(t, m.Output())
	if !m.IsStreamingServer() {
		return conn.Invoke(ctx, path, in, out)
	}
	if m.Name() == "GetContainerEvents" { // which has nothing to say now
		return nil
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
	if err == nil {
		err = s.SendMsg(in)
	}
	if err == nil {
		err = s.CloseSend()
	}
	for err == nil {
		err = s.RecvMsg(out)
	}
	if err == errEOF {
		return nil
	}
	return err
}
