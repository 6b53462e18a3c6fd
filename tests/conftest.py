"""Two logical CPUs for every test: what is distributed is tested as such. And no network but this machine's own."""

import concurrent.futures
import contextlib
import ctypes
import functools
import multiprocessing.pool
import os
import signal
import socket
import sys
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as `surroundings.settle`, which comes too late for some files
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # tests' own servers, whatever lies outside

import pytest

from descargan_tf import signals, surroundings


def pytest_sessionstart(session):
    """Before any test is imported, as TensorFlow's first operation fixes its devices."""
    # A shell lets what it starts in the background ignore Ctrl-C, and so would all that is started from here.
    for number in signals.ENDINGS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    hands_out_tests = session.config.getoption("numprocesses", None) and not hasattr(session.config, "workerinput")
    if not hands_out_tests:  # to other processes; it needs no TensorFlow, whose messages would end what it prints
        with surroundings.unsearched():
            surroundings.load_alone()
            from hypothesis import HealthCheck, settings
        import program_starts
        import tensorflow as tf

        from descargan_tf.hardware import keep_freed_memory

        # How quick the machine is says nothing of the code: no example of a property fails by the clock.
        settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("tests")
        keep_freed_memory()  # as training does
        program_starts.leave_bookkeeping_out()
        # A process of tests has a core: threads that wait for work would take the time of the other process.
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.set_visible_devices([], "GPU")
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """What the tests import stays, too."""
    with surroundings.unsearched():
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """A test that reaches for another machine fails: at run time the program asks nothing of any."""
    connect = socket.socket.connect

    def connect_here(self, address):
        is_far = self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "::1", "localhost"))
        assert not is_far, f"this test reached for {address}"
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        if "TF_SERVING_REST_URL" not in os.environ:  # a real model server, wherever it is
            patch.setattr(socket.socket, "connect", connect_here)
        yield


@pytest.fixture(scope="session")
def two_replicas():
    """Line by line, TensorFlow would start five threads for each sum over replicas; here two do all of them."""
    from tensorflow.python.distribute import cross_device_ops

    from descargan_tf.training.step import all_devices

    with pytest.MonkeyPatch.context() as patch, multiprocessing.pool.ThreadPool(2) as pool:
        kept = types.SimpleNamespace(map=pool.map, close=lambda: None)
        pools = types.SimpleNamespace(ThreadPool={2: kept}.__getitem__)
        patch.setattr(cross_device_ops, "multiprocessing", types.SimpleNamespace(pool=pools))
        yield all_devices()


@pytest.fixture(scope="module")
def one_replica(two_replicas):  # which must be there before its maker is replaced
    """The program's own strategy has one replica: quicker, where distribution is not what is tested.

    Here and in forked programs.
    """
    with pytest.MonkeyPatch.context() as patch:
        _leave_out_here_and_in_forks("ONE_REPLICA", patch)
        yield


def _leave_out_here_and_in_forks(name, patch):
    """One of `program_starts.LEFT_OUT`, until the patch is undone."""
    import program_starts

    variable = getattr(program_starts, name)
    program_starts.LEFT_OUT[variable](patch.setattr)
    patch.setenv(variable, "1")


@pytest.fixture(scope="module")
def forked():
    """What the program starts of itself, as it does to verify an export, loads nothing anew."""
    import program_starts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subprocess.Popen", program_starts.Fork)
        yield


@pytest.fixture(scope="session")
def _two_processes():
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context, signals.end_with_parent) as pool:
        yield pool


@pytest.fixture
def kept_processes(_two_processes, monkeypatch):
    """Where two processes share the work, they are the same in all tests: to start them takes longer than the work.

    test_processes.py has them started, and ended.
    """

    @contextlib.contextmanager
    def pool(num_workers, context, initializer):
        assert (num_workers, context.get_start_method(), initializer) == (2, "spawn", signals.end_with_parent)
        futures = []

        def submit(*task):
            futures.append(_two_processes.submit(*task))
            return futures[-1]

        try:
            yield types.SimpleNamespace(submit=submit)
        finally:  # as the end of a pool of one's own does
            concurrent.futures.wait(futures)

    monkeypatch.setattr("descargan_tf.processes.ProcessPoolExecutor", pool)


@pytest.fixture(scope="module")
def no_pictures():
    """Reports are written without figures, which take half of an evaluation's time; by forked programs, too."""
    with pytest.MonkeyPatch.context() as patch:
        _leave_out_here_and_in_forks("NO_PICTURES", patch)
        yield


