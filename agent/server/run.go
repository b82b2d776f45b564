package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// headerTimeout bounds how long a client may take to send its request line and headers.
	headerTimeout = 10 * time.Second
	// idleTimeout closes kept connections on which nothing is asked.
	idleTimeout = 2 * time.Minute
	// shutdownTimeout: after it, followed logs and open exec streams are cut.
	shutdownTimeout = 500 * time.Millisecond
)

// Run listens on both addresses and serves until ctx ends. A port that is taken is an error at once that names it.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("use server configuration: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	if cfg.HealthzAddress != "" {
		ln, err := net.Listen("tcp", cfg.HealthzAddress)
		if err != nil {
			return fmt.Errorf("listen for plain healthz (healthzPort): %w", err)
		}
		mux := http.NewServeMux()
		addHealthz(mux.HandleFunc, cfg.SyncLoop)
		g.Go(func() error { return serve(ctx, ln, mux, cfg.Logger) })
	}
	if cfg.Address != "" {
		ln, err := net.Listen("tcp", cfg.Address)
		if err != nil {
			return fmt.Errorf("listen for the kubelet API (port): %w", err)
		}
		tc := &tls.Config{
			MinVersion: max(cfg.TLSMinVersion, tls.VersionTLS12), CipherSuites: cfg.TLSCipherSuites, CurvePreferences: cfg.TLSCurvePreferences,
			GetCertificate: cfg.GetCertificate, NextProtos: []string{"h2", "http/1.1"},
		}
		if cfg.ClientCAs != nil {
			tc.ClientAuth = tls.RequestClientCert // verified by the authenticator, so that a refusal is a 401 and not a reset
		}
		h := Handler(ctx, cfg)
		g.Go(func() error { return serve(ctx, tls.NewListener(ln, tc), h, cfg.Logger) })
	}
	return g.Wait()
}

func serve(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if srv.Shutdown(sctx) != nil {
			_ = srv.Close() // what remains is cut on purpose
		}
	}()
	err := srv.Serve(ln)
	if errors.Is(err, http.ErrServerClosed) {
		<-stopped
		return nil
	}
	return fmt.Errorf("serve on %v: %w", ln.Addr(), err)
}
