"""The judge: TensorFlow 2.15, Keras 2 and tensorflow-addons on what make_inputs.py wrote. Python 3.9 to 3.11.

    python tests/card/judge.py FOLDER

Runs in the environment of requirements-card.txt and imports nothing of this project: both share formats, no code.
Prints a line for each comparison; exit status 1 where one is out of its bounds.
"""

import json
import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow 2.15 calls every machine without a GPU an error

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa
import tensorflow_io as tfio

STATISTICS = ("moving", "per_image")

tf.get_logger().setLevel("ERROR")  # tensorflow-addons traces its metrics anew each time, and is warned of it


class Verdict:
    """Counts and prints comparisons."""

    def __init__(self):
        self.comparisons = 0
        self.failures = 0

    def expect(self, name, value, bound, at_least=False):
        """One comparison: the value is at most the bound, or at least it. NaN is out of any bound."""
        fine = value >= bound if at_least else value <= bound
        self.comparisons += 1
        self.failures += not fine
        sign = ">=" if at_least else "<="
        print(f"{'ok  ' if fine else 'FAIL'} {name}: {value:.2g} ({sign} {bound:g})")


def largest_difference(a, b):
    """Infinite where the shapes are not the same, so that nothing is broadcast into agreement."""
    a, b = np.asarray(a), np.asarray(b)
    return np.abs(a.astype(np.float64) - b.astype(np.float64)).max() if a.shape == b.shape else np.inf


def judge_exports(folder, verdict):
    """SavedModels of the project's TensorFlow load here and answer as they do there, both signatures."""
    images = np.load(folder / "images.npy")
    encoded = [path.read_bytes() for path in sorted(folder.glob("encoded_*"))]
    for statistics in STATISTICS:
        (version,) = (folder / "exports" / statistics).glob("[0-9]*")
        loaded = tf.saved_model.load(str(version))
        asked = {"serving_default": {"image": images}, "serving_bytes": {"image_bytes": encoded}}
        for signature, inputs in asked.items():
            answers = loaded.signatures[signature](**{key: tf.constant(value) for key, value in inputs.items()})
            there = np.load(folder / f"answers_{statistics}_{signature}.npz")
            name = f"export {statistics} {signature}"
            verdict.expect(f"{name}: outputs of one side alone", len(set(answers) ^ set(there.files)), 0)
            undecided = np.abs(there["disease_probability"] - 0.5).min()
            verdict.expect(f"{name}: distance of the probabilities from 1/2", undecided, 1e-2, at_least=True)
            for output in sorted(set(answers) & set(there.files)):
                if answers[output].dtype == tf.string:
                    pictures = np.stack([tf.io.decode_png(content).numpy() for content in answers[output]])
                    # One gray level: what a difference of 1e-4 can do to a rounded pixel.
                    verdict.expect(f"{name} {output}, gray levels", largest_difference(pictures, there[output]), 1)
                else:
                    verdict.expect(f"{name} {output}", largest_difference(answers[output], there[output]), 1e-4)


def judge_kappa(folder, verdict):
    """Cohen's kappa; the metric here takes probabilities and cuts at 0.5 itself."""
    cases = np.load(folder / "kappa.npz")
    for name in sorted({key.split("/")[0] for key in cases.files}):
        metric = tfa.metrics.CohenKappa(num_classes=2)
        metric.update_state(cases[f"{name}/labels"], cases[f"{name}/probability"])
        verdict.expect(f"kappa, {name}", abs(float(metric.result()) - float(cases[f"{name}/kappa"])), 1e-6)


