"""Frames of a websocket server, encoded by hand: one encoding serves every client (RFC 6455, 5.2).

A server's frames are not masked, so the bytes for one connection are those for any other.
"""

from __future__ import annotations

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A


def text_frame(payload: bytes) -> bytes:
    """An unfragmented text frame."""
    size = len(payload)
    if size < 126:
        return bytes((TEXT, size)) + payload
    return encode(TEXT, payload)


def encode(first: int, payload: bytes) -> bytes:
    """first: The first byte: the final bit and the kind."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def envelope(stream: str, body: bytes) -> bytes:
    """An event of a combined stream, around the bytes of its data."""
    return b'{"stream":"' + stream.encode() + b'","data":' + body + b"}"
