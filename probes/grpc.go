package probes

import (
	"context"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
)

func (p *netProber) probeGRPC(ctx context.Context, t target, a *corev1.GRPCAction, timeout time.Duration) (answer, error) {
	addr := net.JoinHostPort(t.ip, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUserAgent(t.userAgent),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return p.dialer.DialContext(ctx, "tcp", a) }),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithDisableHealthCheck(),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<10)))
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	service := ""
	if a.Service != nil {
		service = *a.Service
	}
	res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		switch st := status.Convert(err); st.Code() {
		case codes.Unimplemented:
			return failure("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", st.Message()), nil
		case codes.DeadlineExceeded:
			f := failure("timeout: health rpc did not complete within %v", timeout)
			f.timedOut = true
			return f, nil
		default:
			return failure("service unhealthy (health rpc to %s answered %v: %s)", addr, st.Code(), st.Message()), nil
		}
	}
	if s := res.GetStatus(); s != healthpb.HealthCheckResponse_SERVING {
		return failure("service unhealthy (responded with %q)", s.String()), nil
	}
	return answer{result: Success, message: "service healthy"}, nil
}
