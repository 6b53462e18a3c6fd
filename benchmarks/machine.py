"""What the other programs here print of the machine and of versions."""

import importlib.metadata
import shlex
import sys
from pathlib import Path


def about(*packages: str) -> str:
    """Lines for a Markdown page: processor and its instructions, the command, versions of Python and packages."""
    from descargan_tf import surroundings

    surroundings.settle()
    with surroundings.loading():  # of TensorFlow, which knows of GPUs
        from descargan_tf.hardware import describe_machine
    versions = [f"Python {sys.version.split()[0]}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in packages]
    program = Path(sys.argv[0])
    command = shlex.join(["python", f"{program.parent.name}/{program.name}", *sys.argv[1:]])
    return f"{describe_machine()}\n\n`{command}`; {', '.join(versions)}\n"
