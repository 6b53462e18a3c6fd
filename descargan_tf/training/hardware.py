"""What this machine computes fast."""

import ctypes
import os
import platform
import sys
from pathlib import Path

import tensorflow as tf

_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
# Parameters of glibc's mallopt (malloc.h), and the largest values that it takes or that are of use.
_MALLOC_SETTINGS = {
    "M_MMAP_THRESHOLD": (-3, 32 << 20),
    "M_TRIM_THRESHOLD": (-1, (2 << 30) - 1),
    "M_TOP_PAD": (-2, 256 << 20),
}
_FIRST_GPU_WITH_BFLOAT16 = (8, 0)  # compute capability: Ampere


def fast_precision() -> str:
    """The precision to train in: "bfloat16" where every device has instructions for it, else "float32".

    A processor without them emulates: measured, a round of the quickstart took 3.0 s instead of 0.33 s.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        # A GPU that does not tell is not an NVIDIA one.
        fast = all(d.get("compute_capability", (0, 0)) >= _FIRST_GPU_WITH_BFLOAT16 for d in details)
    else:
        fast = bool(_BFLOAT16_INSTRUCTIONS & _processor_flags())
    return "bfloat16" if fast else "float32"


def describe_machine() -> str:
    """Processor, cores that this process may use, memory and GPUs, as far as the system tells."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = _processor("model name") or platform.processor() or platform.machine()
    parts = [processor, f"{cores} core{'s' if cores != 1 else ''}"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB")
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return ", ".join([*parts, *(gpu.get("device_name", "a GPU") for gpu in gpus)] if gpus else [*parts, "no GPU"])


def _processor_flags(cpuinfo: Path = _CPUINFO) -> set[str]:
    return set(_processor("flags", cpuinfo).split())


def _processor(what: str, cpuinfo: Path = _CPUINFO) -> str:
    """What the system says of the first processor; empty where there is no such file: other systems than Linux."""
    if not cpuinfo.exists():
        return ""
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == what:
            return value.strip()
    return ""


def keep_freed_memory() -> bool:
    """Have the C library keep the memory of freed tensors for the next ones.

    By default it goes back to the system after every operation and comes again page by page, zeroed: measured, 84 ms a
    round of the quickstart instead of 64.

    Returns:
        Whether it was possible: glibc (Linux) alone has such settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    taken = [mallopt(*setting) == 1 for setting in _MALLOC_SETTINGS.values()]
    return all(taken)


def leave_activations_unfused() -> None:
    """Without a GPU, have TensorFlow's remapper leave the graphs as they are.

    Where a leaky rectifier's gradient is taken it fails with an error on the screen and all its fusions are dropped;
    measured with rectifiers, where it succeeds, a round of the quickstart is no faster for it.
    """
    if not tf.config.list_physical_devices("GPU"):
        tf.config.optimizer.set_experimental_options({"remapping": False})
