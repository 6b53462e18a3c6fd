"""What a program of this project needs around it, set at its entry points: environment, Keras, the terminal.

Keras and TensorFlow take settings from the environment and from the home folder; what a run computes must not hang on
them. `settle` comes before either is imported.
"""

import contextlib
import gc
import importlib.util
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from descargan_tf import signals
from descargan_tf.errors import UserError
from descargan_tf.files import reason

# Variables that change what is computed, or take away what is needed for it.
_CHANGING_RESULTS = (
    "TF2_BEHAVIOR",  # 0: TensorFlow 1
    "TF_USE_LEGACY_KERAS",
    "TF_ENABLE_AUTO_MIXED_PRECISION",
    "TF_ENABLE_AUTO_MIXED_PRECISION_GRAPH_REWRITE",
    "TF_XLA_FLAGS",  # auto-clustering rounds otherwise
    "TF_SET_ONEDNN_FPMATH_MODE",  # bfloat16 in the place of float32
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "KERAS_MAX_EPOCHS",
    "KERAS_MAX_STEPS_PER_EPOCH",
    "KERAS_NNX_ENABLED",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_DEFAULT_DTYPE_BITS",
    "JAX_NUMPY_DTYPE_PROMOTION",
    "JAX_DISABLE_JIT",
)
# What a backend and Keras load where it is installed, for parts of them that nothing here uses.
_LOADED_FOR_NOTHING = {
    "tensorflow": ("IPython", "jax", "matplotlib", "pandas", "scipy", "sklearn"),
    "jax": ("IPython", "matplotlib", "pandas", "sklearn"),
}
_DRIVER = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))  # the last is of WSL
_REQUIREMENTS = {"tensorflow": "requirements.txt", "jax": "requirements-jax.txt"}


def settle(backend: str = "tensorflow") -> None:
    """Have Keras compute with a backend in float32, channels last, whatever the environment and the home folder say.

    Raises:
        UserError: the backend is not installed.
    """
    if importlib.util.find_spec(backend) is None:
        raise UserError(
            f"--backend={backend}, but {backend} is not installed: `pip install -r {_REQUIREMENTS[backend]}`, or "
            "choose the other backend."
        )
    taken = {name: os.environ.pop(name) for name in _CHANGING_RESULTS if name in os.environ}
    if taken.get("TF2_BEHAVIOR") == "1":  # TensorFlow itself leaves it to the processes that its own one starts
        del taken["TF2_BEHAVIOR"]
    if taken:
        given = shlex.join(f"{name}={value}" for name, value in taken.items())
        print(f"not taken from the environment, as it would change what is computed: {given}", file=sys.stderr)
    os.environ.pop("MPLBACKEND", None)  # figures are drawn into files; a wrong one stops the import of matplotlib
    os.environ["KERAS_BACKEND"] = backend  # Keras asks once, when it is first imported
    # There Keras looks for keras.json, and writes one; below a file there can be neither.
    os.environ["KERAS_HOME"] = os.devnull
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow leaves oneDNN off on processors without AVX-512; there too its convolutions are twice as fast.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


@contextlib.contextmanager
def loading(backend: str = "tensorflow", driver: tuple[Path, ...] = _DRIVER, own_process: bool = True):
    """Around imports that load TensorFlow: what its libraries write, which no log level reaches, stays off the screen.

    But where an import fails; and what is said of GPUs on a machine that has a driver for them.

    Args:
        backend: what is loaded.
        driver: what is there where the machine has a driver for GPUs.
        own_process: whether all that there is in this process is the program's.
    """
    begins = own_process and backend not in sys.modules
    with (
        held_back_unless_it_fails(2) as terminal,
        signals.caught(signals.leave_at_once(terminal)),
        unsearched(for_good=begins),
    ):
        if begins and backend in _LOADED_FOR_NOTHING:
            load_alone(backend)
        yield
    if backend != "tensorflow":
        return
    import tensorflow as tf

    if any(path.exists() for path in driver):
        tf.config.list_physical_devices()
    else:
        with held_back_unless_it_fails(2):  # that there is no driver is said as an error: "failed call to cuInit"
            tf.config.list_physical_devices()


def load_alone(backend: str = "tensorflow") -> None:
    """Load a backend and Keras as where no package is installed that they would load for nothing.

    With TensorFlow that is half of the time they take, with JAX a third. Whoever imports such a package afterwards
    finds it.
    """
    hidden = [name for name in _LOADED_FOR_NOTHING[backend] if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None: an ImportError
    try:
        import keras  # noqa: F401, and the backend that is settled on
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def unsearched(for_good=True):
    """Python looks for no garbage in cycles meanwhile: among what is loaded, which stays, it finds next to none.

    It would look a thousand times, a quarter of the time that TensorFlow takes to load.

    Args:
        for_good: nor does it look through what is there at the end ever again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if for_good:
            gc.freeze()
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def held_back_unless_it_fails(descriptor):
    """Keep what TensorFlow's libraries write while they load (no log level reaches it) from the user's terminal."""
    sys.stderr.flush()
    kept = os.dup(descriptor)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, kept)
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
        except OSError as error:
            raise UserError(f"no temporary file can be written: {reason(error)}. Free space.") from error
        os.dup2(held.fileno(), descriptor)
        try:
            yield kept
        except Exception:
            held.seek(0)
            with open(kept, "wb", closefd=False) as out:
                shutil.copyfileobj(held, out)
            raise
        finally:
            os.dup2(kept, descriptor)
