"""A worker that answers each Find with Found, and Retired behind it: CHANNEL_FD BOARD_FD INDEX."""

from __future__ import annotations

import os
import select
import socket
import sys

from spliceproxy import ipc
from spliceproxy.ipc.sealed import memfd_of

channel = ipc.Channel(socket.socket(fileno=int(sys.argv[1])))
channel.send(ipc.Ready(os.getpid(), 0))
while True:
    select.select([channel], [], [])
    received = channel.receive()
    if received is None:
        break
    question = received[0]
    assert isinstance(question, ipc.Find)
    channel.send(ipc.Found(question.request, 10), memfd_of(b"[]"))
    channel.send(ipc.Retired(question.request))
