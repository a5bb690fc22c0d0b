"""Sockets and keys: the only place that imports zmq."""
