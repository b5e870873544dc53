"""Clients of the exchange that nobody here wrote, called with our address, and kept from any other."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import ccxt
import ccxt.pro
import pytest
from binance import AsyncClient, Client

# Of python-binance's class, the addresses that it asks, each with the path below which it asks.
_ADDRESSES = {
    "API_URL": "/api", "FUTURES_URL": "/fapi", "FUTURES_COIN_URL": "/dapi",
    "MARGIN_API_URL": "/sapi", "WEBSITE_URL": "", "FUTURES_DATA_URL": "/futures/data",
    "FUTURES_COIN_DATA_URL": "/futures/data", "OPTIONS_URL": "/eapi", "PAPI_URL": "/papi",
}  # fmt: skip


@contextmanager
def loopback_alone() -> Iterator[list[object]]:
    """Whatever leaves this machine fails, in this process; yields what was tried."""
    tried: list[object] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            tried.append(address)
            raise OSError(f"a test may not connect to {address}")
        return connect(self, address)

    def guarded_look_up(host: Any, *arguments: Any, **named: Any) -> Any:
        if host and not _is_loopback(host):
            tried.append(host)
            raise OSError(f"a test may not look for {host}")
        return look_up(host, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield tried


def _is_loopback(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def point_ccxt(exchange: Any, url: str) -> Any:
    """Every address that the client knows becomes ours, with the path it had."""
    for kind in ("api", "test", "demo"):
        known = exchange.urls.get(kind, {})
        exchange.urls[kind] = {
            name: url + urlsplit(was).path for name, was in known.items() if isinstance(was, str)
        }
    return exchange


def ccxt_pro_at(url: str, query: str) -> Any:
    """Its websockets too. query: Of their addresses; ccxt itself puts /0, /1, … behind them."""
    exchange = point_ccxt(ccxt.pro.binance({"enableRateLimit": False, "newUpdates": True}), url)
    exchange.urls["api"]["ws"] = {
        kind: f"{url.replace('http://', 'ws://')}{path}?{query}&streams="
        for kind, path in (("spot", "/ws"), ("future", "/fapi/ws"), ("delivery", "/dapi/ws"))
    }
    return exchange


def ccxt_at(url: str, **options: Any) -> Any:
    return point_ccxt(ccxt.binance({"enableRateLimit": False, **options}), url)


def _pointed(kind: type[Any], url: str) -> type[Any]:
    return type(kind.__name__, (kind,), {name: url + path for name, path in _ADDRESSES.items()})


def python_binance_at(url: str, **options: Any) -> Any:
    return _pointed(Client, url)(**options)


async def async_python_binance_at(url: str, **options: Any) -> Any:
    return await _pointed(AsyncClient, url).create(**options)
