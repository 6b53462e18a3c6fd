"""What judge.py judges, made in the project's environment: inputs, and this project's answers to them.

python tests/card/make_inputs.py FOLDER
"""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from dicom_inputs import write_dicom
from PIL import Image

from descargan_tf.data import synthetic
from descargan_tf.data.images import read_image
from descargan_tf.evaluation import metrics

ROOT = Path(__file__).resolve().parent.parent.parent
STATISTICS = ("moving", "per_image")  # both kinds of batch normalisation at inference
FLAGS = (
    "--dataset=synthetic",
    "--image_size=64",
    "--num_train=4",
    "--num_validate=4",
    "--num_test=4",
    "--batch_size=4",
    "--generator_filters=2",
    "--discriminator_filters=2",
    "--critic_updates=1",
    "--validate_every_steps=2",
    "--checkpoint_every_steps=2",
    "--max_steps=2",
    # So fast that two rounds take the probabilities away from 1/2, where rounding would choose the class.
    "--discriminator_learning_rate=5e-2",
    "--lambda_cls_d=100",
)


def program(folder, *flags):
    """Run the program as a user does; its output only where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "descargan_tf.main", *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"make_inputs: {' '.join(flags)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def train_and_export(folder):
    """exports/<statistics>/1, two rounds of training from its weights' beginning."""
    program(folder, "--mode=train", "--run_dir=run", *FLAGS)
    for statistics in STATISTICS:
        flags = (f"--batch_norm={statistics}", f"--export_dir=exports/{statistics}")
        program(folder, "--mode=export", "--run_dir=run", *flags)


def encoded_images(rng):
    """PNG of 8 and 16 bit and JPEG, each of another size."""
    eight = rng.integers(0, 256, (80, 100), dtype=np.uint8)
    sixteen = rng.integers(0, 65536, (64, 64), dtype=np.uint16)
    smooth = (127 + 120 * np.sin(np.arange(48)[:, None] / 7) * np.cos(np.arange(64) / 9)).astype(np.uint8)
    for pixels, kind in ((eight, "PNG"), (sixteen, "PNG"), (smooth, "JPEG")):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        yield buffer.getvalue()


def write_answers(folder):
    """The exports' answers in this TensorFlow: answers_<statistics>_<signature>.npz."""
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (3, 64, 64, 1)).astype(np.float32)
    encoded = list(encoded_images(rng))
    np.save(folder / "images.npy", images)
    for number, content in enumerate(encoded):
        (folder / f"encoded_{number}").write_bytes(content)
    for statistics in STATISTICS:
        (version,) = (folder / "exports" / statistics).glob("[0-9]*")
        loaded = tf.saved_model.load(str(version))
        asked = {"serving_default": {"image": images}, "serving_bytes": {"image_bytes": encoded}}
        for signature, inputs in asked.items():
            answers = loaded.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
            arrays = {name: decoded(value) for name, value in answers.items()}
            np.savez(folder / f"answers_{statistics}_{signature}.npz", **arrays)


def decoded(value):
    """A tensor as numbers; encoded pictures as their pixels."""
    if value.dtype == tf.string:
        return np.stack([tf.io.decode_png(content).numpy() for content in value])
    return value.numpy()


def write_kappa(folder):
    """Labels and disease probabilities of several splits, and Cohen's kappa as the report states it."""
    rng = np.random.default_rng(2)
    cases = {}
    for name, num_diseased, skill in (("chance", 50, 0.0), ("fair", 50, 0.3), ("good", 50, 0.9), ("rare", 5, 0.3)):
        labels = np.arange(100) < num_diseased
        probability = np.clip(0.5 + skill * (labels - 0.5) + rng.normal(0, 0.3, 100), 0, 1)
        probability[:20:2] = 0.5  # ties are healthy; all on one side, or both readings would give the same kappa
        cases[name] = (labels.astype(np.int32), probability.astype(np.float32))
    cases["reversed"] = (cases["good"][0], 1 - cases["good"][1])
    arrays = {}
    for name, (labels, probability) in cases.items():
        arrays[f"{name}/labels"], arrays[f"{name}/probability"] = labels, probability
        arrays[f"{name}/kappa"] = metrics.kappa(probability, labels)
    np.savez(folder / "kappa.npz", **arrays)


def write_ssim(folder):
    """Pairs of signed maps and their SSIM, whose window is the one Gaussian filter of images here."""
    rng = np.random.default_rng(3)
    a = rng.uniform(-1, 1, (4, 40, 48, 1))
    b = np.clip(a + rng.normal(0, 1, a.shape) * np.array([0.05, 0.2, 0.5, 1.0])[:, None, None, None], -1, 1)
    np.savez(folder / "ssim.npz", a=a, b=b, ssim=metrics.ssim(a, b, data_range=2))


def write_deformation(folder):
    """Healthy and diseased images drawn finely, and where the diseased one looks in the healthy one; the field alone.

    The images are a formula at displaced coordinates; nothing is resampled here, so the judge does it.
    """
    size, extent = 1024, 256  # pixels, and the coordinates that they span
    pixel = extent / size
    axis = (np.arange(size) + 0.5) * pixel - 0.5
    arrays = {}
    for number in range(3):
        geometry = synthetic.sample_geometry(np.random.default_rng([4, number]))
        x, y = np.broadcast_arrays(*synthetic.displace(axis[None, :], axis[:, None], geometry.e1))
        arrays[f"{number}/flow"] = np.stack([axis[:, None] - y, axis[None, :] - x], axis=-1) / pixel  # rows, columns
        for name, diseased in (("healthy", False), ("diseased", True)):
            arrays[f"{number}/{name}"] = synthetic.draw_image(geometry, size, diseased=diseased)
    ellipse = synthetic.Ellipse(x=120.0, y=128.0, a=40.0, b=20.0, phi=0.5, thickness=5.0)
    columns, rows = np.meshgrid(np.arange(256.0), np.arange(256.0))
    x, y = synthetic.displace(columns, rows, ellipse)
    arrays.update({"field/columns": x - columns, "field/rows": y - rows, "field/centre": np.array([128, 120])})
    np.savez(folder / "deformation.npz", **arrays)


def write_tiff(folder):
    """A gray TIFF, and its pixels as this project reads them."""
    path = folder / "gray.tiff"
    pixels = np.random.default_rng(5).integers(0, 256, (24, 20), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    np.save(folder / "gray.npy", read_image(path).pixels)


def main():
    """Write everything into the folder that the command line names."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_kappa(folder)
    write_ssim(folder)
    write_deformation(folder)
    write_tiff(folder)
    write_dicom(folder)
    train_and_export(folder)
    write_answers(folder)


if __name__ == "__main__":
    main()
