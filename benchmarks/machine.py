"""What the other programs here print of the machine and of versions."""

import importlib.metadata
import os
import shlex
import sys
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_FLAGS = {"avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}


def about(*packages: str) -> str:
    """Lines for a Markdown page: processor and its instructions, the command, versions of Python and packages."""
    said = dict(line.split(":", 1) for line in _CPUINFO.read_text().splitlines() if ":" in line)
    said = {name.strip(): value.strip() for name, value in said.items()}
    having = [f"{'' if flag in said['flags'].split() else 'no '}{name}" for flag, name in _FLAGS.items()]
    gibibytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    machine = f"{said['model name']}, {len(os.sched_getaffinity(0))} cores ({', '.join(having)}), {gibibytes:.0f} GiB"
    versions = [f"Python {sys.version.split()[0]}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in packages]
    program = Path(sys.argv[0])
    command = shlex.join(["python", f"{program.parent.name}/{program.name}", *sys.argv[1:]])
    return f"{machine}\n\n`{command}`; {', '.join(versions)}\n"
