"""`python -m bench.offload DEVICE…`: no segmentation offload, so that packets keep to the MTU."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import sys

_SIOCETHTOOL = 0x8946
_SWITCHES = {"tso": 0x1F, "gso": 0x24, "gro": 0x2C}
"""linux/ethtool.h: ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO."""


def switch_off(device: str) -> None:
    """Turn all of them off. Raises OSError."""
    with socket.socket() as sock:
        for command in _SWITCHES.values():
            value = array.array("B", struct.pack("II", command, 0))
            request = struct.pack("16sP", device.encode(), value.buffer_info()[0])
            fcntl.ioctl(sock, _SIOCETHTOOL, request)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        switch_off(each)
