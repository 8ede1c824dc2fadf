"""TLS in the supervisor: the certificates of listeners and pools, read, tried and followed.

`pem` makes values of a file's bytes, `files` finds the files and what stands in them, `shown` says
which certificate is for whom, `certificates` is the part that holds all of it, and `expiry` tells
of those that end soon.
"""

from spliceproxy.control.tls.certificates import Certificates, check_certificates
from spliceproxy.control.tls.shown import NO_TLS, TlsPlans

__all__ = ["NO_TLS", "Certificates", "TlsPlans", "check_certificates"]
