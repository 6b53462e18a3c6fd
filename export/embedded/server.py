"""The embedded model server: python -m export.embedded --model_base_path=exports/descargan --rest_api_port=8501

For local use, tests and small installations: one process that speaks TensorFlow Serving's REST contract (and its gRPC
Predict where tensorflow-serving-api is installed) and shows a viewer page at /. Production is TensorFlow Serving itself
with the files in export/serving/, and clients need not know which of the two they talk to. Flags have TensorFlow
Serving's names. Unlike it, this server listens on 127.0.0.1 unless told otherwise; it does not ask who is calling.
"""

import contextlib
import dataclasses
import logging
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from descargan_tf import flag_fields, flagfiles, program, signals, surroundings
from descargan_tf.errors import UserError
from descargan_tf.files import reason
from descargan_tf.server_flags import ServerFlags

with surroundings.loading():
    import tensorflow  # noqa: F401 (what it writes is held back here, and not where the modules below import it)

import uvicorn

from . import batching, models, monitoring
from .batching import Batcher, BatchingParameters
from .http_app import HttpSettings, RestEndpoint, build_app
from .models import LoadSettings, ModelConfig, ModelManager
from .monitoring import Metrics
from .rest_api import RestApi

_LOOK_SECONDS = 0.2  # between looks whether a signal has come
_BACKLOG = 1024  # connections that wait to be taken
_GRACE_SECONDS = 5  # beyond the time limit of a request, to write the last answers


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """Everything that a server is told. Ports: 0 is off, None takes a free one."""

    models: Sequence[ModelConfig]
    host: str = ServerFlags.host
    rest_api_port: int | None = ServerFlags.rest_api_port
    port: int = ServerFlags.port  # of gRPC
    http: HttpSettings = dataclasses.field(default_factory=HttpSettings)
    load: LoadSettings = dataclasses.field(default_factory=LoadSettings)
    batching: BatchingParameters | None = None  # None: every request runs by itself
    max_instances: int = ServerFlags.max_instances
    model_config_file: str | None = None


