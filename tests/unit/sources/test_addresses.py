"""Where nothing is sent to."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.sources.addresses import GuardedResolver, refuse_address


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "[fe80::1]",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "100.100.100.200",
        "0.0.0.0",
        "::",
        "224.0.0.1",
    ],
)
def test_metadata_services_and_the_like_are_refused(host: str) -> None:
    with pytest.raises(InvalidError):
        refuse_address(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.7", "::1", "8.8.8.8", "example.org", ""])
def test_receivers_in_private_networks_are_not(host: str) -> None:
    refuse_address(host)


class Answers(AbstractResolver):
    """A name server that says what it is told to."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=a, port=port, family=family, proto=0, flags=0)
            for a in self._addresses
        ]

    async def close(self) -> None: ...


def test_a_name_that_leads_there_is_refused_whatever_else_it_leads_to() -> None:
    async def ask(*addresses: str) -> list[ResolveResult]:
        return await GuardedResolver(Answers(*addresses)).resolve("innocent.example", 443)

    assert len(asyncio.run(ask("10.0.0.7", "8.8.8.8"))) == 2
    with pytest.raises(InvalidError):
        asyncio.run(ask("8.8.8.8", "169.254.169.254"))
