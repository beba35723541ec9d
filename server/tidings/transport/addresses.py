"""Client addresses as the limits count them, and host names."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

IPV6_PREFIX = 64
"""Bits of an IPv6 address that identify one customer: a customer has at least a whole /64 (RFC 6177)."""


def source_of(address: str, prefix: int = IPV6_PREFIX) -> str:
    """The key by which an address is limited: an IPv4 address itself, or an IPv6 network of `prefix` bits.

    An IPv4-mapped address counts as its IPv4 address. Any other text (a Unix socket, "") is returned unchanged.
    """
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, prefix), strict=False))


def host_of(header: str) -> str:
    """The name or address in a `Host` header, in lower case, without port and brackets; "" if it is malformed."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host name or address refers to this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"),
    )
)
"""RFC 1918, RFC 3927, RFC 4193, RFC 4291 (section 2.5.6)."""


def is_private_address(address: str) -> bool:
    """Whether a client's address is a loopback or private address, which is not routed on the Internet."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback or any(parsed in network for network in _PRIVATE)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48")
"""RFC 6052 and RFC 8215. Their last 32 bits are an IPv4 address, and so are those of `::/96` (RFC 4291)."""


def is_public_address(address: str) -> bool:
    """Whether an address is a unicast address that is routed on the Internet, also after any translation to IPv4."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        embedded = [parsed.ipv4_mapped, parsed.sixtofour, *(parsed.teredo or ())]
        if parsed in _NAT64[0] or parsed in _NAT64[1] or int(parsed) < 1 << 32:
            embedded.append(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF))
        translated = [each for each in embedded if each is not None]
        if not all(is_public_address(str(each)) for each in translated):
            return False
        if parsed.ipv4_mapped is not None or parsed in _NAT64[0]:
            return True
        if parsed in _NAT64[1] or parsed.is_site_local or parsed.scope_id is not None:
            return False
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified)
