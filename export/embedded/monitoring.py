"""Prometheus metrics under TensorFlow Serving's names, so that its dashboards and autoscalers work here too."""

from pathlib import Path

import prometheus_client

from descargan_tf.errors import UserError

from .status import Code
from .text_protos import parse_file

PATH = "/monitoring/prometheus/metrics"
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

_PREFIX = ":tensorflow:serving:"
_REQUEST_COUNT = f"{_PREFIX}request_count"
# Microseconds: 33 buckets from 10, each 1.8 times the one before (the last is 25 minutes).
_LATENCY_BUCKETS = [10 * 1.8**power for power in range(33)]
_SIZE_BUCKETS = [2**power for power in range(11)]

prometheus_client.disable_created_metrics()  # TensorFlow Serving has none


class Metrics:
    """What one server counts."""

    def __init__(self):
        self._registry = prometheus_client.CollectorRegistry()
        self._requests = prometheus_client.Counter(
            _REQUEST_COUNT, "Requests, by outcome", ["model_name", "status"], registry=self._registry
        )
        self._latency = prometheus_client.Histogram(
            f"{_PREFIX}request_latency",
            "Wall time of a request from its headers to its answer, microseconds",
            ["model_name", "API", "entrypoint"],
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._batch_size = prometheus_client.Histogram(
            f"{_PREFIX}batching_session:processed_batch_size",
            "Rows of a batch that ran, padding included",
            buckets=_SIZE_BUCKETS,
            registry=self._registry,
        )

    def record_request(self, model_name: str, api: str, entrypoint: str, code: Code, seconds: float) -> None:
        """Count an answered request: api is Predict, Classify or Regress, entrypoint REST or GRPC."""
        self._requests.labels(model_name, code.name).inc()
        self._latency.labels(model_name, api, entrypoint).observe(1e6 * seconds)

    def record_batch(self, size: int) -> None:
        """Count a batch that ran."""
        self._batch_size.observe(size)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        page = prometheus_client.generate_latest(self._registry)
        # The library insists on the suffix _total, which TensorFlow Serving's counter does not have.
        return page.replace(f"{_REQUEST_COUNT}_total".encode(), _REQUEST_COUNT.encode())


def read_path(config_file: str | Path) -> str | None:
    """Where a `monitoring.config` puts the metrics; None where it does not enable them.

    Raises:
        UserError: it cannot be read, or the path does not begin with a slash.
    """
    config = parse_file("MonitoringConfig", config_file).prometheus_config
    path = config.path or PATH
    if not path.startswith("/"):
        raise UserError(f"{config_file}: path is {path!r}, expected to begin with a slash, such as {PATH}.")
    return path if config.enable else None
