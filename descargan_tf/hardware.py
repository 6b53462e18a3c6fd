"""What this machine computes fast, under either backend."""

import contextlib
import ctypes
import functools
import os
import platform
import re
import sys
from pathlib import Path

from descargan_tf.processes import num_cores

_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
# Parameters of glibc's mallopt (malloc.h), and the largest values that it takes or that are of use.
_MALLOC_SETTINGS = {
    "M_MMAP_THRESHOLD": (-3, 32 << 20),
    "M_TRIM_THRESHOLD": (-1, (2 << 30) - 1),
    "M_TOP_PAD": (-2, 256 << 20),
}
_FIRST_GPU_WITH_BFLOAT16 = (8, 0)  # compute capability: Ampere


def fast_precision(backend: str = "tensorflow") -> str:
    """The precision to train in: "bfloat16" where every device has instructions for it, else "float32".

    A processor without them emulates: measured, a round of the quickstart took 3.0 s instead of 0.33 s. JAX's compiler
    does so on every processor.
    """
    found = _accelerators(backend)
    if found:
        fast = all(has_bfloat16 for _, has_bfloat16 in found)
    else:
        fast = backend == "tensorflow" and bool(_BFLOAT16_INSTRUCTIONS & _processor_flags())
    return "bfloat16" if fast else "float32"


def multiplies_in_tiles(precision: str) -> bool:
    """Whether this processor multiplies matrices of that precision so fast that additions take as long: AMX."""
    return precision == "bfloat16" and "amx_bf16" in _processor_flags()


@functools.cache
def has_avx512() -> bool:
    """Whether this processor has AVX-512. Without it oneDNN's gradients of kernels are slow."""
    return "avx512f" in _processor_flags()


def has_accelerator(backend: str = "tensorflow") -> bool:
    """Whether the backend sees a GPU or TPU."""
    return bool(_accelerators(backend))


def _accelerators(backend):
    """Name of each GPU or TPU that the backend sees, and whether it is known to have instructions for bfloat16."""
    if backend == "jax":
        import jax

        devices = [device for device in jax.local_devices() if device.platform != "cpu"]
        return [(device.device_kind, device.platform == "tpu" or _is_new(device)) for device in devices]
    import tensorflow as tf

    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    # A GPU that does not tell is not an NVIDIA one.
    return [
        (d.get("device_name", "a GPU"), d.get("compute_capability", (0, 0)) >= _FIRST_GPU_WITH_BFLOAT16)
        for d in details
    ]


def _is_new(gpu):
    """Of a JAX device, which tells its compute capability as in "9.0", or not at all."""
    capability = str(getattr(gpu, "compute_capability", "0.0"))
    known = re.fullmatch(r"(\d+)\.(\d+)", capability)
    return known is not None and tuple(map(int, known.groups())) >= _FIRST_GPU_WITH_BFLOAT16


def describe_machine(backend: str = "tensorflow") -> str:
    """Processor, its instructions for bfloat16, cores that this process may use, memory, GPUs, as far as known."""
    cores = num_cores()
    processor = _processor("model name") or platform.processor() or platform.machine()
    if flags := _processor_flags():  # which not every system tells
        processor += f" ({', '.join(sorted(_BFLOAT16_INSTRUCTIONS & flags)) or 'no bfloat16'})"
    parts = [processor, f"{cores} core{'s' if cores != 1 else ''}"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB")
    return ", ".join([*parts, *([name for name, _ in _accelerators(backend)] or ["no GPU"])])


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


def give_each_operation(threads: int) -> None:
    """Set on how many threads of a processor TensorFlow computes one operation; before its first one.

    Args:
        threads: 0: one if there are two cores and no GPU, else TensorFlow's choice. Two operations at once, on a core
            each, wait less than one after the other on both: measured (AVX2), a round with 64 filters took 9.2 to 9.6
            instead of 10.7 to 11.1 s at 64x64, 25.6 instead of 27.5 s at 256x256. With more cores it was not measured.
    """
    import tensorflow as tf

    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    elif num_cores() == 2 and not tf.config.list_physical_devices("GPU"):
        # Where this is used as a library TensorFlow may have begun, and its threads are what they are.
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(1)


def leave_activations_unfused() -> None:
    """Without a GPU, have TensorFlow's remapper leave the graphs as they are.

    Where a leaky rectifier's gradient is taken it fails with an error on the screen and all its fusions are dropped;
    measured with rectifiers, where it succeeds, a round of the quickstart is no faster for it.
    """
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        tf.config.optimizer.set_experimental_options({"remapping": False})


def leave_graphs_as_written() -> None:
    """Have TensorFlow's graph optimiser leave all graphs as they are.

    It copies the weights of networks for inference several times and finds little: measured (AVX2, 256x256),
    the first answer came after 3.4 instead of 5.4 s, of 2.8 instead of 3.6 GB, and later ones took as long.
    """
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
