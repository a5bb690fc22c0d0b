"""The protocol without I/O: no socket, thread, array or clock in here."""
