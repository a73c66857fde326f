"""The HTTP service: REST in front of the gRPC service, health and readiness, an OpenAPI document and a page for it."""

from rsketch_http.config import HttpConfig
from rsketch_http.server import serve, service

__all__ = ["HttpConfig", "serve", "service"]
