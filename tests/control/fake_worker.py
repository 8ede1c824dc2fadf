"""A worker that relays nothing: it answers each client with its index, and obeys the supervisor.

A session lasts until its client closes. Options come before the three arguments of every worker.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import time
from pathlib import Path

from spliceproxy import ipc
from spliceproxy.ipc.sealed import unseal
from spliceproxy.telemetry.board import HEARTBEAT, SESSIONS, Board


class FakeWorker:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.channel = ipc.Channel(socket.socket(fileno=options.channel))
        workers = Board.workers_of(options.board)
        self.region = Board(options.board, workers).regions[options.index]
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.channel, selectors.EVENT_READ, self.on_messages)
        self.generation = -1
        self.listening: dict[int, socket.socket] = {}
        self.retiring: dict[int, float] = {}
        self.sessions: set[socket.socket] = set()
        self.deadline: float | None = None

    def run(self) -> None:
        while True:
            if not self.options.mute:
                self.region[HEARTBEAT] = time.monotonic_ns()
            for key, _ in self.selector.select(0.02):
                key.data(key.fileobj)
            now = time.monotonic()
            for number, since in list(self.retiring.items()):
                if now - since > 0.05:
                    self.close_listening(number)
                    self.channel.send(ipc.Retired(number))
            over = self.deadline is not None and (not self.sessions or now >= self.deadline)
            if over and not self.options.hang:
                os._exit(0)

    def on_messages(self, _channel: object) -> None:
        """Take all messages that are there; who is ready serves what it was told to serve."""
        ready = False
        while True:
            try:
                received = self.channel.receive()
            except BlockingIOError:
                break
            if received is None:
                os._exit(0)
            self.on_message(*received)
            ready |= isinstance(received[0], ipc.Configure)
        if ready and not self.options.never_ready:
            self.channel.send(ipc.Ready(os.getpid(), self.generation))

    def on_message(self, message: ipc.Message, fds: list[int]) -> None:
        match message:
            case ipc.Configure(generation):
                unseal(fds[0])
                self.generation = generation
            case ipc.Serve(socket=number):
                sock = socket.socket(fileno=os.dup(fds[0]))
                sock.setblocking(False)
                self.listening[number] = sock
                if not self.options.lazy:
                    self.selector.register(sock, selectors.EVENT_READ, self.on_client)
            case ipc.Release(socket=number):
                self.close_listening(number)
            case ipc.Retire(socket=number):
                if self.options.die_at_retire:
                    os.kill(os.getpid(), signal.SIGKILL)
                if self.options.lazy:
                    self.selector.register(
                        self.listening[number], selectors.EVENT_READ, self.on_client
                    )
                self.retiring[number] = time.monotonic()
            case ipc.Stop(drain=drain):
                self.deadline = time.monotonic() + (1e9 if drain is None else drain)
            case ipc.Reopen():
                Path(self.options.reopened).touch()
        for fd in fds:
            os.close(fd)

    def close_listening(self, number: int) -> None:
        sock = self.listening.pop(number)
        self.retiring.pop(number, None)
        if sock in self.selector.get_map():
            self.selector.unregister(sock)
        sock.close()

    def on_client(self, listening: socket.socket) -> None:
        if listening.fileno() < 0:
            return  # closed by a message of the same batch of events
        try:
            client, _ = listening.accept()
        except BlockingIOError:
            return
        for number, sock in self.listening.items():
            if sock is listening and number in self.retiring:
                self.retiring[number] = time.monotonic()
        self.sessions.add(client)
        self.region[SESSIONS] = len(self.sessions)
        client.sendall(b"%d" % self.options.index)
        self.selector.register(client, selectors.EVENT_READ, self.on_session)

    def on_session(self, client: socket.socket) -> None:
        try:
            if client.recv(4096):
                return
        except ConnectionResetError:
            pass
        self.selector.unregister(client)
        client.close()
        self.sessions.discard(client)
        self.region[SESSIONS] = len(self.sessions)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--starts", help="append a line for each start to this file")
    parser.add_argument("--reopened", help="create this file on Reopen")
    parser.add_argument("--dies", type=int, default=-1, help="index of a worker that dies at once")
    parser.add_argument("--all-die", action="store_true", help="every worker dies at once")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--mute", action="store_true", help="no heartbeats")
    parser.add_argument("--lazy", action="store_true", help="accept only when told to retire")
    parser.add_argument("--die-at-retire", type=int, default=None, help="index")
    parser.add_argument("--hang", action="store_true", help="does not exit when told to stop")
    for name in ("channel", "board", "index"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    options.die_at_retire = options.die_at_retire == options.index
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.starts:
        with open(options.starts, "a") as file:
            file.write(f"{options.index} {time.monotonic()} {os.getpid()}\n")
    if options.all_die or options.dies == options.index:
        os._exit(3)
    FakeWorker(options).run()


main()
