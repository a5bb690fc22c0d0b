"""Peers that mean no good, for `hostile`: python -m benchmarks._stranger KIND PROCESSOR.

The address and keys come as JSON on stdin. Prints "at work" once it is, and when it is
terminated what it did; it stops by itself after a minute.
"""

import json
import os
import select
import signal
import socket
import sys
import time

import zmq

from zmqdist.core.headers import to_header
from zmqdist.core.messages import Heartbeat, Hello, Pull

LIMIT_S, PAUSE_S = 60, 1.0
CONNECTIONS, CLIENTS = 1000, 200
NULL_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


class Deeds:
    """How often it did what, per second, said at the end."""

    def __init__(self, what):
        self.what, self.count, self._since = what, 0, time.monotonic()

    def said(self, *_):
        rate = self.count / (time.monotonic() - self._since)
        os.write(1, f"{rate:,.0f} {self.what}/s\n".encode())
        os._exit(0)


def main():
    kind, told = sys.argv[1], json.load(sys.stdin)
    os.sched_setaffinity(0, {int(sys.argv[2])})
    host, port = told["address"].removeprefix("tcp://").rsplit(":", 1)
    what = {"garbage": "messages", "flood": "messages"}.get(kind, "connections")
    deeds = Deeds(what)
    signal.signal(signal.SIGTERM, deeds.said)
    signal.signal(signal.SIGALRM, deeds.said)
    signal.alarm(LIMIT_S)
    {
        "no-key": lambda: connections((host, int(port)), NULL_GREETING, deeds),
        "half-a-message": lambda: connections((host, int(port)), NULL_GREETING[:11], deeds),
        "unknown-key": lambda: knock(told, deeds),
        "garbage": lambda: send(told, garbage(), deeds),
        "flood": lambda: send(told, flood(told["run"]), deeds),
    }[kind]()


def at_work():
    print("at work", flush=True)


def connections(address, octets, deeds):
    """Hold a thousand connections that say `octets`; one that is closed is made again."""
    poller, held = select.poll(), {}

    def connect():
        one = socket.create_connection(address)
        one.sendall(octets)
        poller.register(one, select.POLLIN)
        held[one.fileno()] = one
        deeds.count += 1

    for _ in range(CONNECTIONS):
        connect()
    at_work()
    while True:
        again = 0
        for number, _ in poller.poll(1000):
            try:
                if held[number].recv(4096):
                    continue
            except OSError:
                pass
            poller.unregister(number)
            held.pop(number).close()
            again += 1
        for _ in range(again):
            connect()
        time.sleep(PAUSE_S)


def knock(told, deeds):
    """Two hundred clients with keys of their own, which nobody knows."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 20 * CLIENTS)  # closed ones count for a while
    keys = [zmq.curve_keypair() for _ in range(CLIENTS)]
    clients = {}

    def connect(number):
        one = dealer(context, told, *keys[number])
        clients[number] = one, one.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        deeds.count += 1

    for number in range(CLIENTS):
        connect(number)
    at_work()
    while True:
        time.sleep(PAUSE_S)
        for number, (one, monitor) in list(clients.items()):
            if monitor.poll(0):  # a client that was turned away does not try again by itself
                one.disable_monitor()
                one.close(0)
                connect(number)


def dealer(context, told, public, secret):
    made = context.socket(zmq.DEALER)
    made.linger = 0
    made.curve_serverkey = told["server"].encode()
    made.curve_publickey, made.curve_secretkey = public, secret
    made.connect(told["address"])
    return made


def send(told, messages, deeds):
    """Send as fast as the master takes it, under a key that it knows."""
    one = dealer(zmq.Context(), told, told["public"].encode(), told["secret"].encode())
    at_work()
    for message in messages:
        one.send_multipart(message)
        deeds.count += 1


def garbage():
    while True:
        yield [os.urandom(100)]
        yield [b'{"zmqdist":1,"kind":"push"}', b"x" * 1000]
        yield [b""] * 20


def flood(run):
    messages = [Heartbeat(1), Hello(run, 0, 0, 7, "w"), Pull(0, -1), Heartbeat(10**9)]
    octets = [[json.dumps(to_header(one)).encode()] for one in messages]
    while True:
        yield from octets


if __name__ == "__main__":
    main()
