"""`edgekit serve` and clients that send nothing, send slowly, do not read, or send what proxies read in another way."""

import contextlib
import json
import socket
import time
from urllib.parse import urlsplit

import pytest
from serving import PROMPT
from test_serve_live import Server

from edgekit.web.limits import client_key

HEAD = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"prompt": PROMPT, "max_tokens": 1})
WHOLE = f"{HEAD}Content-Length: {len(BODY)}\r\n\r\n{BODY}"


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("uvicorn")
    server = Server("--read-limit", 1, "--client-requests", 20, "--queue-size", 100)
    yield server
    server.end()


def connect(server):
    where = urlsplit(server.address)
    return socket.create_connection((where.hostname, where.port), timeout=10)


def answer(connection):
    """All that comes until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts).decode()


def exchange(server, sent):
    with connect(server) as connection:
        connection.sendall(sent.encode("latin-1"))
        return answer(connection)


@contextlib.contextmanager
def many(server, count, sent=b""):
    connections = []
    try:
        for _ in range(count):
            connections.append(connect(server))
            connections[-1].sendall(sent)
        yield connections
    finally:
        for one in connections:
            one.close()


@pytest.mark.parametrize("sent", [
    pytest.param(b"", id="silent"),
    pytest.param(b"POST /v1/completions HTTP/1.1\r\nHost: 127", id="half a head"),
    pytest.param(WHOLE.encode()[:-5], id="half a body"),
])  # fmt: skip
def test_server_with_300_connections_without_requests_answers(server, sent):
    with many(server, 300, sent):
        status, text = server.ask("/health")
        assert status == 200 and json.loads(text)["status"] == "ok"
        # Half a body is a request: the address has its 20 until they end.
        asked = server.ask("/v1/completions", json.loads(BODY))[0]
        assert asked in (200, 429) if sent.endswith(BODY[:-5].encode()) else asked == 200
    until = time.monotonic() + 5
    while (status := server.ask("/v1/completions", json.loads(BODY))[0]) == 429 and time.monotonic() < until:
        time.sleep(0.05)  # the server has yet to read that the clients have left
    assert status == 200


def test_server_keeps_the_connection_with_a_request_when_others_are_closed(server):
    """The oldest without a request go, and a request in progress stays, however old its connection is."""
    with many(server, 1, WHOLE[:-1].encode()) as (slow,), many(server, 120) as others:
        slow.sendall(WHOLE[-1:].encode())
        assert slow.recv(1000).startswith(b"HTTP/1.1 200")
        others[-1].sendall(WHOLE.encode())
        assert others[-1].recv(1000).startswith(b"HTTP/1.1 200")
        others[0].settimeout(0.5)
        assert others[0].recv(1) == b""


def test_slow_head_is_408_and_slow_body_is_408(server):
    begin = time.monotonic()
    for sent in (HEAD, WHOLE[:-1]):
        assert exchange(server, sent).startswith("HTTP/1.1 408")
    assert 1.8 < time.monotonic() - begin < 6
    assert exchange(server, "") == ""  # nothing was asked


def test_head_that_trickles_is_408(server):
    """Bytes that keep coming do not extend the limit."""
    with connect(server) as connection:
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in WHOLE.encode():
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - begin < 4
    assert server.ask("/health")[0] == 200


def test_body_that_trickles_after_its_refusal_is_cut_off(server):
    with connect(server) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n")
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begin < 8:
                connection.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - begin < 4


@pytest.mark.parametrize("sent", [
    pytest.param(f"{HEAD}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="length and chunked"),
    pytest.param(f"{HEAD}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", id="chunked and length"),
    pytest.param(f"{HEAD}Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", id="two lengths"),
    pytest.param(f"{HEAD}Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde", id="a length twice"),
    pytest.param(f"{HEAD}Content-Length: 5, 5\r\n\r\nabcde", id="a list of lengths"),
    pytest.param(f"{HEAD}Content-Length: +5\r\n\r\nabcde", id="a length with a sign"),
    pytest.param(f"{HEAD}Content-Length: 0x5\r\n\r\nabcde", id="a hexadecimal length"),
    pytest.param(f"{HEAD}Content-Length : 5\r\n\r\nabcde", id="a blank before the colon"),
    pytest.param(f"{HEAD}X: a\r\n Content-Length: 5\r\n\r\nabcde", id="a folded line"),
    pytest.param(f"{HEAD}X: a\r\n\tb\r\nContent-Length: 5\r\n\r\nabcde", id="a folded line, tab"),
    pytest.param(f"{HEAD}X: a\nContent-Length: 5\r\n\r\nabcde", id="a bare LF"),
    pytest.param(f"{HEAD}X: a\rContent-Length: 5\r\n\r\nabcde", id="a bare CR"),
    pytest.param("GET /health HTTP/1.1\nHost: 127.0.0.1\n\n", id="only LF"),
    pytest.param(f"{HEAD}X: a\0b\r\n\r\n", id="a NUL"),
    pytest.param(f"{HEAD}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", id="chunked, chunked"),
    pytest.param(f"{HEAD}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", id="another coding"),
    pytest.param(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n", id="a hexadecimal chunk"),
    pytest.param(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n5\nabcde\r\n0\r\n\r\n", id="a chunk with a bare LF"),
    pytest.param(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\nabcdeXX0\r\n\r\n", id="a chunk that is too long"),
    pytest.param(HEAD.replace("1.1", "1.0") + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="chunked in HTTP/1.0"),
    pytest.param(f"{HEAD}Host: evil.example\r\nContent-Length: 0\r\n\r\n", id="two hosts"),
    pytest.param("GET http://evil.example\x01 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", id="a control in the target"),
    pytest.param(f"{HEAD}X: {'a' * 20000}", id="a head of 20 kB"),
])  # fmt: skip
def test_request_that_proxies_read_in_another_way_is_400_and_closes(server, sent):
    """What follows on the connection is not read as a request."""
    text = exchange(server, sent + "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert text.startswith("HTTP/1.1 400") and text.count("HTTP/1.1 4") + text.count("HTTP/1.1 2") == 1
    assert "connection: close" in text.lower() and '"message": "invalid HTTP: ' in text


def test_requests_in_one_packet_and_bytes_one_by_one_are_answered(server):
    """The strict reading of heads does not depend on how they arrive."""
    close = WHOLE.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
    text = exchange(server, WHOLE + WHOLE + close)
    assert text.count("HTTP/1.1 200") == 3
    second = exchange(server, WHOLE + close.replace("Content-Type", " Content-Type"))
    assert second.count("HTTP/1.1 200") == 1 and second.count("HTTP/1.1 400") == 1
    with connect(server) as connection:
        for byte in close.encode():
            connection.sendall(bytes([byte]))
        assert answer(connection).startswith("HTTP/1.1 200")


@pytest.mark.slow
def test_client_that_does_not_read_is_dropped():
    """Its answers fill the socket's buffers; the limit of a whole request ends the connection."""
    server = Server("--read-limit", 0.3, "--time-limit", 0.3)
    try:
        with connect(server) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(1)
            ask = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            with contextlib.suppress(TimeoutError, ConnectionError):
                while True:
                    connection.sendall(ask * 100)
            begin = time.monotonic()
            with pytest.raises(ConnectionError):
                while time.monotonic() - begin < 60:
                    with contextlib.suppress(TimeoutError):
                        connection.send(ask)
        assert server.ask("/health")[0] == 200
    finally:
        server.end()


@pytest.mark.parametrize("host, key", [
    ("127.0.0.1", "127.0.0.1"), ("2001:db8::1", "2001:0db8:0000:0000"), ("2001:db8::ffff:2", "2001:0db8:0000:0000"),
    ("2001:db8:0:1::1", "2001:0db8:0000:0001"), ("testclient", "testclient"), (None, ""),
])  # fmt: skip
def test_client_key_is_an_address_or_a_network(host, key):
    assert client_key(host) == key
