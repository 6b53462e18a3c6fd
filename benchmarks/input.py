"""What feeds a training: python benchmarks/input.py

Prints images a second of the input pipeline alone (nothing computes), from memory and from a prepared data set on disk,
on one core and on all that the process may use; what a training of configs/synthetic.flags consumes on this machine, by
its own estimate (--dry_run); and files a second of what --mode=generate and --mode=prepare do, the start of their
processes with them. Exit status 1 where the pipeline delivers less than 20 times what a training here consumes.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from descargan_tf.types import CLASS_NAMES

REQUIRED = 20  # times what training consumes
H200_IMAGES_A_SECOND = 8 / 0.040  # of one H200, 256x256, batch 8, one critic update (docs/recipe_log.md)
CORES = sorted(os.sched_getaffinity(0))


def make_data(folder, size, count):
    """Drawn images, the same as PNG of 16 bits, prepared ones of these; {what: files a second}."""
    import numpy as np
    from PIL import Image

    from descargan_tf.data import generation
    from descargan_tf.data.synthetic import SyntheticSettings
    from descargan_tf.preparation import prepare as preparation
    from descargan_tf.preparation.sources import Options

    settings = SyntheticSettings(seed=0, image_size=size, num_train=count, num_validate=1, num_test=1)
    started = time.perf_counter()
    drawn = len(generation.generate(folder / "synthetic", settings)["sha256"]) / (time.perf_counter() - started)
    files = [file for kind in CLASS_NAMES for file in sorted((folder / "synthetic" / "train" / kind).iterdir())]
    for file in files:
        path = (folder / "raw" / file.parent.name / file.name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (np.load(file).reshape(size, size) + 1) * 32767.5
        Image.fromarray(np.rint(pixels).astype(np.uint16)).save(path)
    settings = preparation.Settings(source="folder", fit="pad", num_validate=1, num_test=1, data_seed=0)
    options = Options(image_size=size)
    started = time.perf_counter()
    preparation.prepare(folder / "raw", folder / "prepared", options, settings, said=lambda line: None)
    prepared = len(files) / (time.perf_counter() - started)
    return {"generated (.npy, with ground truth)": drawn, "prepared (PNG of 16 bits)": prepared}


def rates(folder, size, seconds):
    """In this process: {"where, batch": images a second}."""
    from descargan_tf import surroundings

    surroundings.settle()
    with surroundings.loading():
        import tensorflow as tf
    from descargan_tf.data.dataset import dataset_of
    from descargan_tf.data.images import Scaling
    from descargan_tf.data.pipeline import training_batches
    from descargan_tf.data.prepared import SCALING
    from descargan_tf.run_folder import configure

    tf.config.threading.set_intra_op_parallelism_threads(len(os.sched_getaffinity(0)))
    found = {}
    for kind, scaling in (("synthetic", Scaling(-1, 1)), ("prepared", SCALING)):
        places = [f"--data_dir={folder}/{kind}", f"--run_dir={folder}/run"]
        config = configure(["input", f"--dataset={kind}", f"--image_size={size}", *places])
        split = dataset_of(config).load("train", scaling)
        where = "in memory" if kind == "synthetic" else "prepared, on disk"
        for batch in (4, 16):
            batches = iter(training_batches(split, batch, seed=0))
            for _ in range(8):  # what is fetched ahead
                next(batches)
            started, count = time.perf_counter(), 0
            while time.perf_counter() - started < seconds:
                next(batches)
                count += batch
            found[f"{where}, batch {batch}"] = count / (time.perf_counter() - started)
    return found


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--images", type=int, default=200, help="training images of each class")
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    parser.add_argument("--rates", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rates:
        print(json.dumps(rates(arguments.rates, arguments.size, arguments.seconds)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_data(folder, arguments.size, arguments.images)
        by_cores = {}
        for cores in dict.fromkeys((1, len(CORES))):
            chosen = ["taskset", "-c", ",".join(map(str, CORES[:cores]))]
            command = [*chosen, sys.executable, __file__, *sys.argv[1:], f"--rates={folder}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            by_cores[cores] = json.loads(done.stdout.splitlines()[-1])
        consumed = consumption(arguments, folder)
    print(machine.about("tensorflow", "keras", "numpy"))
    print(
        f"{arguments.size}x{arguments.size}; a training of configs/synthetic.flags consumes {consumed:.2f} images/s\n"
    )
    print("| input alone | cores | images/s | times what this machine consumes | times what an H200 consumes |")
    print("|---|---:|---:|---:|---:|")
    for cores, found in by_cores.items():
        for where, rate in found.items():
            print(f"| {where} | {cores} | {rate:,.0f} | {rate / consumed:,.0f} | {rate / H200_IMAGES_A_SECOND:.1f} |")
    print("\n| files | a second |\n|---|---:|")
    print("\n".join(f"| {what} | {rate:.0f} |" for what, rate in files.items()))
    lowest = min(rate for found in by_cores.values() for rate in found.values())
    if lowest < REQUIRED * consumed:
        print(f"MISSED: {lowest:.0f} images/s are less than {REQUIRED} times {consumed:.2f}")
        return 1
    return 0


def consumption(arguments, folder):
    """Images a second of a training on this machine."""
    flags = [f"--flagfile={ROOT}/configs/synthetic.flags", "--mode=train", "--precision=auto", "--dry_run"]
    places = [f"--run_dir={folder}/run", f"--data_dir={folder}/none"]
    command = [sys.executable, "-m", "descargan_tf.main", *flags, f"--image_size={arguments.size}", *places]
    printed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    a_round = float(re.search(r"([\d.]+) s a round", printed)[1])
    batch, updates = (int(re.search(rf"--{name}=(\d+)", printed)[1]) for name in ("batch_size", "critic_updates"))
    return batch * updates / a_round


if __name__ == "__main__":
    sys.exit(main())
