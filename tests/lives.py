"""A life of a training: `python -m lives <folder> <moment> <which>`, where it stands still until it is killed.

    round 5         before that round
    saving 6        when half of that checkpoint is written
    renaming best   when the old one has its other name, and the new one not yet its own
    nowhere 0

It says "standing" or "done".
"""

import sys
import time
from pathlib import Path

import keras
import numpy as np
from toy_training import SMALL, on_round, trainer, watch

STEPS = 12


def stand_still():
    print("standing", flush=True)
    time.sleep(600)


def ever_better(*answers):
    """A validation by which the best checkpoint is replaced each time."""
    found = watch(SMALL)(*answers)
    return found._replace(selection=-found.selection)


def life(folder, moment, which):
    keras.utils.set_random_seed(1)
    # Nothing divides anything else, so that each is taken up amid the others.
    often = {"log_every_steps": 5, "validate_every_steps": 2, "checkpoint_every_steps": 3}
    training = trainer(Path(folder), ever_better, max_steps=STEPS, deterministic=True, traced=True, **often)
    write, rename = np.savez, Path.rename

    def half(file, **arrays):
        if moment == "saving" and Path(file.name).parent.name == f"{which}.partial":
            write(file, **dict(list(arrays.items())[:2]))
            file.flush()
            stand_still()
        write(file, **arrays)

    def not_quite(source, target):
        if moment == "renaming" and (source.name, Path(target).name) == (f"{which}.partial", which):
            stand_still()
        return rename(source, target)

    np.savez, Path.rename = half, not_quite
    if moment == "round":
        on_round(training, int(which), stand_still)
    training.run()
    print("done", flush=True)


if __name__ == "__main__":
    life(*sys.argv[1:])
