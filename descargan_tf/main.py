"""python -m descargan_tf.main --flagfile=configs/quickstart.flags: flags to Config, and one function per --mode."""

import sys

from descargan_tf import flags, program, surroundings


def main(argv=None) -> int:
    """Run one --mode.

    Returns:
        The exit status: 0 done, 1 some inputs failed, 2 bad input, 128 + n stopped by signal n after saving.
    """
    return program.run(lambda: _run(argv or sys.argv))


def _run(argv):
    given = flags.parse(argv)  # what is wrong with them is said before anything is loaded
    surroundings.settle(given.config.backend)
    with surroundings.loading(given.config.backend):
        from descargan_tf.commands import COMMANDS
        from descargan_tf.run_folder import resolve

    config = resolve(given)
    return COMMANDS[config.mode](config)


if __name__ == "__main__":
    sys.exit(main())
