"""The embedded server's HTTP side: limits of size and time, CORS, the viewer page and the metrics."""

import asyncio
import dataclasses
import logging
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from descargan_tf.server_flags import ServerFlags

from . import monitoring, rest_contract
from .models import ModelManager
from .monitoring import Metrics
from .rest_api import RestApi
from .status import Code, ServingError

VIEWER = Path(__file__).with_name("viewer.html")

_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
# What TensorFlow Serving says to a path that it does not know is HTML, too.
_NOT_FOUND = "<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>\n"
_GZIP = ("gzip", "x-gzip")  # two names of one coding, RFC 9110, 8.4.1.3
_AUTHORITY = re.compile("https?://[^/?#]*", re.IGNORECASE)
_METRIC_APIS = {"predict": "Predict", "classify": "Classify", "regress": "Regress"}

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class HttpSettings:
    """Limits of a request; the first three bear TensorFlow Serving's names and defaults where it has one.

    Departs: the limits of a body's size, of its arrival and of the requests that wait are this server's own, as it has
    nothing before it that would keep them. Beyond them it answers 413, 408 and 503.
    """

    rest_api_timeout_in_ms: int = ServerFlags.rest_api_timeout_in_ms
    rest_api_num_threads: int = dataclasses.field(default_factory=lambda: 4 * (os.cpu_count() or 1))
    rest_api_enable_cors_support: bool = ServerFlags.rest_api_enable_cors_support
    max_request_bytes: int = ServerFlags.max_request_bytes
    max_waiting_requests: int = 256
    metrics_path: str | None = monitoring.PATH


class RestEndpoint:
    """Every path that no route took: the REST API, or 404."""

    def __init__(self, api: RestApi, metrics: Metrics, manager: ModelManager, settings: HttpSettings):
        self._api, self._metrics, self._settings = api, metrics, settings
        self._manager = manager
        self._pool = ThreadPoolExecutor(settings.rest_api_num_threads, thread_name_prefix="request")
        self._waiting = 0
        self._headers = _CORS if settings.rest_api_enable_cors_support else {}

    def close(self) -> None:
        """Wait for the requests that are still at work."""
        self._pool.shutdown(cancel_futures=True)

    async def __call__(self, scope, receive, send):
        """ASGI."""
        try:
            response = await self._respond(Request(scope, receive))
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _respond(self, request):
        # The API's URL rules are about path and query together, as they were sent.
        target = request.scope["raw_path"].decode("latin-1")
        if request.scope["query_string"]:
            target += "?" + request.scope["query_string"].decode("latin-1")
        if not target.lower().startswith("/v1/"):
            return Response(_NOT_FOUND, 404, media_type="text/html")
        if request.method == "OPTIONS":
            asks = any(scheme in request.headers.get("origin", "") for scheme in ("http://", "https://"))
            return Response(status_code=200 if asks else 400, headers=self._headers)
        try:
            route = rest_contract.parse_route(request.method, target)
        except ServingError as error:
            return self._failure(error)
        started = time.monotonic()
        self._waiting += 1
        try:
            code, response = await self._answer(request, route, started)
        finally:
            self._waiting -= 1
        if route.verb in _METRIC_APIS:
            # Names that callers make up must not fill the memory.
            model = route.model if route.model in self._manager.names else "(unknown)"
            self._metrics.record_request(model, _METRIC_APIS[route.verb], "REST", code, time.monotonic() - started)
        return response

    async def _answer(self, request, route, started):
        settings = self._settings
        deadline = started + settings.rest_api_timeout_in_ms / 1000
        if self._waiting > settings.max_waiting_requests:
            error = ServingError(
                Code.UNAVAILABLE, f"{self._waiting} requests are at work or waiting; try again in a moment"
            )
            return error.code, self._failure(error, headers={"Retry-After": "1"})
        body = b""
        if request.method == "POST":
            try:
                async with asyncio.timeout_at(_loop_time(deadline)):
                    body = await self._read_body(request)
            except TimeoutError:
                error = ServingError(
                    Code.DEADLINE_EXCEEDED,
                    f"The request did not arrive in {settings.rest_api_timeout_in_ms} ms (--rest_api_timeout_in_ms)",
                )
                return error.code, self._failure(error, 408)
            except ServingError as error:
                return error.code, self._failure(error, 413)
        coding = ",".join(request.headers.getlist("content-encoding")).strip().lower()
        if body and coding not in ("", "identity", *_GZIP):
            # Departs: TensorFlow Serving takes such bytes for JSON, and complains of that.
            error = ServingError(
                Code.INVALID_ARGUMENT, f"Content-Encoding {coding} is not read here: send the body plain, or as gzip"
            )
            return error.code, self._failure(error, 415)
        work = asyncio.get_running_loop().run_in_executor(
            self._pool, self._api.answer, route, body, coding in _GZIP, deadline
        )
        try:
            async with asyncio.timeout_at(_loop_time(deadline)):
                content = await work
        except TimeoutError:
            error = ServingError(
                Code.DEADLINE_EXCEEDED,
                f"The request took longer than {settings.rest_api_timeout_in_ms} ms (--rest_api_timeout_in_ms)",
            )
            return error.code, self._failure(error)
        except ServingError as error:
            return error.code, self._failure(error)
        except Exception:
            logger.exception("a defect of this server in %s", route)
            return Code.INTERNAL, self._failure(ServingError(Code.INTERNAL, "Internal error; see the server's log"))
        return Code.OK, Response(content, media_type="application/json", headers=self._headers)

    async def _read_body(self, request):
        limit = self._settings.max_request_bytes
        chunks, size = [], 0
        announced = request.headers.get("content-length", "0")
        # Who waits for leave to send is told at once; others only hear an answer when they have sent all.
        polite = request.headers.get("expect", "").lower() == "100-continue"
        if not (polite and announced.isdigit() and int(announced) > limit):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limit:
                    chunks.append(chunk)
                else:
                    chunks.clear()
        if max(size, int(announced) if announced.isdigit() else 0) > limit:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"The body has more than {limit} bytes (--max_request_bytes): send fewer images at a time, "
                "or PNG bytes instead of numbers",
            )
        return b"".join(chunks)

    def _failure(self, error, status=None, headers=None):
        return Response(
            rest_contract.write_error(error.message),
            status or error.code.http_status,
            media_type="application/json",
            headers={**self._headers, **(headers or {})},
        )


