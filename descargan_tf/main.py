"""python -m descargan_tf.main --flagfile=configs/quickstart.flags: flags to Config, and one function per --mode."""

import os
import sys

from descargan_tf.config import parse
from descargan_tf.errors import UserError


def main(argv=None) -> int:
    """Run one --mode.

    Returns:
        The exit status: 0 done, 1 some inputs failed, 2 bad input, 128 + n stopped by signal n after saving.
    """
    try:
        config = parse(argv or sys.argv)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up messages are no news to a user
        from descargan_tf import commands
        from descargan_tf.training.loop import Interrupted

        try:
            return getattr(commands, config.mode)(config)
        except Interrupted as stop:
            print(stop, file=sys.stderr)
            return stop.status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
