"""python -m descargan_tf.main --flagfile=configs/quickstart.flags: flags to Config, and one function per --mode."""

import importlib.util
import os
import signal
import sys

from descargan_tf.config import parse
from descargan_tf.errors import UserError
from descargan_tf.screen import held_back_unless_it_fails


def main(argv=None) -> int:
    """Run one --mode.

    Returns:
        The exit status: 0 done, 1 some inputs failed, 2 bad input, 128 + n stopped by signal n after saving.
    """
    try:
        config = parse(argv or sys.argv)
        choose_backend(config.backend)
        with held_back_unless_it_fails(2):
            from descargan_tf.commands import COMMANDS
            from descargan_tf.training.loop import Interrupted

        try:
            return COMMANDS[config.mode](config)
        except Interrupted as stop:
            print(stop, file=sys.stderr)
            return stop.status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # training saves first and does not come here
        print("stopped by Ctrl-C", file=sys.stderr)
        return 128 + signal.SIGINT


def choose_backend(name: str) -> None:
    """Have Keras compute with TensorFlow or JAX; it asks the environment once, when it is first imported.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec(name) is None:
        file = {"tensorflow": "requirements.txt", "jax": "requirements-jax.txt"}[name]
        raise UserError(
            f"--backend={name}, but {name} is not installed: `pip install -r {file}`, or choose the other backend."
        )
    os.environ["KERAS_BACKEND"] = name


if __name__ == "__main__":
    sys.exit(main())
