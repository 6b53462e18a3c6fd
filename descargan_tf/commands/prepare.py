"""--mode=prepare."""

import dataclasses
import time
from pathlib import Path

from tqdm import tqdm

from descargan_tf.config import Config
from descargan_tf.errors import UserError
from descargan_tf.files import reading
from descargan_tf.names import name_some, one_line
from descargan_tf.preparation import prepare as preparation
from descargan_tf.preparation.sources import Options
from descargan_tf.types import CLASS_NAMES, SPLITS


def prepare(config: Config) -> int:
    """Make a prepared data set of raw files; 1 where some of them failed."""
    root, data_dir = Path(config.input), Path(config.data_dir)
    settings = preparation.Settings(**_fields(config, preparation.Settings))
    options = Options(**_fields(config, Options), key=_key(config.patient_key))
    if config.dry_run:
        plan = preparation.make_plan(root, options, settings)
        print("\n".join(one_line(line) for line in (*plan.lines(), *plan.listing.problems)))
        return 1 if plan.listing.problems else 0
    started = time.perf_counter()
    with tqdm(unit="image", dynamic_ncols=True, disable=None, desc="prepare") as bar:

        def show(done, total):
            if bar.total is None:  # what an earlier run did says nothing of the time that is left
                bar.reset(total)
                bar.initial = bar.n = bar.last_print_n = done
            bar.update(done - bar.n)

        result = preparation.prepare(
            root,
            data_dir,
            options,
            settings,
            said=lambda line: tqdm.write(one_line(line)),
            failed=lambda line: tqdm.write(f"failed: {one_line(line)}"),
            progress=show,
        )
    for split in SPLITS:
        counts = (_count(result, split, label) for label in range(len(CLASS_NAMES)))
        print(f"{data_dir} {split}: {', '.join(counts)}")
    seconds = time.perf_counter() - started
    print(f"{data_dir}: {sum(result.counts.values())} images, {seconds:.0f} s")
    if result.lost_masks:
        print(
            f"warning: nothing is left of {len(result.lost_masks)} of the masks, as they mark less than half of every "
            f"pixel: {one_line(name_some(result.lost_masks))}; a larger --image_size keeps smaller lesions"
        )
    if result.failures:
        print(f"{len(result.failures)} failed; they are named in {data_dir / preparation.FAILED}")
        return 1
    return 0


def _count(result, split, label):
    missing = result.missing[split, label]
    return f"{result.counts[split, label]} {CLASS_NAMES[label]}" + f" ({missing} failed)" * bool(missing)


def _fields(config, kind):
    names = [field.name for field in dataclasses.fields(kind) if field.name != "key"]
    return {name: getattr(config, name) for name in names}


def _key(path):
    if not path:
        return b""
    with reading(path):
        key = Path(path).read_bytes()
    if not key:
        raise UserError(f"--patient_key={path} is empty: write something into it that nobody can guess.")
    return key
