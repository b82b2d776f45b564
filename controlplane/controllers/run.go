package controllers

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/internal/logkey"
)

// runner is a controller that was made; Run returns when the context ends and everything it started has stopped.
type runner interface {
	Run(ctx context.Context) error
}

// spec is one controller: its name, as in Config.Disable, and how it is made. A nil runner means: nothing to do here.
type spec struct {
	name string
	make func(cfg *Config, env loop.Env) (runner, error)
}

// A controller that ends early is made again after this long, doubled each time up to the limit; one that ran for longer
// than the limit starts over at the first delay.
const (
	restartMin = time.Second
	restartMax = time.Minute
)

// Names lists the controllers that can be disabled.
func Names() []string {
	var names []string
	for _, s := range all() {
		names = append(names, s.name)
	}
	return names
}

// Run runs every controller until ctx ends and all have stopped. It returns an error only for a bad configuration.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	known := Names()
	var errs []error
	for _, d := range cfg.Disable {
		if !slices.Contains(known, d) {
			errs = append(errs, fmt.Errorf("controllers config: disable: no controller is called %q; there are %v", d, known))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&corev1.EventSinkImpl{Interface: cfg.Client.CoreV1().Events("")})
	env := loop.Env{
		StartInformers: func() { cfg.Informers.Start(ctx.Done()) },
		Client:         cfg.Client, Dynamic: cfg.Dynamic, Metadata: cfg.Metadata, Informers: cfg.Informers, Log: cfg.Log,
		Recorder: func(component string) record.EventRecorder {
			return broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: component})
		},
	}
	var wg sync.WaitGroup
	for _, s := range all() {
		if slices.Contains(cfg.Disable, s.name) {
			continue
		}
		wg.Go(func() { keep(ctx, &cfg, env, s) })
	}
	wg.Wait()
	return nil
}

// keep runs one controller for as long as the context lasts.
func keep(ctx context.Context, cfg *Config, env loop.Env, s spec) {
	delay := restartMin
	for ctx.Err() == nil {
		start := time.Now()
		done, err := once(ctx, cfg, env, s)
		if done || ctx.Err() != nil {
			return
		}
		if time.Since(start) > restartMax {
			delay = restartMin
		}
		cfg.Log.Error("Restarting controller", "controller", s.name, "after", delay, logkey.Err, err)
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
		delay = min(2*delay, restartMax)
	}
}

func once(ctx context.Context, cfg *Config, env loop.Env, s spec) (done bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	c, err := s.make(cfg, env)
	if err != nil {
		return false, fmt.Errorf("make controller %s: %w", s.name, err)
	}
	if c == nil {
		return true, nil
	}
	env.StartInformers()
	return false, c.Run(ctx)
}