def build_app(endpoint: RestEndpoint, metrics: Metrics, model_name: str, settings: HttpSettings) -> ASGIApp:
    """The whole of what the port answers; the viewer page is told the model's name."""

    async def viewer(request):
        if "model" not in request.query_params:
            # Relative, so that it stays under whatever path a proxy has put in front, and keeps what else was asked.
            query = request.scope["query_string"].decode("latin-1")
            return RedirectResponse(f"?{query}{'&' if query else ''}model={quote(model_name, safe='')}")
        if not VIEWER.exists():
            return PlainTextResponse(f"The viewer page is not installed: {VIEWER.name} is missing.\n", 404)
        return FileResponse(VIEWER, media_type="text/html")

    async def measure(_):
        return Response(metrics.page(), headers={"Content-Type": monitoring.CONTENT_TYPE})

    routes = [Route("/", viewer)]
    if settings.metrics_path:
        routes.append(Route(settings.metrics_path, measure))
    # No redirect for a slash too many: Starlette's would name this host, which a proxy's callers cannot reach.
    router = Router([*routes, Route("/{path:path}", endpoint)], redirect_slashes=False, default=endpoint)

    async def app(scope, receive, send):
        await router(_in_origin_form(scope), receive, send)

    return app


def _in_origin_form(scope):
    """`GET http://host/path`, as a proxy may send it and every server must take it, is `GET /path`: RFC 9112, 3.2.2."""
    target = scope["raw_path"].decode("latin-1")
    authority = _AUTHORITY.match(target)
    if not authority:
        return scope
    path = target[authority.end() :] or "/"
    return {**scope, "raw_path": path.encode("latin-1"), "path": unquote(path)}


def _loop_time(deadline):
    return asyncio.get_running_loop().time() + max(0.0, deadline - time.monotonic())
