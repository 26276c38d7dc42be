"""Which addresses are spoken to: never the node's own services, and never further inside than who redirects there.

Checked on the address a connection is about to be made to, not on the name, so that a name which means one address when
it is checked and another when it is used gains nothing. What a proxy resolves is the proxy's to check.
"""

import functools
import http.client
import ipaddress
import socket
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

__all__ = ["EVERYWHERE", "Forbidden", "Network", "Reach", "Request", "Unreachable", "handlers", "reach_of"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NODES_OWN = frozenset(("100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"))
"""Where clouds answer a machine about itself outside the link-local range."""


class Unreachable(Exception):
    """No answer: refused, reset, timed out, certificate not trusted, or a redirect that must not be followed."""


class Forbidden(Unreachable):
    """An address that is never spoken to, or not from here; another try would be refused as well."""


class Reach(IntEnum):
    """How far inside an address is."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2


def reach_of(text: str) -> Reach | None:
    """How far inside an address is; None for link-local, multicast and unspecified ones, and clouds' own."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        elif address.ipv4_mapped:
            address = address.ipv4_mapped
    if address.is_link_local or address.is_multicast or address.is_unspecified or str(address) in _NODES_OWN:
        return None
    if address.is_loopback:
        return Reach.LOOPBACK
    return Reach.PUBLIC if address.is_global else Reach.PRIVATE


@dataclass(frozen=True)
class Network:
    """The rule; `admitted` are addresses that are spoken to although they describe the node, for tokens alone."""

    admitted: frozenset[str] = frozenset()
    reach: Callable[[str], Reach | None] = reach_of

    def admitting(self, addresses: Iterable[str]) -> "Network":
        """The same with more addresses admitted."""
        return replace(self, admitted=self.admitted | set(addresses))

    def check(self, host: str, address: str, furthest: Reach) -> Reach:
        """How far inside the address is; raises Forbidden."""
        found = Reach.PRIVATE if address in self.admitted else self.reach(address)
        if found is None:
            raise Forbidden(
                f"{host} is {address}, an address of the node's own services; it is never asked for content"
            )
        if found > furthest:
            raise Forbidden(
                f"{host} is the {found.name.lower()} address {address}, to which no outside server may redirect"
            )
        return found

    def check_literal(self, host: str, furthest: Reach) -> None:
        """The same for a host that is an address already, which holds behind a proxy too."""
        address = _literal(host)
        if address:
            self.check(host, address, furthest)

    def check_named(self, host: str) -> None:
        """Every address that a name has now; for clients that make their own connections. Raises Forbidden."""
        try:
            found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        except OSError:
            return
        for address in found:
            self.check(host, address, Reach.LOOPBACK)

    def connect(self, where: tuple[str, int], timeout: float | None, request: "Request") -> socket.socket:
        """A connection to the first address that answers; all of them must be allowed."""
        host, port = where
        found = dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        reached = [self.check(host, address, request.furthest) for address in found] if not request.proxied else []
        request.reached = max(reached, default=Reach.PUBLIC)
        failed: OSError = OSError(f"{host} has no address")
        for address in found:
            try:
                return socket.create_connection((address, port), timeout)
            except OSError as error:
                failed = error
        raise failed


EVERYWHERE = Network()
"""Wherever the rule lets anybody go."""


class Request(urllib.request.Request):
    """A request that knows how far inside it may reach, and then how far it did."""

    furthest = Reach.LOOPBACK
    reached = Reach.PUBLIC

    @property
    def proxied(self) -> bool:
        """Whether the connection is to a proxy."""
        return self.has_proxy() or getattr(self, "_tunnel_host", None) is not None


class _Connection(http.client.HTTPConnection):
    def __init__(self, host: str, *, network: Network, request: Request, **arguments: Any) -> None:
        super().__init__(host, **arguments)
        self._create_connection = functools.partial(_connect, network, request)


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, host: str, *, network: Network, request: Request, **arguments: Any) -> None:
        super().__init__(host, **arguments)
        self._create_connection = functools.partial(_connect, network, request)


def _connect(
    network: Network, request: Request, where: tuple[str, int], timeout: float | None = None, _source: Any = None
) -> socket.socket:
    return network.connect(where, timeout, request)


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        assert isinstance(req, Request)
        return self.do_open(functools.partial(_Connection, network=self._network, request=req), req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, network: Network, certificates: Path | None) -> None:
        super().__init__()
        self._network = network
        self._certificates = certificates
        self._trust: Any = None

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        assert isinstance(req, Request)
        opener = functools.partial(_SecureConnection, network=self._network, request=req)
        return self.do_open(opener, req, context=self._trusted())

    def _trusted(self) -> Any:
        if self._trust is None:
            import ssl  # noqa: PLC0415 - reading the public certificates takes longer than all of the rest

            self._trust = ssl.create_default_context(cafile=self._certificates and str(self._certificates))
            self._trust.set_alpn_protocols(["http/1.1"])
        return self._trust


def handlers(network: Network, certificates: Path | None) -> tuple[urllib.request.BaseHandler, ...]:
    """urllib's handlers under this rule."""
    return _Plain(network), _Secure(network, certificates)


def _literal(host: str) -> str:
    """The address that a host is, as systems read it: 2852039166, 0xa9fea9fe and 169.254.43518 are one of IPv4 too."""
    plain = host.partition("%")[0]
    try:
        return str(ipaddress.ip_address(plain))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(plain))
    except OSError:
        return ""
