package agent

import (
	"context"
	"io"
	"os"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/reevehq/reeve/internal/testenv"
)

// logs returns what the container wrote.
func (s *space) logs(name, container string, change ...func(*v1.PodLogOptions)) string {
	s.t.Helper()
	o := &v1.PodLogOptions{Container: container}
	for _, f := range change {
		f(o)
	}
	b, err := s.pods().GetLogs(name, o).DoRaw(s.ctx())
	if err != nil {
		s.t.Fatalf("read log of %s/%s: %v", name, container, err)
	}
	return string(b)
}

// exec runs a command in a container and returns what it printed, both streams.
func (s *space) exec(name, container string, cmd ...string) (string, error) {
	var out testenv.Buffer
	err := s.stream(name, container, nil, &out, &out, cmd...)
	return out.String(), err
}

func (s *space) stream(name, container string, in io.Reader, out, errs io.Writer, cmd ...string) error {
	req := s.client.CoreV1().RESTClient().Post().Namespace(s.ns).Resource("pods").Name(name).SubResource("exec").
		VersionedParams(&v1.PodExecOptions{Container: container, Command: cmd, Stdin: in != nil, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	e, err := remotecommand.NewWebSocketExecutor(s.config, "GET", req.URL().String())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	return e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: errs})
}

// read returns a file of /story; missing is empty.
func (s *space) read(file string) string {
	b, err := os.ReadFile(s.path(file))
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	return string(b)
}

// write makes a file of /story.
func (s *space) write(file, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(file), []byte(text), 0o666); err != nil {
		s.t.Fatal(err)
	}
}

// remove removes a file of /story.
func (s *space) remove(file string) {
	s.t.Helper()
	if err := os.Remove(s.path(file)); err != nil {
		s.t.Fatal(err)
	}
}
