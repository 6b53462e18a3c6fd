"""Asking a model server byte for byte: no client library that mends URLs, repeats requests or unpacks answers."""

import http.client
import json
import socket
from typing import NamedTuple
from urllib.parse import urlsplit


class Reply(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)


class Server(NamedTuple):
    """A server to ask, byte for byte."""

    target: str
    url: str

    def ask(self, method, path, body=None, headers=None, timeout=60):
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def post(self, path, body):
        return self.ask("POST", path, body if isinstance(body, bytes | str) else json.dumps(body))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
