"""A process that sends recorded frames over loopback, as a server of websockets, and books over REST."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import itertools
import json
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

RECORDED = Path(__file__).parents[2].parent / "shared/data/recorded/ws/hftbacktest"
FILE = RECORDED / "usdm_ethusdt_20240808.gz"
# The recording's symbol first.
SYMBOLS = ("ETHUSDT", "BTCUSDT")
KINDS = ("trade", "bookTicker", "depth@0ms")
_PIECE = 256

Frames = dict[str, list[tuple[bytes, int]]]
Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def recorded(messages: int) -> Frames:
    """Frames of trades, best prices and changes of the book, numbered on where the recording ends, by
    their symbol: half of the messages are another symbol's. With each frame the book's number."""
    frames = list(itertools.islice(endless(), messages // len(SYMBOLS)))
    first = SYMBOLS[0]
    return {
        symbol: [
            (
                frame.replace(first.encode(), symbol.encode()).replace(
                    first.lower().encode(), symbol.lower().encode()
                ),
                book,
            )
            for frame, book in frames
        ]
        for symbol in SYMBOLS
    }


def encoded(frame: bytes) -> bytes:
    """A text message of a websocket's server."""
    size = len(frame)
    head = bytes([0x81, size]) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
    return (head if size < 65536 else b"\x81\x7f" + size.to_bytes(8, "big")) + frame


def accepted(request: str) -> bytes:
    """The answer to a handshake."""
    key = next(
        line.partition(":")[2].strip()
        for line in request.splitlines()
        if line.lower().startswith("sec-websocket-key")
    )
    magic = f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()
    accept = base64.b64encode(hashlib.sha1(magic).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode()


def answered(book: int) -> bytes:
    """REST's answer for a book that is empty up to a change."""
    body = json.dumps({"lastUpdateId": book, "bids": [], "asks": []}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def serve(sent: Frames, pipe: Connection, per_s: float = 0.0) -> None:
    """Send each client the frames of its symbols: as fast as it takes them, or so many a second of
    each. They begin when all symbols are listened to; the pipe tells when."""
    size = int(per_s // 50) or _PIECE
    pieces = {
        symbol: [_piece(frames[at : at + size]) for at in range(0, len(frames), size)]
        for symbol, frames in sent.items()
    }
    books = dict.fromkeys(pieces, 0)
    heard: set[str] = set()
    gate = asyncio.Event()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal gate
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        if "/depth?" in request:
            symbol = next(symbol for symbol in books if f"symbol={symbol}" in request)
            writer.write(answered(books[symbol]))
            writer.close()
            return
        writer.write(accepted(request))
        asked = request.partition("streams=")[2].lower()
        mine = [one for one in pieces if one.lower() in asked or not asked]
        heard.update(mine)
        begun = gate
        if heard == set(pieces):
            # The clock of all processes of the machine.
            pipe.send(time.monotonic())
            heard.clear()
            gate.set()
            gate = asyncio.Event()
        await begun.wait()
        started_s = time.monotonic()
        try:
            for number, together in enumerate(zip(*(pieces[one] for one in mine), strict=True)):
                for one, (piece, book) in zip(mine, together, strict=True):
                    writer.write(piece)
                    books[one] = book
                await writer.drain()
                if per_s:
                    due_s = started_s + number * size / per_s
                    await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            await reader.read()
        except ConnectionError:
            pass
        writer.close()

    asyncio.run(_listen(client, pipe))


async def _listen(client: Client, pipe: Connection) -> None:
    """Serve for ever; the pipe tells the port."""
    server = await asyncio.start_server(client, "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _piece(frames: Sequence[tuple[bytes, int]]) -> tuple[bytes, int]:
    return b"".join(encoded(frame) for frame, _ in frames), frames[-1][1]


@contextlib.contextmanager
def sender(sent: Frames, per_s: float = 0.0) -> Iterator[tuple[int, Connection]]:
    """A process that sends the frames: its port, and who tells when they began."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(
        target=serve, args=(sent, theirs, per_s), daemon=True
    )
    server.start()
    sent.clear()
    try:
        yield ours.recv(), ours
    finally:
        server.kill()


def endless() -> Iterator[tuple[bytes, int]]:
    """Frames without end, each with the last number of the book's changes up to it."""
    with gzip.open(FILE) as lines:
        once = [json.loads(line.partition(b" ")[2]) for line in lines if b'{"stream"' in line]
    data = [message["data"] for message in once]
    traded = [one["t"] for one in data if one["e"] == "trade"]
    changes = [one for one in data if one["e"] == "depthUpdate"]
    numbers = changes[-1]["u"] - changes[0]["pu"]
    turn = dict.fromkeys(("u", "U", "pu"), numbers)
    turn |= {"t": traded[-1] - traded[0] + 1}
    turn |= dict.fromkeys(("E", "T"), data[-1]["E"] - data[0]["E"] + 1)
    book = changes[0]["pu"]
    while True:
        for message in once:
            one = message["data"]
            if one["e"] == "depthUpdate":
                book = one["u"]
            yield json.dumps(message, separators=(",", ":")).encode(), book
            for name in turn.keys() & one.keys():
                one[name] += turn[name]


def serve_endlessly(pipe: Connection, per_s: float) -> None:
    """One stream of frames at a steady rate for whoever is there, and the book's snapshots."""
    frames = endless()
    book = 0

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal book
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        if "/depth?" in request:
            writer.write(answered(book))
            writer.close()
            return
        writer.write(accepted(request))
        size = max(1, int(per_s // 50))
        started_s = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for number in itertools.count(1):
                piece = [next(frames) for _ in range(size)]
                book = piece[-1][1]
                writer.write(b"".join(encoded(frame) for frame, _ in piece))
                await writer.drain()
                due_s = started_s + number * size / per_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        writer.close()

    asyncio.run(_listen(client, pipe))