@pytest.fixture
def eager():
    """Functions of TensorFlow's run line by line: quicker than tracing a round that a test needs once or twice."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def eager_rounds():
    """Rounds of training are run line by line, here and in forked programs; what networks answer is traced."""
    import program_starts

    with pytest.MonkeyPatch.context() as patch:
        program_starts.leave_rounds_untraced(functools.partial(patch.setattr, raising=False))
        patch.setenv(program_starts.EAGER_ROUNDS, "1")
        yield


@pytest.fixture(scope="module")
def graphs_as_traced():
    """TensorFlow runs graphs without rewriting them first, which takes a third of the time of a round's first call.

    Here and in forked programs.
    """
    import program_starts

    with pytest.MonkeyPatch.context() as patch:
        program_starts.leave_graphs_as_traced()
        patch.setenv(program_starts.GRAPHS_AS_TRACED, "1")
        yield
    program_starts.leave_graphs_as_traced(False)


@pytest.fixture(scope="module")
def shallow():
    """Networks of few layers, for tests of what is around them; here and in forked programs."""
    with pytest.MonkeyPatch.context() as patch:
        _leave_out_here_and_in_forks("SHALLOW", patch)
        yield


@pytest.fixture
def shallow_here(monkeypatch):
    """As `shallow`, in files of which other tests want all layers."""
    _leave_out_here_and_in_forks("SHALLOW", monkeypatch)


@pytest.fixture
def shapes_alone():
    """Networks have weights of a shape and without values, which is enough to count them."""
    import keras
    from keras.src.backend.common import global_state

    with keras.StatelessScope(initialize_variables=False):
        yield
    global_state.set_global_attribute("uninitialized_variables", [])  # which the next scope would make up for


@pytest.fixture
def tiny_settings():
    """A DeScarGAN of a few thousand weights at 64x64."""
    from descargan_tf.methods.descargan import DeScarGANSettings

    return DeScarGANSettings(
        image_size=64,
        generator_filters=2,
        discriminator_filters=2,
        critic_updates=2,
        generator_learning_rate=1e-3,
        discriminator_learning_rate=1e-3,
        distance="mse",
    )


@pytest.fixture
def unprivileged():
    """Root may read no more here than files allow their owner: it lays down two capabilities of Linux."""
    if not hasattr(os, "geteuid"):
        pytest.skip("files have no modes here")
    if os.geteuid() != 0:
        yield
        return
    if not sys.platform.startswith("linux"):
        pytest.skip("root may read everything")
    system = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3, of this thread

    def call(function):
        assert function(header, sets) == 0, os.strerror(ctypes.get_errno())

    call(system.capget)
    before = sets[0]
    sets[0] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of those in effect
    call(system.capset)
    yield
    sets[0] = before
    call(system.capset)


@pytest.fixture(scope="session")
def synthetic_data(tmp_path_factory):
    """A generated data set of 64x64 images, 12 / 6 / 6 per class, and its settings."""
    from descargan_tf.data import generation
    from descargan_tf.data.synthetic import SyntheticSettings

    settings = SyntheticSettings(seed=3, image_size=64, num_train=12, num_validate=6, num_test=6)
    folder = tmp_path_factory.mktemp("data") / "synthetic_64"
    generation.generate(folder, settings, num_workers=1)
    return folder, settings


@pytest.fixture(scope="session")
def serving_config(tmp_path_factory):
    """The models.config of the small models that model servers are tested with; they lie beside it."""
    import serving_models

    return serving_models.write_models(tmp_path_factory.mktemp("serving_models"))


@pytest.fixture
def one_model(serving_config, tmp_path):
    """A base path with version 1 of model m, and the folder of its two versions."""
    from embedded_server import publish

    source = serving_config.parent / "m"
    base = tmp_path / "m"
    base.mkdir()
    publish(base, 1, source / "1")
    return base, source


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    import viewer_page

    with viewer_page.browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def server():
    """A model server that answers by a rule, or as the test wants it to."""
    from scripted_server import ScriptedServer

    with ScriptedServer() as running:
        yield running


@pytest.fixture
def page(browser, server):
    """The viewer page, as the scripted server gives it out."""
    import viewer_page

    with viewer_page.page(browser, server.url) as opened:
        yield opened


@pytest.fixture
def image(tmp_path):
    """A file of the scripted server's size."""
    import numpy as np
    import viewer_page

    from descargan_tf.data.images import write_png

    size = viewer_page.SIZE
    write_png(tmp_path / "scan.png", np.random.default_rng(5).integers(0, 256, (size, size)).astype(np.uint8))
    return tmp_path / "scan.png"


# They take about a minute or more each: begun last, one process would end long after the other.
LONGEST = (
    "methods_conformance",
    "main",
    "pretrained",
    "jax_training",
    "passes",
    "step",
    "jax_step",
    "ends",
    "notebook",
    "exporter",
    "whole_way",  # else the last, with nothing beside it
    "viewer",
    "workers",
)


def pytest_collection_modifyitems(items):
    """The files that take longest come first; within a file nothing moves."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable(config, report):
    """What a test printed goes from process to process as UTF-8; names of files that are no text would end them all."""
    return _as_text((yield))


def _as_text(found):
    if isinstance(found, str):
        return found.encode(errors="backslashreplace").decode()
    if isinstance(found, dict):
        return {key: _as_text(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return type(found)(map(_as_text, found))
    return found


def pytest_terminal_summary(terminalreporter):
    """Name the model servers that the serving contract was held against: the embedded one alone proves little."""
    ran = [
        dict(report.user_properties).get("serving_target")
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call"
    ]
    targets = {target: ran.count(target) for target in sorted(filter(None, ran))}
    if targets:
        real = "" if set(targets) - {"embedded"} else "; no real TensorFlow Serving (TF_SERVING_REST_URL is not set)"
        listed = ", ".join(f"{target} ({count} tests)" for target, count in targets.items())
        terminalreporter.write_line(f"serving contract: {listed}{real}")
