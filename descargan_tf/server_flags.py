"""The flags of the embedded server, the same for `--mode=serve` and `python -m export.embedded`.

They have TensorFlow Serving's names and, where it has one, its defaults; host, body size and rows are this one's own.
"""

import dataclasses

from descargan_tf.flag_fields import flag


def _flag(default, help, **kwargs):
    return flag(default, f"serve: {help}", of_run=False, **kwargs)


def _path(help):
    return _flag("", help, is_path=True)


@dataclasses.dataclass(frozen=True)
class ServerFlags:
    """What is served, where, and within what limits: field names are flag names."""

    model_base_path: str = _path(
        "folder of version folders (1, 2, ...); the highest number is served. --mode=serve takes --export_dir, or the "
        "run's, without it",
    )
    model_name: str = _flag("", "name of that model in URLs; default, or the method's where --mode=serve knows it")
    model_config_file: str = _path("instead: models.config, for several models, versions or labels")
    host: str = _flag("127.0.0.1", "address to listen on; 0.0.0.0 for all, behind a proxy that knows its callers")
    rest_api_port: int = _flag(8501, "of the REST API and the viewer page; 0: off", low=0, high=65535)
    port: int = _flag(0, "of gRPC; 0: off", low=0, high=65535, alias="grpc_port")
    rest_api_timeout_in_ms: int = _flag(30000, "for a request; 504 after it", low=1)
    rest_api_num_threads: int = _flag(0, "requests at a time; 0: four a core", low=0)
    rest_api_enable_cors_support: bool = _flag(False, "let web pages from elsewhere ask")
    enable_batching: bool | None = _flag(
        None,
        "join requests that come at the same time; where neither this nor --noenable_batching is given, only those to "
        "what --mode=serve serves of --export_dir or a run, as rows are independent there",
        kind=bool,
    )
    batching_parameters_file: str = _path("sizes and times of batches")
    monitoring_config_file: str = _path("path of the metrics; /monitoring/prometheus/metrics without it")
    file_system_poll_wait_seconds: int = _flag(1, "between looks for versions; 0: once", low=0)
    model_config_file_poll_wait_seconds: int = _flag(0, "between looks into models.config; 0: once", low=0)
    max_num_load_retries: int = _flag(5, "of a version that cannot be loaded while serving", low=0)
    load_retry_interval_micros: int = _flag(60_000_000, "between those", low=0)
    enable_model_warmup: bool = _flag(True, "replay the warm-up requests of a version before it serves")
    allow_version_labels_for_unavailable_models: bool = _flag(False, "for new labels")
    max_request_bytes: int = _flag(32 << 20, "of a body, packed or unpacked; 413 above it", low=1)
    max_instances: int = _flag(64, "rows of a request; 400 above it", low=1)

    @property
    def names_models(self) -> bool:
        """Whether what is served is named here."""
        return bool(self.model_base_path or self.model_config_file)
