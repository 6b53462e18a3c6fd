"""Several processes train together: what TF_CONFIG says, and two of them on this machine."""

import json
import os
import signal
import socket

import keras
import numpy as np
import pytest
from program_starts import ROOT, start
from toy_training import SETTINGS, lines, names_in, trainer

from descargan_tf.commands.train import refuse_unlike_processes
from descargan_tf.config import Config
from descargan_tf.errors import UserError
from descargan_tf.training import checkpoint
from descargan_tf.training.workers import ALONE, Workers, workers_of

TWO = {"worker": ["a:1", "b:1"]}


def environment(cluster, kind="worker", index=0):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


@pytest.mark.parametrize(
    ("strategy", "found", "expected"),
    [
        ("auto", {}, ALONE),
        ("auto", environment({"worker": ["a:1"]}), ALONE),
        ("auto", environment(TWO, index=1), Workers(1, 2)),
        ("multi_worker", environment(TWO), Workers(0, 2)),
        ("mirrored", environment(TWO, index=1), ALONE),
        ("one_device", {"TF_CONFIG": "is not looked at"}, ALONE),
        ("auto", environment({"chief": ["c:1"], **TWO}, "chief"), Workers(0, 3)),
        ("auto", environment({"chief": ["c:1"], **TWO}, index=1), Workers(2, 3)),
    ],
)
def test_who_trains_together(strategy, found, expected):
    assert workers_of(strategy, found) == expected
    assert expected.is_chief == (expected.index == 0)


@pytest.mark.parametrize(
    ("strategy", "found", "said"),
    [
        ("multi_worker", {}, "--strategy=multi_worker needs TF_CONFIG in the environment, as in {"),
        ("auto", {"TF_CONFIG": "{"}, "TF_CONFIG is not understood"),
        ("auto", {"TF_CONFIG": '{"cluster": {}}'}, "TF_CONFIG is not understood"),
        ("auto", {"TF_CONFIG": '{"cluster": 3, "task": {"type": "worker", "index": 0}}'}, "is not understood"),
        ("auto", environment(TWO, index=2), "TF_CONFIG says that this is worker 2, and its cluster has none of that"),
        ("auto", environment(TWO, "chief"), "TF_CONFIG says that this is chief 0"),
        ("auto", environment({**TWO, "ps": ["c:1"]}), "TF_CONFIG names ps: a training here has a chief and workers"),
    ],
)
def test_a_cluster_that_is_not_understood(strategy, found, said):
    with pytest.raises(UserError) as caught:
        workers_of(strategy, found)
    assert said in str(caught.value)


def test_a_strategy_is_tensorflows():
    with pytest.raises(UserError, match="--strategy=mirrored is TensorFlow's: leave it out, or --backend=jax"):
        Config(strategy="mirrored", backend="jax", dataset="synthetic", run_dir="r")


class Another:
    """An engine one of whose two processes was started with other things."""

    workers = Workers(0, 2)

    def __init__(self, difference):
        self._difference = difference

    def sum_over_processes(self, values):
        return [2 * value + self._difference for value in values]


def test_processes_that_were_started_differently_are_refused():
    config = Config(mode="train", dataset="synthetic", run_dir="r")
    refuse_unlike_processes(Another(0), config, {"digest": "d"})
    with pytest.raises(UserError, match="the processes of this training were started with different flags"):
        refuse_unlike_processes(Another(1), config, {"digest": "d"})


def test_checkpoints_that_only_one_process_sees_are_refused(tmp_path):
    training = trainer(tmp_path, traced=True)
    training.engine.workers, training.engine.sum_over_processes = Workers(0, 2), lambda values: [values[0] + 4]
    with pytest.raises(UserError, match="holds step 0 for this process and another one elsewhere"):
        training.run()


def free_ports(count):
    """Ports that nobody had when they were looked for."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def together(run_dir, fall=0):
    """Two processes on this machine, the second of which may fall; exit statuses and what they printed."""
    run_dir.mkdir(exist_ok=True)
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    started = [
        start(ROOT, run_dir, fall, module="worker_program", env=os.environ | environment(cluster, index=index) | path)
        for index in range(2)
    ]
    printed = [process.communicate(timeout=300) for process in started]
    return [process.returncode for process in started], printed


def test_two_processes_train_as_one_and_go_on_after_one_is_killed(tmp_path, two_replicas):
    """What they end with is what one process with two replicas ends with that nobody disturbed."""
    statuses, printed = together(tmp_path / "two", fall=SETTINGS.checkpoint_every_steps + 2)
    assert statuses == [2, -signal.SIGKILL]
    assert "error: another process of this training is gone. Start all of them again" in printed[0][1]
    assert names_in(tmp_path / "two" / "checkpoints")[0] == str(SETTINGS.checkpoint_every_steps)

    statuses, printed = together(tmp_path / "two")
    assert statuses == [0, 0], printed
    assert f"resuming at step {SETTINGS.checkpoint_every_steps}" in printed[0][0]
    assert printed[1][0].splitlines()[0] == str(SETTINGS.max_steps), "one process reports, and it is the first"

    keras.utils.set_random_seed(SETTINGS.seed)
    trainer(tmp_path / "one", strategy=two_replicas, traced=True).run()
    (one, about), (two, other) = (
        checkpoint.load(tmp_path / name / "checkpoints" / str(SETTINGS.max_steps)) for name in ("one", "two")
    )
    assert about["step"] == other["step"]
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, rtol=1e-6, atol=1e-7, err_msg=name)
    steps = [(line["step"], line["group"]) for line in lines(tmp_path / "one")]
    assert [(line["step"], line["group"]) for line in lines(tmp_path / "two")] == steps, "written once"
    assert names_in(tmp_path / "two") == names_in(tmp_path / "one")
