"""Shutting the door of a listening socket without resetting the clients who are inside already.

Closing a TCP socket that listens resets its queue (17 of 40 clients in a probe). So new clients are
kept out first, the worker accepts until the queue stays empty, and only then the socket is closed
everywhere:

- TCP: a socket filter drops SYNs. A filter on a listening TCP socket sees the segment from its TCP
  header on (tcp_filter in net/ipv4/tcp_ipv4.c, the same in IPv6), so the flags are byte 13. The
  handshakes under way still complete, because only a SYN without ACK is dropped; the client whose
  SYN was dropped sends it again, and meets whoever listens by then.
- UNIX: shutdown(SHUT_RD) refuses new clients, and the queued ones are still accepted.
"""

from __future__ import annotations

import ctypes
import socket
import struct

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python does not name it
_FLAGS = 13
_SYN = 0x02
_ACK = 0x10

# struct sock_filter {code, jump if true, jump if false, k}; the codes are of linux/bpf_common.h.
_DROP_SYN = (
    (0x30, 0, 0, _FLAGS),  # A = the byte of the flags
    (0x54, 0, 0, _SYN | _ACK),  # A &= SYN | ACK
    (0x15, 0, 1, _SYN),  # A == SYN?
    (0x06, 0, 0, 0),  # yes: keep 0 bytes, which is to drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # no: keep it whole
)


def refuse_new_clients(sock: socket.socket) -> None:
    """Let no further client reach the queue of `sock`; the queued ones can still be accepted.

    Raises OSError.
    """
    if sock.family == socket.AF_UNIX:
        sock.shutdown(socket.SHUT_RD)
        return
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    program = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, then, aligned, a pointer to them.
    fprog = struct.pack("@HP", len(_DROP_SYN), ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