def judge_ssim(folder, verdict):
    """SSIM from its definition, with this package's Gaussian filter as the window."""
    maps = np.load(folder / "ssim.npz")
    a, b = maps["a"], maps["b"]

    def windowed(images):
        # Positions with a whole window; what the filter makes of the border is no concern of SSIM's.
        return tfa.image.gaussian_filter2d(tf.constant(images), (11, 11), 1.5).numpy()[:, 5:-5, 5:-5, 0]

    mean_a, mean_b = windowed(a), windowed(b)
    variance_a, variance_b = windowed(a * a) - mean_a**2, windowed(b * b) - mean_b**2
    covariance = windowed(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    verdict.expect("ssim", largest_difference((luminance * structure).mean(axis=(1, 2)), maps["ssim"]), 1e-9)


def judge_deformation(folder, verdict):
    """The disease: healthy images warped here are the diseased ones; the field is the gradient of a Gaussian."""
    arrays = np.load(folder / "deformation.npz")
    for number in range(3):
        healthy, diseased, flow = (arrays[f"{number}/{name}"] for name in ("healthy", "diseased", "flow"))
        size = len(healthy)
        rows, columns = np.mgrid[:size, :size] - np.moveaxis(flow, -1, 0)
        inside = (rows >= 0) & (rows <= size - 1) & (columns >= 0) & (columns <= size - 1)  # the formula goes on beyond
        moved = inside & (np.hypot(*np.moveaxis(flow, -1, 0)) > 0.5)

        def warped(flow, healthy=healthy):
            image, field = healthy[None, ..., None], flow[None].astype(np.float32)
            return tfa.image.dense_image_warp(image, field).numpy()[0, ..., 0]

        # Four pixels of these are one of a data set. Waves agree to the resampling (bilinear, at 1024 pixels); contours
        # are a pixel wide at their edges, and a warp moves the softness of an edge that a drawing keeps a pixel wide.
        difference = warped(flow) - diseased
        error = np.abs(difference)
        averaged = block_mean(np.where(inside, difference, 0))
        verdict.expect(f"warp {number}, median where something moves", np.median(error[moved]), 1e-3)
        verdict.expect(f"warp {number}, mean where something moves", error[moved].mean(), 5e-3)
        verdict.expect(f"warp {number}, largest over 4x4 pixels", np.abs(averaged).max(), 0.15)
        other_way = np.abs(warped(-flow) - diseased)[moved].mean()
        verdict.expect(f"warp {number}, mean the other way round", other_way, 0.1, at_least=True)

    row, column = arrays["field/centre"]
    impulse = np.zeros((1, 256, 256, 1))
    impulse[0, row, column, 0] = 1
    unit = 255 / 2  # the coordinates' [-1, 1]
    gaussian = tfa.image.gaussian_filter2d(tf.constant(impulse), (255, 255), 0.19 * unit).numpy()[0, ..., 0]
    along_rows, along_columns = np.gradient(gaussian)
    scale = 0.1 * unit / np.hypot(along_rows, along_columns).max()  # the largest displacement is 0.1
    for name, gradient in (("rows", along_rows), ("columns", along_columns)):
        # Sampling goes outwards, down the gradient. 0.02 pixels of 12.75 are the finite differences.
        verdict.expect(
            f"field along {name}, pixels", largest_difference(-gradient * scale, arrays[f"field/{name}"]), 0.02
        )


def block_mean(image, side=4):
    """Mean over blocks of side x side pixels."""
    rows, columns = image.shape
    return image.reshape(rows // side, side, columns // side, side).mean(axis=(1, 3))


def judge_tiff(folder, verdict):
    """Pixels of a TIFF by tensorflow-io's kernel, which loads here alone."""
    pixels = tfio.experimental.image.decode_tiff(tf.io.read_file(str(folder / "gray.tiff"))).numpy()
    verdict.expect("tiff", largest_difference(pixels[..., 0], np.load(folder / "gray.npy")), 0)


def judge_dicom(folder, verdict):
    """DICOM files of every transfer syntax, by DCMTK in tensorflow-io; dicom_inputs.py says what it makes of values."""
    worst, refusals = {}, {}
    for number, case in enumerate(json.loads((folder / "dicom" / "cases.json").read_text())):
        answer = np.load(folder / "dicom" / f"{number}.npz")
        low, high = float(answer["low"]), float(answer["high"])
        content = tf.io.read_file(str(folder / "dicom" / f"{number}.dcm"))
        try:
            found = tfio.image.decode_dicom_image(content, on_error="strict", dtype=tf.float64).numpy()[0, ..., 0]
        except tf.errors.InvalidArgumentError:
            refusals.setdefault(case["group"], []).append(not case["refused"])
            continue
        depth = int(np.ceil(np.log2(max(-low, high + 1)))) + (low < 0)
        per_unit = 2**depth / (high - low + 1)
        levels = np.floor((answer["values"].astype(np.float64) - low) * per_unit)
        steps = largest_difference(found, levels) / (per_unit * float(answer["step"]))
        refusals.setdefault(case["group"], []).append(case["refused"])
        before = worst.get(case["group"], (0.0, "", 0))
        worst[case["group"]] = max(before, (steps, case["name"], case["bound"]))
    for group, (steps, name, bound) in worst.items():
        verdict.expect(f"dicom {group}{f', {name}' if steps else ''}, stored steps", steps, bound)
    for group, unexpected in refusals.items():
        if any(unexpected) or group not in worst:
            verdict.expect(f"dicom {group}: files that are read, or refused, against the list", sum(unexpected), 0)


def main():
    """Judge the folder that the command line names."""
    folder, verdict = Path(sys.argv[1]), Verdict()
    for judge in (judge_exports, judge_kappa, judge_ssim, judge_deformation, judge_tiff, judge_dicom):
        judge(folder, verdict)
    versions = f"TensorFlow {tf.__version__}, addons {tfa.__version__}, io {tfio.__version__}"
    print(f"test-card: {verdict.comparisons} comparisons, {verdict.failures} failed ({versions})")
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    sys.exit(main())
