"""A program for the cluster's tests: a gRPC server with nothing but the health service, SERVING for `ready` only."""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


def main() -> None:
    """Serve on the port that is the only argument, until SIGTERM."""
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    servicer.set("ready", health_pb2.HealthCheckResponse.SERVING)
    servicer.set("broken", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"0.0.0.0:{sys.argv[1]}")
    server.start()
    signal.sigwait([signal.SIGTERM])
    server.stop(0).wait()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    main()
