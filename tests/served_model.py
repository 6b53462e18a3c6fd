"""A tiny DeScarGAN behind the embedded server, and the live method that it was exported from."""

import contextlib
import functools
import tempfile
from pathlib import Path

import keras

from descargan_tf.data.images import Scaling
from descargan_tf.export.bytes_input import FileRule
from descargan_tf.export.embedded.http_app import HttpSettings
from descargan_tf.export.embedded.models import ModelConfig
from descargan_tf.export.embedded.server import EmbeddedServer, ServerSettings
from descargan_tf.export.saved_model import Predictor, write_saved_model
from descargan_tf.methods.descargan import DeScarGAN, DeScarGANSettings

SIZE = 64
UNITS = Scaling(0, 255)


@contextlib.contextmanager
def serve(cors=False, max_request_bytes=2**20):
    """The address of a server of `descargan`, version 1."""
    http = HttpSettings(rest_api_enable_cors_support=cors, max_request_bytes=max_request_bytes)
    models = [ModelConfig("descargan", Path(_exported().name))]
    with EmbeddedServer(ServerSettings(models, rest_api_port=None, http=http)) as server:
        yield server.url


@functools.cache
def live_method():
    keras.utils.set_random_seed(4)
    settings = DeScarGANSettings(
        image_size=SIZE,
        generator_filters=2,
        discriminator_filters=2,
        critic_updates=1,
        generator_learning_rate=1e-3,
        discriminator_learning_rate=1e-3,
        distance="mse",
    )
    return DeScarGAN(settings)


@functools.cache
def _exported():
    base = tempfile.TemporaryDirectory()  # lives as long as this cache
    write_saved_model(Path(base.name) / "1", Predictor(live_method(), SIZE), FileRule(UNITS, "uint8"))
    return base
