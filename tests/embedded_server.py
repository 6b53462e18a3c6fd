"""What the suites of the embedded server share: one in this process, its versions, and waiting for them."""

import contextlib
import os
import shutil
import time

import numpy as np
from serving_http import Server

from descargan_tf.export.embedded.http_app import HttpSettings
from descargan_tf.export.embedded.models import LoadSettings, read_configs
from descargan_tf.export.embedded.server import EmbeddedServer, ServerSettings

PLAIN = "/v1/models/half_plus_two:predict"
IMAGE = np.full((16, 16, 1), 0.25, np.float32)
FAST = LoadSettings(poll_seconds=0.02)


@contextlib.contextmanager
def serving(config, **changes):
    """An embedded server; HTTP settings are given by their own names."""
    http = {name: changes.pop(name) for name in list(changes) if name in HttpSettings.__dataclass_fields__}
    configs = config if isinstance(config, list) else read_configs(config)
    settings = ServerSettings(configs, rest_api_port=None, http=HttpSettings(**http), **changes)
    with EmbeddedServer(settings) as embedded:
        yield Server("embedded", embedded.url)


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def states(server, name="m"):
    return {
        entry["version"]: entry["state"]
        for entry in server.ask("GET", f"/v1/models/{name}").json["model_version_status"]
    }


def publish(base, version, source):
    """As an exporter does: written beside, then renamed."""
    shutil.copytree(source, base / f".{version}.partial")
    os.rename(base / f".{version}.partial", base / str(version))
