"""`python without_tensorflow.py <flags> [-- <flags> ...]`: the program's commands where TensorFlow cannot be imported.

`copy <run> <other> <checkpoint>` among them copies a run without that checkpoint. Ends with status 1 at the first
command that fails, or where anything so much as looks for TensorFlow. Of several evaluations the first alone draws its
figures, which take half of the time; no other test draws them by the program.
"""

import contextlib
import importlib.abc
import os
import shutil
import sys
import traceback
from pathlib import Path

import program_starts


class Absent(importlib.abc.MetaPathFinder):
    """Finds that there is no TensorFlow, and remembers who asked."""

    def __init__(self):
        self.asked = []

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            self.asked.append("".join(traceback.format_stack(limit=8)))
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def no_figures(folder, *_):
    folder.mkdir(parents=True, exist_ok=True)
    return []


def copy(run_dir, other, checkpoint):
    """As a run that was stopped before that checkpoint."""
    shutil.copytree(run_dir, other)
    shutil.rmtree(Path(other) / "checkpoints" / checkpoint)


def shallow(loading):
    """Once the program has chosen its backend and loads it."""

    @contextlib.contextmanager
    def loading_shallow(backend):
        with loading(backend):
            yield
            program_starts.leave_layers_out()
            from descargan_tf.training import jax_step

            # Of images that are sent as many are sent as the six of a class that stay: both trainings are one program.
            jax_step._LARGEST_CHUNK, jax_step.STATISTICS_PASSES = 3, 4
            jax_step.measure_matrix_product = lambda precision: 1e12  # which the comparison of the steps measures

    return loading_shallow


def run(arguments):
    absent = Absent()
    sys.meta_path.insert(0, absent)
    from descargan_tf import surroundings
    from descargan_tf.main import main

    if program_starts.SHALLOW in os.environ:
        surroundings.loading = shallow(surroundings.loading)
    while arguments:
        end = arguments.index("--") if "--" in arguments else len(arguments)
        if arguments[0] == "copy":
            copy(*arguments[1:4])
            arguments = arguments[end + 1 :]
            continue
        status = main(["main", *arguments[:end]])
        if status:
            return status
        if "--mode=evaluate" in arguments[:end]:
            sys.modules["descargan_tf.evaluation.figures"].draw_all = no_figures
        arguments = arguments[end + 1 :]
    print("\n".join(absent.asked), file=sys.stderr)
    return 1 if absent.asked else 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
