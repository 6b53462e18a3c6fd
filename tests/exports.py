"""A method that is no longer as it was initialised: itself, its run folder, its SavedModel."""

import io
import json

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from descargan_tf import flags as flags_module
from descargan_tf import run_folder
from descargan_tf.data.images import Scaling
from descargan_tf.export import reference, saved_model, warmup
from descargan_tf.export.bytes_input import FileRule
from descargan_tf.methods.base import Method
from descargan_tf.methods.descargan import DeScarGAN, DeScarGANSettings
from descargan_tf.models.blocks import BatchNormalization
from descargan_tf.training import checkpoint
from descargan_tf.types import Prediction

SIZE = 64
TINY = ("--dataset=synthetic", "--image_size=64", "--generator_filters=3", "--discriminator_filters=2")
SPLITS = ("--num_train=4", "--num_validate=3", "--num_test=3")
UINT8 = FileRule(Scaling(0, 255), "uint8")


def lively_method(seed=0, **changes):
    """A DeScarGAN whose normalisations have statistics, scales and offsets unlike 0 and 1."""
    keras.utils.set_random_seed(seed)
    settings = {"image_size": SIZE, "generator_filters": 3, "discriminator_filters": 2, **changes}
    method = DeScarGAN(DeScarGANSettings(**settings))
    rng = np.random.default_rng(seed)
    for network in method.networks.values():
        for layer in network._flatten_layers():
            if hasattr(layer, "moving_variance"):
                shape = layer.gamma.shape
                layer.moving_mean.assign(rng.normal(0, 0.3, shape))
                layer.moving_variance.assign(rng.uniform(0.5, 2, shape))
                layer.gamma.assign(rng.uniform(0.5, 1.5, shape))
                layer.beta.assign(rng.normal(0, 0.3, shape))
    # Untrained, it calls every image as healthy as the next.
    head = method.networks["discriminator"].get_layer("classifier").layers[-1]
    head.kernel.assign(head.kernel * 200)
    return method


def make_run(folder, *flags):
    """A run folder as training leaves it, of weights that no initialiser draws."""
    config = run_folder.configure(["main", "--mode=generate", *TINY, *SPLITS, f"--run_dir={folder}", *flags])
    method = run_folder.build_method(config)
    source = lively_method()
    for name, network in method.networks.items():
        network.set_weights(source.networks[name].get_weights())
    arrays = {}
    for name, network in method.networks.items():
        arrays |= checkpoint.network_arrays("averaged" if name == "generator" else f"networks/{name}", network)
    folder.mkdir(parents=True)
    about = {"step": 7, "trained_seconds": 90.0, "machine": "a machine", "git_commit": "c0ffee"}
    checkpoint.save(folder / "checkpoints" / "best", arrays, about)
    (folder / "flags.txt").write_text(flags_module.lines(config))
    (folder / "data.json").write_text(json.dumps({"scaling": [-1, 1], "dtype": "float32", "digest": "0"}))
    return method


def statistics_of(network):
    return [layer for layer in network._flatten_layers() if isinstance(layer, BatchNormalization)]


def write_export(folder, method, rule=UINT8, precision="float32", live_float32=None):
    """A SavedModel with all that `verify` reads."""
    saved_model.write_saved_model(folder, saved_model.Predictor(method, SIZE), rule)
    images = reference.drawn_images(2, SIZE)
    files, _ = reference.encode(images, rule)
    requests = [
        warmup.Request("descargan", "serving_default", {"image": images}),
        warmup.Request("descargan", "serving_bytes", {"image_bytes": files[:1]}),
    ]
    warmup.write_requests(folder, requests)
    reference.write_reference(folder, live_float32 or method, SIZE, rule, precision)
    return folder


def encoded(pixels, kind="PNG", **options):
    """An array, or a picture of Pillow's, as the bytes of a file."""
    buffer = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


class OnlyClasses(Method):
    """A method without maps, and without networks."""

    networks = {}  # noqa: RUF012
    averaged = ""
    phases = ()

    def weights(self, phase):
        """None."""

    def draws(self, phase, batch_size):
        """None."""

    def losses(self, phase, batch, draws, input_gradient):
        """None."""

    def predict(self, images):
        p = tf.sigmoid(tf.reduce_mean(images, axis=(1, 2, 3)))
        return Prediction(None, None, None, tf.stack([1 - p, p], axis=1))
