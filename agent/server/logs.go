package server

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/reevehq/reeve/agent/server/logread"
)

func (a *api) containerLogs(w http.ResponseWriter, r *http.Request) {
	opts, previous, err := logOptions(r.URL.Query(), time.Now())
	if err != nil {
		writeError(w, err)
		return
	}
	pod, cs, err := a.target(r)
	if err != nil {
		writeError(w, err)
		return
	}
	id, err := logContainer(pod, cs, previous)
	if err != nil {
		writeError(w, err)
		return
	}
	st, err := a.cfg.Runtime.ContainerStatus(r.Context(), id, false)
	if err != nil {
		writeError(w, fromRuntime(err))
		return
	}
	path := st.GetStatus().GetLogPath()
	if path == "" {
		writeError(w, apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q has no log file", cs.Name, pod.Name)))
		return
	}
	var exited <-chan struct{}
	if opts.Follow && !previous {
		exited = a.cfg.Pods.Exited(id)
	} else {
		opts.Follow = false
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	out := &flusher{w: w}
	if opts.Follow {
		w.WriteHeader(http.StatusOK)
		out.Flush()
	}
	if err := logread.Read(r.Context(), path, opts, exited, out); err != nil && r.Context().Err() == nil {
		if !out.wrote && !opts.Follow {
			writeError(w, err)
			return
		}
		// The answer has begun; all that is left is to end it where the client sees that it is not complete.
		panic(http.ErrAbortHandler)
	}
}

// logContainer says which container instance's log is asked for, in the words that users of kubectl know when there is
// none.
func logContainer(pod *corev1.Pod, cs *corev1.ContainerStatus, previous bool) (string, error) {
	last := cs.LastTerminationState.Terminated
	if previous {
		if last == nil || bareID(last.ContainerID) == "" {
			return "", apierrors.NewBadRequest(fmt.Sprintf("previous terminated container %q in pod %q not found", cs.Name, pod.Name))
		}
		return bareID(last.ContainerID), nil
	}
	switch {
	case cs.State.Running != nil:
		return bareID(cs.ContainerID), nil
	case cs.State.Terminated != nil:
		if id := bareID(cs.State.Terminated.ContainerID); id != "" {
			return id, nil
		}
		if last != nil && bareID(last.ContainerID) != "" {
			return bareID(last.ContainerID), nil
		}
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is terminated", cs.Name, pod.Name))
	case last != nil && bareID(last.ContainerID) != "":
		return bareID(last.ContainerID), nil // waiting to be started again
	}
	w := cs.State.Waiting
	switch {
	case w == nil:
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is not available", cs.Name, pod.Name))
	case w.Reason == "ErrImagePull":
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: image can't be pulled", cs.Name, pod.Name))
	case w.Reason == "ImagePullBackOff":
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: trying and failing to pull image", cs.Name, pod.Name))
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: %s", cs.Name, pod.Name, w.Reason))
}

// logOptions reads PodLogOptions from a query. Every wrong parameter is a 400 that names it.
func logOptions(q url.Values, now time.Time) (o logread.Options, previous bool, err error) {
	bad := func(format string, args ...any) error { return apierrors.NewBadRequest(fmt.Sprintf(format, args...)) }
	o.Follow = isOne(q.Get("follow"))
	o.Timestamps = isOne(q.Get("timestamps"))
	previous = isOne(q.Get("previous"))
	o.Tail = -1
	if s := q.Get("tailLines"); s != "" && s != "all" {
		if o.Tail, err = strconv.ParseInt(s, 10, 64); err != nil || o.Tail < 0 {
			return o, false, bad("tailLines: %q is not a number of lines", s)
		}
	} else if s := q.Get("tail"); s != "" && s != "all" { // the name before PodLogOptions
		if o.Tail, err = strconv.ParseInt(s, 10, 64); err != nil || o.Tail < 0 {
			return o, false, bad("tail: %q is not a number of lines", s)
		}
	}
	if s := q.Get("limitBytes"); s != "" {
		if o.LimitBytes, err = strconv.ParseInt(s, 10, 64); err != nil || o.LimitBytes < 1 {
			return o, false, bad("limitBytes: %q is not a number of bytes above 0", s)
		}
	}
	if s := q.Get("sinceSeconds"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 {
			return o, false, bad("sinceSeconds: %q is not a number of seconds above 0", s)
		}
		o.Since = now.Add(-time.Duration(n) * time.Second)
	}
	if s := q.Get("sinceTime"); s != "" {
		if !o.Since.IsZero() {
			return o, false, bad("sinceTime: give it or sinceSeconds, not both")
		}
		if o.Since, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return o, false, bad("sinceTime: %q is not an RFC 3339 time", s)
		}
	}
	switch s := q.Get("stream"); s {
	case "", "All":
	case "Stdout":
		o.Stream = logread.Stdout
	case "Stderr":
		o.Stream = logread.Stderr
	default:
		return o, false, bad(`stream: %q is none of "All", "Stdout", "Stderr"`, s)
	}
	return o, previous, nil
}

// flusher sends what was written when the reader has nothing more at hand.
type flusher struct {
	w     http.ResponseWriter
	wrote bool
}

func (f *flusher) Write(p []byte) (int, error) {
	f.wrote = true
	return f.w.Write(p)
}

func (f *flusher) Flush() {
	if fl, ok := f.w.(http.Flusher); ok {
		fl.Flush()
	}
}
