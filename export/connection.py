"""How the client reaches its server: an address without secrets, the headers that hold them, the proxy between."""

import base64
import ipaddress
import os
import re
import urllib.request
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import urllib3

from descargan_tf.errors import UserError

_EXAMPLE = "expected scheme, host and port, such as http://127.0.0.1:8501"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_OWN_HEADERS = ("content-encoding", "content-length", "transfer-encoding")  # say what the client does with the body


class Address(NamedTuple):
    """Where a server is."""

    url: str  # without user, password and a slash at its end
    scheme: str
    host: str
    port: int
    authorization: str | None  # a header's value, of the user and password that stood in the URL


class Proxy(NamedTuple):
    """What stands between, as the environment says."""

    url: str  # without user and password
    variable: str  # that named it
    authorization: str | None

    def __str__(self):
        return f"{self.url} ({self.variable})"


def without_secrets(url: str) -> str:
    """A URL, or what was meant to be one, without user and password, whatever characters those hold."""
    return re.sub(r"^(\w[\w+.-]*://)?.*@", lambda match: match[1] or "", url, flags=re.DOTALL)


def parse_address(text: str) -> Address:
    """The URL of a server's REST API; messages never hold the user and password in it.

    Raises:
        UserError: no URL, or one that holds more than a server's address.
    """
    shown = without_secrets(text)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:  # whose words may be a part of the password
        raise UserError(
            f"{shown} is no server URL: its host or port cannot be told; {_EXAMPLE}. User and password before the host "
            "are percent-encoded"
        ) from None
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(f"{shown} is no server URL; {_EXAMPLE}")
    if "@" in parts.path + parts.query + parts.fragment:
        raise UserError(
            f"{shown}: user and password in a server URL must be percent-encoded: %40 for @, %2F for /, %3F for ?, "
            "%23 for #"
        )
    if parts.query or parts.fragment:
        raise UserError(f"{shown} is no server URL; {_EXAMPLE}")
    api = re.search(r"/v1(/models(/.*)?)?/*$", parts.path)
    if api:
        base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path[: api.start()]}"
        raise UserError(f"{shown} is more than a server URL: give {base}, and the model's name by itself")
    netloc = parts.netloc.rpartition("@")[2]
    return Address(
        f"{parts.scheme}://{netloc}{parts.path}".rstrip("/"),
        parts.scheme,
        host,
        port or {"http": 80, "https": 443}[parts.scheme],
        _basic(parts),
    )


def _basic(parts):
    if not (parts.username or parts.password):
        return None
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def parse_header(text: str) -> tuple[str, str]:
    """Name and value of "Name: value", as curl's -H takes it; a message never holds the value.

    Raises:
        UserError: there is no name, or no colon behind it.
    """
    name, colon, value = text.partition(":")
    if not colon:
        raise UserError('a header without a colon; expected "Name: value", such as "Authorization: Bearer <token>"')
    return name.strip(), value


def build_headers(address: Address, given: Mapping[str, str] | Iterable[tuple[str, str]]) -> urllib3.HTTPHeaderDict:
    """What goes out with every request.

    Raises:
        UserError: a header that cannot be sent, or one that contradicts another.
    """
    headers = urllib3.HTTPHeaderDict()
    for name, value in given.items() if isinstance(given, Mapping) else given:
        if not _NAME.fullmatch(name):
            raise UserError(f"{name!r} is no header's name; expected letters, digits and hyphens")
        if name.lower() in _OWN_HEADERS:
            raise UserError(f"the header {name} is the client's own, as it makes the body; leave it out")
        value = value.strip(" \t\r\n")
        if _CONTROLS.search(value):
            raise UserError(f"the header {name} holds a line break or another control character")
        # Bytes go out as latin-1; this makes them UTF-8, as curl's are.
        headers.add(name, value.encode("utf-8", "surrogateescape").decode("latin-1"))
    if address.authorization:
        if "authorization" in headers:
            raise UserError("user and password in the URL and an Authorization header were both given; keep one")
        headers["Authorization"] = address.authorization
    return headers


def find_proxy(address: Address) -> Proxy | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names for a server, unless NO_PROXY excepts it.

    In small letters, too, which go first. NO_PROXY lists hosts, domains, addresses, networks (10.0.0.0/8) and
    host:port, or is *. As with curl and requests, 127.0.0.1 is no exception by itself.

    Raises:
        UserError: what it names is no HTTP proxy.
    """
    proxies = urllib.request.getproxies()
    text = proxies.get(address.scheme) or proxies.get("all")
    if not text or _is_excepted(address, proxies.get("no", "")):
        return None
    names = (f"{address.scheme}_proxy", f"{address.scheme}_PROXY".upper(), "all_proxy", "ALL_PROXY")
    variable = next((name for name in names if os.environ.get(name) == text), "the system's settings")
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or "@" in parts.path:
            raise ValueError
    except ValueError:
        raise UserError(
            f"{variable}={without_secrets(text)} is no HTTP proxy; expected http://host:port; "
            f"NO_PROXY={address.host} goes around it"
        ) from None
    return Proxy(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", variable, _basic(parts))


def _is_excepted(address, exceptions):
    host = f"[{address.host}]" if ":" in address.host else address.host
    if urllib.request.proxy_bypass(f"{host}:{address.port}"):
        return True
    try:
        number = ipaddress.ip_address(address.host)
    except ValueError:
        return False
    for entry in exceptions.replace(",", " ").split():
        try:
            if number in ipaddress.ip_network(entry.strip("[]"), strict=False):
                return True
        except ValueError:  # a name, with which the standard library has dealt
            continue
    return False


def open_pool(proxy: Proxy | None, **settings) -> urllib3.PoolManager:
    """Connections to a server, through a proxy where there is one."""
    if proxy is None:
        return urllib3.PoolManager(**settings)
    headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else None
    return urllib3.ProxyManager(proxy.url, proxy_headers=headers, **settings)
