import platform
import re
import types

import jax
import pytest
import tensorflow as tf

from descargan_tf import hardware


def test_processor_flags_are_read_from_the_first_processor(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert hardware._processor_flags(cpuinfo) == {"fpu", "avx2", "avx512_bf16"}
    assert hardware._processor_flags(tmp_path / "none") == set()


def test_bfloat16_needs_instructions(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    for flags, expected in (({"avx2"}, "float32"), ({"avx2", "amx_bf16"}, "bfloat16"), (set(), "float32")):
        monkeypatch.setattr(hardware, "_processor_flags", lambda flags=flags: flags)
        assert hardware.fast_precision() == expected


def test_every_gpu_must_have_it(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
    details = {"a": {"compute_capability": (9, 0)}, "b": {"compute_capability": (7, 5)}}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details.get)
    assert hardware.fast_precision() == "float32"
    details["b"] = {"compute_capability": (8, 0)}
    assert hardware.fast_precision() == "bfloat16"
    details["b"] = {}
    assert hardware.fast_precision() == "float32"


def test_avx512_is_told_by_its_foundation(monkeypatch):
    for flags, expected in (({"avx2"}, False), ({"avx2", "avx512f"}, True), (set(), False)):
        monkeypatch.setattr(hardware, "_processor_flags", lambda flags=flags: flags)
        assert hardware.has_avx512.__wrapped__() == expected


@pytest.mark.parametrize(
    ("threads", "cores", "gpus", "expected"),
    [
        (0, 2, [], [1]),
        (0, 2, ["a GPU"], []),  # TensorFlow's choice
        (0, 1, [], []),
        (0, 8, [], []),
        (3, 2, [], [3]),
        (1, 8, ["a GPU"], [1]),
    ],
)
def test_an_operation_has_the_threads_that_are_asked_for(monkeypatch, threads, cores, gpus, expected):
    monkeypatch.setattr(hardware, "num_cores", lambda: cores)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    given = []
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", given.append)
    hardware.give_each_operation(threads)
    assert given == expected


def test_where_tensorflow_has_begun_its_threads_stay_unless_they_are_asked_for(monkeypatch):
    tf.zeros(1).numpy()
    others = tf.config.threading.get_intra_op_parallelism_threads() + 1
    real = tf.config.threading.set_intra_op_parallelism_threads
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", lambda _: real(others))
    monkeypatch.setattr(hardware, "num_cores", lambda: 2)
    hardware.give_each_operation(0)
    with pytest.raises(RuntimeError, match="cannot be modified after initialization"):
        hardware.give_each_operation(others)
    assert tf.config.threading.get_intra_op_parallelism_threads() == others - 1


def test_freed_memory_is_kept_where_glibc_is():
    assert hardware.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


@pytest.mark.parametrize(
    ("flags", "expected"), [({"avx2"}, "no bfloat16"), ({"avx2", "avx512_bf16", "amx_bf16"}, "amx_bf16, avx512_bf16")]
)
def test_the_machine_is_described(monkeypatch, flags, expected):
    monkeypatch.setattr(hardware, "_processor_flags", lambda: flags)
    described = hardware.describe_machine()
    assert re.search(r".+, [1-9]\d* cores, [1-9]\d* GiB, (no GPU|\w.*)", described)
    assert f" ({expected}), " in described


def test_nothing_is_said_of_instructions_that_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(hardware, "_processor_flags", set)
    assert "bfloat16" not in hardware.describe_machine()


def devices(*described):
    """JAX devices of a platform, kind and compute capability each."""
    return [
        types.SimpleNamespace(
            platform=platform, device_kind=kind, **({} if capability is None else {"compute_capability": capability})
        )
        for platform, kind, capability in described
    ]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([("cpu", "cpu", None)], "float32"),
        ([("gpu", "NVIDIA H100", "9.0")], "bfloat16"),
        ([("gpu", "NVIDIA B200", "10.0")], "bfloat16"),
        ([("gpu", "NVIDIA H100", "9.0"), ("gpu", "Tesla T4", "7.5")], "float32"),
        ([("gpu", "a GPU of another make", "gfx90a")], "float32"),
        ([("gpu", "one that does not tell", None)], "float32"),
        ([("tpu", "TPU v5e", None)], "bfloat16"),
    ],
)
def test_under_jax_precision_and_description_are_of_its_devices(monkeypatch, found, expected):
    monkeypatch.setattr(jax, "local_devices", lambda: devices(*found))
    monkeypatch.setattr(hardware, "_processor_flags", lambda: {"amx_bf16"})  # which JAX's compiler makes nothing of
    assert hardware.fast_precision("jax") == expected
    names = [kind for platform, kind, _ in found if platform != "cpu"] or ["no GPU"]
    assert hardware.describe_machine("jax").endswith(", ".join(names))
