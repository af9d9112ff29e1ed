"""Clients that a well-behaved load generator does not have: without them refusals and aborts never get a series."""

import contextlib
import socket
import struct
import time

TIMEOUT = 5
PAUSE = 2
HOLD = 1.5


def make_trouble(address, enough, connections_max, requests_max):
    """One kind of trouble after the other until `enough` is set."""
    while not enough.is_set():
        odd_requests(address)
        broken_clients(address)
        http2(address)
        hold_all_places(address, requests_max)
        take_all_connections(address, connections_max)
        enough.wait(PAUSE)


def odd_requests(address):
    """Statuses and methods outside of an echo's usual ones."""
    for head in (
        "GET / HTTP/1.1",
        "GET /nothing HTTP/1.1",
        "DELETE / HTTP/1.1",
        "PROPFIND /echo HTTP/1.1",
        "GET / HTTP/1.0",
        "GET / HTTP/1.1\r\nx-large: " + "x" * 40_000,
        "POST /echo HTTP/1.1\r\ncontent-length: 99999999999",
    ):
        with _connected(address) as client:
            client.sendall(f"{head}\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            _read_to_end(client)


def broken_clients(address):
    """A client that is no HTTP, one that resets before its body began, and one in the middle of it."""
    with _connected(address) as client:
        client.sendall(b"\x00\x01\x02 no HTTP\r\n\r\n")
        _read_to_end(client)
    for sent in (b"", b"half"):
        with _connected(address) as client:
            client.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + sent)
            time.sleep(0.1)
            _reset_on_close(client)


def http2(address):
    """One GET over HTTP/2 with prior knowledge: fields from the static table, so that no HPACK coder is needed."""
    method_get, scheme_http, path_root, authority_x = b"\x82", b"\x86", b"\x84", b"\x41\x01x"
    end_stream_and_headers = 0x05
    with _connected(address) as client:
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"") + _frame(4, 1, 0, b""))
        client.sendall(_frame(1, end_stream_and_headers, 1, method_get + scheme_http + path_root + authority_x))
        # Long enough for a scrape to see the connection.
        time.sleep(6)


def hold_all_places(address, requests_max):
    """Bodies that do not go on hold every place of requests_max: other requests are refused."""
    with contextlib.ExitStack() as held:
        for _ in range(requests_max + 5):
            client = held.enter_context(_connected(address))
            client.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf")
        time.sleep(HOLD)


def take_all_connections(address, connections_max):
    """More connections than there are places."""
    with contextlib.ExitStack() as held:
        for _ in range(connections_max + 10):
            held.enter_context(_connected(address))
        time.sleep(HOLD)


@contextlib.contextmanager
def _connected(address):
    """A connection. What happens to it is the server's decision, and trouble for nobody."""
    with socket.create_connection(address, TIMEOUT) as client, contextlib.suppress(OSError):
        yield client


def _read_to_end(client):
    while client.recv(65536):
        pass


def _reset_on_close(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
