"""Peers that mean no good, for `hostile`: python -m benchmarks._stranger KIND.

The address and keys come as JSON on stdin. Prints "at work" once it is, and stops by
itself after a minute.
"""

import json
import os
import select
import socket
import sys
import time

import zmq

from zmqdist.core.headers import to_header
from zmqdist.core.messages import Heartbeat, Hello, Pull

LIMIT_S = 60
CONNECTIONS = 1000
NULL_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def main():
    kind, told = sys.argv[1], json.load(sys.stdin)
    os.nice(19)  # it would run on machines of its own
    host, port = told["address"].removeprefix("tcp://").rsplit(":", 1)
    until = time.monotonic() + LIMIT_S
    {
        "no-key": lambda: connections((host, int(port)), NULL_GREETING, until),
        "half-a-message": lambda: connections((host, int(port)), NULL_GREETING[:11], until),
        "unknown-key": lambda: knock(told, until),
        "garbage": lambda: send(told, garbage(), until),
        "flood": lambda: send(told, flood(told["run"]), until),
    }[kind]()


def at_work():
    print("at work", flush=True)


def connections(address, octets, until):
    """Hold a thousand connections that say `octets`; one that is closed is made again."""
    poller, held = select.poll(), {}

    def connect():
        one = socket.create_connection(address)
        one.sendall(octets)
        poller.register(one, select.POLLIN)
        held[one.fileno()] = one

    for _ in range(CONNECTIONS):
        connect()
    at_work()
    while time.monotonic() < until:
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
        time.sleep(1)


def knock(told, until):
    """Two hundred clients with keys of their own, which nobody knows."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 1000)
    for _ in range(200):
        public, secret = zmq.curve_keypair()
        dealer(context, told, public, secret)
    at_work()
    while time.monotonic() < until:
        time.sleep(1)


def dealer(context, told, public, secret):
    made = context.socket(zmq.DEALER)
    made.linger = 0
    made.curve_serverkey = told["server"].encode()
    made.curve_publickey, made.curve_secretkey = public, secret
    made.connect(told["address"])
    return made


def send(told, messages, until):
    """Send as fast as the master takes it, under a key that it knows."""
    one = dealer(zmq.Context(), told, told["public"].encode(), told["secret"].encode())
    at_work()
    while time.monotonic() < until:
        one.send_multipart(next(messages))


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
