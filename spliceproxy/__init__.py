"""spliceproxy: a zero-copy TCP reverse proxy and load balancer for Linux."""

__version__ = "0.1.0"
