"""python -m descargan_tf.main --flagfile=configs/quickstart.flags: flags to Config, and one function per --mode."""

import signal
import sys

from descargan_tf import flags, surroundings
from descargan_tf.errors import UserError


def main(argv=None) -> int:
    """Run one --mode.

    Returns:
        The exit status: 0 done, 1 some inputs failed, 2 bad input, 128 + n stopped by signal n after saving.
    """
    try:
        given = flags.parse(argv or sys.argv)  # what is wrong with them is said before anything is loaded
        surroundings.settle(given.config.backend)
        with surroundings.loading(given.config.backend):
            from descargan_tf.commands import COMMANDS
            from descargan_tf.run_folder import resolve
            from descargan_tf.training.loop import Interrupted

        try:
            config = resolve(given)
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


if __name__ == "__main__":
    sys.exit(main())