class EmbeddedServer:
    """A server in this process: `with EmbeddedServer(settings) as server:` answers at `server.url`.

    Raises:
        UserError: a port is taken, a model has no version or one that cannot be loaded.
    """

    def __init__(self, settings: ServerSettings):
        self._settings = settings
        # Ports first: a taken one is found before models are loaded. Nothing listens until they are.
        self._socket = _bind(settings.host, settings.rest_api_port) if settings.rest_api_port != 0 else None
        self.metrics = Metrics()
        self.manager = ModelManager(list(settings.models), settings.load, settings.model_config_file)
        self._stack = contextlib.ExitStack()
        self._thread = self._uvicorn = self._grpc = None

    @property
    def url(self) -> str:
        """Of the REST API, without /v1."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _start(self, stack):
        settings, http = self._settings, self._settings.http
        if self._socket:
            stack.callback(self._socket.close)
        stack.callback(self.manager.stop)
        self.manager.start()
        run = batching.run_alone
        if settings.batching:
            batcher = Batcher(settings.batching, self.metrics.record_batch)
            stack.callback(batcher.stop)
            run = batcher.run
        timeout_seconds = http.rest_api_timeout_in_ms / 1000
        if settings.port:
            from .grpc_service import GrpcServer

            self._grpc = GrpcServer(
                f"{settings.host}:{settings.port}",
                self.manager,
                run,
                self.metrics,
                http.rest_api_num_threads,
                timeout_seconds,
                http.max_request_bytes,
            )
            stack.callback(self._grpc.stop, timeout_seconds + _GRACE_SECONDS)
        if self._socket:
            api = RestApi(self.manager, run, settings.max_instances, http.max_request_bytes)
            endpoint = RestEndpoint(api, self.metrics, self.manager, http)
            stack.callback(endpoint.close)
            try:
                self._socket.listen(_BACKLOG)
            except OSError as error:  # another server was bound to the port, too, and was faster
                raise _taken(settings.host, settings.rest_api_port, error) from error
            config = uvicorn.Config(
                build_app(endpoint, self.metrics, self.manager.names[0], http),
                log_config=None,
                access_log=False,
                lifespan="off",
                # uvicorn would take httptools where that is installed, which ends a request at an offer to upgrade,
                # as `curl --http2` makes it, and loses the body.
                http="h11",
                ws="none",
                proxy_headers=False,  # nothing here depends on what a proxy says of its caller
                timeout_keep_alive=60,
                server_header=False,
                timeout_graceful_shutdown=int(timeout_seconds) + _GRACE_SECONDS,
            )
            self._uvicorn = uvicorn.Server(config)
            self._thread = threading.Thread(
                target=self._uvicorn.run, kwargs={"sockets": [self._socket]}, name="http", daemon=True
            )
            self._thread.start()
            stack.callback(self._stop_http)
            while not self._uvicorn.started and self._thread.is_alive():
                self._thread.join(0.01)
            if not self._uvicorn.started:
                raise RuntimeError("the HTTP server ended while it started; its traceback is above")

    def _stop_http(self):
        """Take no more connections and answer what is at work."""
        self._uvicorn.should_exit = True
        self._thread.join()


def serve(settings: ServerSettings) -> int:
    """Serve until a signal comes, then answer what is at work.

    Returns:
        The exit status, 0: asked to stop, and stopped, which is a server's usual end.

    Raises:
        UserError: the server cannot start.
        signals.Stopped: a signal came before it served, or Ctrl-C again while it answered.
    """
    program.go_on_unheard()  # a server is not there for its log
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for library in ("tensorflow", "uvicorn"):  # one says that sessions are old, the other every start and stop
        logging.getLogger(library).setLevel(logging.ERROR)
    ending = signals.Ending()
    with contextlib.ExitStack() as running:
        with signals.leaving("it had not begun to serve"):
            server = running.enter_context(EmbeddedServer(settings))
        with signals.leaving("not all that was at work is answered"), signals.caught(ending):
            for name in server.manager.names:
                if settings.rest_api_port != 0:
                    print(f"serving {name} at {server.url}/v1/models/{name}", flush=True)
            if settings.rest_api_port != 0:
                print(f"viewer: {server.url}/    stop: Ctrl-C or SIGTERM", flush=True)
            if settings.port:
                print(f"gRPC: {settings.host}:{settings.port}", flush=True)
            while ending.number is None:  # no threading.Event: a handler must not take a lock that it may interrupt
                time.sleep(_LOOK_SECONDS)
            print("stopping: answering what is at work", flush=True)
            running.close()
    return 0


def settings_from_flags(argv: Sequence[str]) -> ServerSettings:
    """The command line of the server by itself.

    Raises:
        UserError: an unknown flag, a value that cannot be, no model.
    """
    flag_fields.help_if_asked(ServerFlags, argv, __doc__)
    texts = [argument.text for argument in flagfiles.expanded(argv[1:])]
    return settings(ServerFlags(**flag_fields.values(ServerFlags, [argv[0], *texts])))


def settings(
    chosen: ServerFlags, exported: ModelConfig | None = None, its_batches: BatchingParameters | None = None
) -> ServerSettings:
    """What flags ask for.

    Args:
        chosen: the flags.
        exported: what is served where they name no model; else one must be named.
        its_batches: how requests to that are joined where they do not say.

    Raises:
        UserError: no model, or no port, or both ports are one, or a file that they name cannot be read.
    """
    if chosen.names_models or exported is None:
        exported = its_batches = None
        if bool(chosen.model_base_path) == bool(chosen.model_config_file):
            raise UserError(
                "name the models: either --model_base_path=<folder of version folders> or --model_config_file."
            )
    if not chosen.rest_api_port and not chosen.port:
        raise UserError("--rest_api_port=0 and --port=0 leave nothing to answer at.")
    if chosen.rest_api_port == chosen.port:
        raise UserError(f"--rest_api_port and --port are both {chosen.port}: they need ports of their own.")
    if chosen.model_config_file:
        configs = models.read_configs(chosen.model_config_file)
    else:
        configs = [exported or ModelConfig(chosen.model_name or "default", Path(chosen.model_base_path))]
    batches = None
    if its_batches is not None if chosen.enable_batching is None else chosen.enable_batching:
        batches = its_batches or BatchingParameters()
        if chosen.batching_parameters_file:
            batches = batching.read_parameters(chosen.batching_parameters_file)
    elif chosen.batching_parameters_file:
        raise UserError(f"--batching_parameters_file={chosen.batching_parameters_file} needs --enable_batching.")
    metrics_path = monitoring.PATH
    if chosen.monitoring_config_file:
        metrics_path = monitoring.read_path(chosen.monitoring_config_file)
    return ServerSettings(
        models=configs,
        host=chosen.host,
        rest_api_port=chosen.rest_api_port,
        port=chosen.port,
        http=HttpSettings(
            rest_api_timeout_in_ms=chosen.rest_api_timeout_in_ms,
            rest_api_num_threads=chosen.rest_api_num_threads or HttpSettings().rest_api_num_threads,
            rest_api_enable_cors_support=chosen.rest_api_enable_cors_support,
            max_request_bytes=chosen.max_request_bytes,
            metrics_path=metrics_path,
        ),
        load=LoadSettings(
            poll_seconds=chosen.file_system_poll_wait_seconds,
            config_poll_seconds=chosen.model_config_file_poll_wait_seconds,
            retries=chosen.max_num_load_retries,
            retry_seconds=chosen.load_retry_interval_micros / 1e6,
            warm_up=chosen.enable_model_warmup,
            labels_for_unavailable=chosen.allow_version_labels_for_unavailable_models,
        ),
        batching=batches,
        max_instances=chosen.max_instances,
        model_config_file=chosen.model_config_file or None,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 stopped when asked to, 2 the server cannot start, 128 + n signal n came before it served.
    """
    return program.run(lambda: serve(settings_from_flags(argv or sys.argv)))


def _bind(host, port):
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise _taken(host, port, error) from error
    return bound


def _taken(host, port, error):
    return UserError(f"cannot listen on {host}:{port}: {reason(error)}. Name another --rest_api_port.")
