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

// TestEmptyRequests: whatever parts a request lacks, each call of CRI answers what is missing, or does what it can. None ends
// the runtime, and none is an error that its caller cannot classify.
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
			for depth := range 5 {
				for _, values := range []map[protoreflect.Name]string{nil, values} {
					in := message(t, m.Input())
					fillIn(in.ProtoReflect(), depth, values)
					err := invoke(t, conn, m, in)
					calls++
					switch status.Code(err) {
					case codes.OK, codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.AlreadyExists, codes.Unimplemented:
					default:
						if m.Name() == "PullImage" && strings.Contains(err.Error(), "connection refused") {
							break // there is no such registry
						}
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
