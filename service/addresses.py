"""Which addresses the service may call: public ones, and what the deployment allows of its own network.

The lists are those of IANA's special-purpose registries for IPv4 and IPv6.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

import httpx2 as httpx

from service.errors import InvalidRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

INSIDE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/3",
        "168.63.129.16/32",  # looks public, but is the host's own service inside Azure
        "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",  # Teredo, 6to4 and documentation among them
    )
)  # fmt: skip
GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
HIGHEST_PORT = 65535
LOWEST_PORT = 1024  # but for 443: below are other protocols


def is_public(address: Address) -> bool:
    """Whether an address is a global unicast one, and so is the IPv4 address in it, if there is one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in GLOBAL_V6 or address.scope_id is not None:
            return False
    return address.is_global and not any(address in network for network in INSIDE if network.version == address.version)


@dataclass(frozen=True)
class Allowed:
    """What of its own network a deployment lets be called, over plain HTTP, too."""

    hosts: frozenset[str]
    networks: tuple[Network, ...]

    @classmethod
    def of(cls, text: str) -> Self:
        """Reads hosts, addresses and networks with commas between.

        Raises:
            ValueError: one is none of them.
        """
        hosts, networks = set(), []
        for item in filter(None, (part.strip().lower() for part in text.split(","))):
            try:
                networks.append(ipaddress.ip_network(item))
            except ValueError:
                if not re.fullmatch(r"[a-z0-9._-]+", item):
                    raise ValueError(
                        f"expected a host, an address or a network such as 10.1.0.0/16; found {item!r}"
                    ) from None
                hosts.add(item)
        return cls(frozenset(hosts), tuple(networks))

    def has(self, host: str, address: Address) -> bool:
        """Whether the deployment allows an address that a host's name led to."""
        return host in self.hosts or any(address in n for n in self.networks if n.version == address.version)


def check_url(url: str, allowed: Allowed) -> None:
    """Refuses what could never be called. Where a name leads is only known, and checked, when it is called.

    Raises:
        InvalidRequest: with what was expected.
    """
    if not re.fullmatch(r"[!-~]{1,2000}", url):
        raise InvalidRequest("expected a URL of at most 2000 ASCII characters, names in their xn-- form")
    try:
        parsed = httpx.URL(url)
        host = parsed.host.lower()
        literal = _literal(host)
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidRequest(f"expected a URL such as https://hooks.example/sslmem ({error})") from error
    inside = host in allowed.hosts or (literal is not None and allowed.has(host, literal))
    maybe_inside = inside or (literal is None and bool(allowed.networks))
    if parsed.scheme != "https" and not (parsed.scheme == "http" and maybe_inside):
        raise InvalidRequest("expected a URL that begins with https://")
    if not host or parsed.userinfo or parsed.fragment or "\\" in url:
        raise InvalidRequest("expected a URL with a host, without user, password, fragment or backslash")
    if literal is not None and not inside and not is_public(literal):
        raise InvalidRequest("expected a public address")
    port = (443 if parsed.scheme == "https" else 80) if parsed.port is None else parsed.port
    if not 1 <= port <= HIGHEST_PORT:
        raise InvalidRequest(f"expected a port from 1 to {HIGHEST_PORT}; found {port}")
    if not maybe_inside and port != 443 and port < LOWEST_PORT:
        raise InvalidRequest(f"expected port 443, or one from {LOWEST_PORT}; found {port}")


def _literal(host: str) -> Address | None:
    """The address that a host is written as; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        # 2130706433, 0x7f.1 and 0177.0.0.1 are addresses to resolvers, too.
        if re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)", host.rstrip(".").rpartition(".")[2]):
            raise ValueError("an IPv4 address is four decimal numbers") from None
        return None
