"""One connection whose client never sleeps: it looks for the answer until it is there.

A client that sleeps must be woken when the answer is written, by an interrupt from the server's core to the client's.
The kernel counts that as the server's work, and on a virtual machine it costs more than a call.
"""

import socket
import time
from urllib.parse import urlsplit

# A server that is silent for so long has failed.
SILENCE_SECONDS = 10


def load(request, seconds: float) -> dict:
    """Asks over and over, for so long; the same figures as those of wrk."""
    place = urlsplit(request.url)
    connection = socket.create_connection((place.hostname, place.port), timeout=SILENCE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    message = to_bytes(request, place)
    microseconds, failures = [], 0
    started = now = time.perf_counter()
    with connection:
        while now < started + seconds:
            connection.send(message)
            failures += 0 if answer(connection, now).startswith(b"HTTP/1.1 200 ") else 1
            asked, now = now, time.perf_counter()
            microseconds.append((now - asked) * 1e6)
    microseconds.sort()
    many = len(microseconds)
    return {
        "requests": many,
        "seconds": now - started,
        "failures": failures,
        "p50_us": microseconds[many // 2],
        "p95_us": microseconds[many * 95 // 100],
        "p99_us": microseconds[many * 99 // 100],
        "max_us": microseconds[-1],
    }


def to_bytes(request, place) -> bytes:
    """The request as it goes over the wire."""
    body = request.body.encode()
    headers = {"Host": place.netloc, "Content-Length": len(body)} | request.headers
    lines = [f"POST {place.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def answer(connection: socket.socket, asked: float) -> bytes:
    """The whole answer to one request."""
    received = b""
    while not is_whole(received):
        try:
            more = connection.recv(1 << 16)
        except BlockingIOError:
            if time.perf_counter() > asked + SILENCE_SECONDS:
                raise TimeoutError(f"no answer within {SILENCE_SECONDS} s") from None
            continue
        if not more:
            raise ConnectionError("the server closed the connection")
        received += more
    return received


def is_whole(received: bytes) -> bool:
    """Whether the answer has come to its end, whichever way it says where that is."""
    head, ended, body = received.partition(b"\r\n\r\n")
    _, has_length, length = head.lower().partition(b"\r\ncontent-length:")
    if has_length:
        return bool(ended) and len(body) >= int(length.partition(b"\r\n")[0])
    return bool(ended) and body.endswith(b"0\r\n\r\n")
