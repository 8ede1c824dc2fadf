"""Shutting the door of a listening socket without resetting the clients who are inside already.

Closing a TCP socket that listens resets its queue (17 of 40 clients in a probe). So new clients are
kept out first, the worker accepts until the queue stays empty, and only then the socket is closed
everywhere. A UNIX socket has shutdown(SHUT_RD) for it: new clients are refused, and the queued ones
are still accepted. A TCP socket has no such thing (shutdown() would end listening, and reset the
queue), but three ways that come near, of which the first that the kernel allows is taken:

1. The socket is bound to an interface that does not exist (SO_BINDTOIFINDEX, Linux 5.1). The lookup
   of a new SYN does not match it any more (compute_score in net/ipv4/inet_hashtables.c), so the
   client is refused at once, as it is after the close. Where a sibling of its SO_REUSEPORT group
   still listens, the lookup may yet choose it by the group; then the SYN-ACK finds no route, and
   the client's next SYN meets the sibling. Who has connected is not touched, and nor is the
   handshake under way: it is found by itself, and the connection gets the interface of its SYN
   (ir_iif), not that of the listening socket. Only a handshake that a SYN cookie answered, which
   takes a SYN flood, is lost: nothing is kept of it that could be found. Nobody needs a capability
   since Linux 5.7, unless the socket is bound to an interface already (`tcp.interface`): then
   CAP_NET_RAW.
2. A socket filter drops SYNs, for which some kernels want CAP_NET_ADMIN. A filter on a listening
   TCP socket sees the segment from its TCP header on (tcp_filter in net/ipv4/tcp_ipv4.c, the same
   in IPv6), so the flags are byte 13. The handshakes under way still complete, because only a SYN
   without ACK is dropped.
3. listen() again, with a backlog of 0: while one client waits, the next ones' SYNs are dropped. A
   few still come in, and the last of them may be reset by the close.
"""

from __future__ import annotations

import ctypes
import socket
import struct

_SO_BINDTOIFINDEX = 62  # asm-generic/socket.h; Python names neither
_SO_ATTACH_FILTER = 26
_NO_INTERFACE = 0x7FFFFFFF
"""The last number that an interface could have; the kernel counts up from 1."""
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


def refuse_new_clients(sock: socket.socket) -> bool:
    """Let no further client reach the queue of `sock`; the queued ones can still be accepted.

    False: the kernel allows none of the sure ways, and single clients may still come in. Raises
    OSError.
    """
    if sock.family == socket.AF_UNIX:
        sock.shutdown(socket.SHUT_RD)
        return True
    for way in (bind_to_no_interface, drop_syns):
        try:
            way(sock)
        except OSError:
            continue  # EPERM, or an old kernel's ENOPROTOOPT: the next way
        return True
    sock.listen(0)
    return False


def bind_to_no_interface(sock: socket.socket) -> None:
    """The first way. Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)


def drop_syns(sock: socket.socket) -> None:
    """The second way. Raises OSError."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    program = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, then, aligned, a pointer to them.
    fprog = struct.pack("@HP", len(_DROP_SYN), ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
