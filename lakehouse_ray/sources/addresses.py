"""Where nothing is ever sent to, whatever a setting, a name server or a redirect says.

Who runs the lake chooses the receivers, and most are in a private network: that is allowed. What
answers at link-local addresses is the cloud's metadata service, which hands out credentials.
"""

from __future__ import annotations

import ipaddress
import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from lakehouse_ray.errors import InvalidError

# Metadata services that are not link-local: AWS and Google over IPv6, Alibaba.
_METADATA = frozenset(
    map(ipaddress.ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200"))
)


class GuardedResolver(AbstractResolver):
    """Resolves names; what it has checked is what is connected to, so no second answer of a name
    server can lead elsewhere. Numeric hosts do not come here: see `refuse_address`."""

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        """inner: Answers; the system's own by default. Make it in the running event loop."""
        # Not aiohttp's default: that is another one where aiodns is installed, which takes 0xA9FEA9FE
        # for a name.
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises InvalidError where any of the addresses must not be reached, OSError where the name
        is not known."""
        found = await self._inner.resolve(host, port, family)
        for result in found:
            refuse_address(result["host"])
        return found

    async def close(self) -> None:
        await self._inner.close()


def refuse_address(host: str) -> None:
    """Raise InvalidError for an address that nothing is sent to. A name is none."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0].strip("[]"))
    except ValueError:
        return
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if (
        address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or address in _METADATA
    ):
        raise InvalidError(
            f"{address} is refused: metadata services and the like are at such addresses",
            "name the receiver's own host",
        )
