"""The program in a process of its own, as its users start it, but for the seconds in which TensorFlow loads.

They are most of what a short run costs, and there are dozens. So a process that has loaded the program's modules, and
has had TensorFlow do nothing yet, forks for each start: what comes then is the program's whole way as `__main__`, from
its arguments to its exit status. What depends on how it loads is for true starts: `anew`.

Loading TensorFlow starts no thread, and OpenBLAS starts its own again in a fork.
"""

import atexit
import contextlib
import ctypes
import functools
import json
import os
import random
import runpy
import socket
import subprocess
import sys
import typing
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LARGEST_REQUEST = 2**17
PR_SET_CHILD_SUBREAPER = 36
# In the environment of a start: what tests/conftest.py's fixtures of these names do here, done in what is forked; see
# `LEFT_OUT`.
EAGER_ROUNDS, GRAPHS_AS_TRACED = "EAGER_ROUNDS_IN_FORKS", "GRAPHS_AS_TRACED_IN_FORKS"
SHALLOW, ONE_REPLICA, NO_PICTURES = "SHALLOW_IN_FORKS", "ONE_REPLICA_IN_FORKS", "NO_PICTURES_IN_FORKS"
FORKS_TOO = "FORKS_IN_FORKS"  # as of the fixture `forked`: what a start starts itself is a fork of what it began as


def start(folder, *arguments, module="descargan_tf.main", anew=False, **options):
    """`python -m module arguments` in a folder, its output in pipes: a subprocess.Popen.

    Args:
        anew: a new Python that loads everything; always so where the system is not Linux.
        options: of subprocess.Popen.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    kind = _Popen if anew else Fork
    return kind(command, **{"cwd": folder, "env": environment, "text": True, **pipes, **options})


_Popen = subprocess.Popen  # whatever a test puts in its place


class Fork(_Popen):
    """As its base where another program is started; of ours, a child of this process that was forked by `_server`."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *others):
        if sys.platform != "linux" or "-m" not in args or args[0] != sys.executable:
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *others)
            return
        pipes, new_session = others[3:9], others[-2]
        arguments = args[args.index("-m") + 1 :]
        request = json.dumps([arguments, os.fspath(cwd or Path.cwd()), dict(env or os.environ), new_session]).encode()
        assert len(request) < LARGEST_REQUEST
        streams = [own if given == -1 else given for own, given in enumerate((pipes[0], pipes[3], pipes[5]))]
        # Whoever loses its parent becomes a child of ours: of these alone an exit status can be had.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        try:
            socket.send_fds(_server(), [request], [*streams, *pass_fds])
            self.pid = int(_server().recv(100))
            _server().recv(100)
        finally:
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0)
        self._child_created = True
        self._close_pipe_fds(*pipes)


@functools.cache
def _server():
    """The socket of a process that forks; it ends when we do."""
    its, ours = _socket_pair()
    process = _Popen(
        [sys.executable, __file__, str(its.fileno())],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        pass_fds=[its.fileno()],
    )
    its.close()
    atexit.register(process.wait)
    atexit.register(ours.close)  # the last is called first
    return ours


def _socket_pair():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _fork_by(connection):
    """What this process starts from now on is asked of that one."""
    global _server
    _server, subprocess.Popen = lambda: connection, Fork


def _serve(connection):
    """Fork for every request; in a child, return the arguments of `-m`, and all else is as in a new Python."""
    from descargan_tf import surroundings

    surroundings.settle()
    # A fork would copy all that it only looks through.
    with surroundings.held_back_unless_it_fails(2), surroundings.unsearched():
        surroundings.load_alone()
        import sklearn.metrics  # noqa: F401
        from skimage import filters, metrics  # noqa: F401, loaded when they are asked for

        import descargan_tf.commands
        import descargan_tf.run_folder  # noqa: F401
    from tensorflow.python.eager import context

    leave_bookkeeping_out()
    assert context.context_safe() is None, "TensorFlow has been at work, and its threads would be missing in a fork"
    while True:
        request, descriptors, *_ = socket.recv_fds(connection, LARGEST_REQUEST, 100)
        if not request:
            os._exit(0)  # there is nothing to tidy up, which takes a second
        between = os.fork()
        if between == 0:
            *wanted, new_session = json.loads(request)
            ready, settled = os.pipe()
            child = os.fork()
            if child != 0:
                os.close(settled)
                os.read(ready, 1)
                connection.send(str(child).encode())
                os._exit(0)  # so that the other's parent is who asked
            # Before anybody is told of it: who asks for its group sooner gets ours, and ends us all (as Jupyter does).
            if new_session:
                os.setsid()
            os.close(ready)
            os.close(settled)
            connection.close()
            if FORKS_TOO in wanted[2]:
                connection, other = _socket_pair()
                if os.fork() == 0:  # before anything is at work here
                    other.close()
                    for descriptor in descriptors:
                        os.close(descriptor)
                    continue
                connection.close()
                _fork_by(other)
            return _settle_in(*wanted, descriptors[:3])
        os.waitpid(between, 0)
        connection.send(b"nobody is between")
        for descriptor in descriptors:
            os.close(descriptor)


def _settle_in(arguments, folder, environment, streams):
    for own, given in enumerate(streams):
        os.dup2(given, own)
        os.close(given)
    # The old ones remember what was open here.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115, they stay
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    for name, leave_out in LEFT_OUT.items():
        if name in os.environ:
            leave_out()
    return arguments


def leave_rounds_untraced(replace=setattr):
    """A round of training is the function itself, not its graph."""
    from descargan_tf.training.step import TrainStep

    replace(TrainStep, "round", property(lambda step: step._round, lambda step, traced: None))


def leave_layers_out(replace=setattr):
    """What repeats itself in a network comes once or twice: most of a round's operations say the same again.

    How often it is to come, test_models.py, test_vae.py and test_compared_gans.py say by independent computations.
    """
    from descargan_tf.models import discriminator, generator, stargan, vae, vagan

    replace(generator, "_NUM_POOLINGS", 2)  # one has no skip connection
    replace(generator, "_NUM_CONVOLUTIONS", 1)
    replace(discriminator, "_TRUNK", ((1,), (2,)))
    replace(discriminator, "_HEAD", ())
    replace(vagan, "_NUM_POOLINGS", 1)
    replace(vagan, "_NUM_CONVOLUTIONS", 1)
    replace(vagan, "_CRITIC", ((1,), (2,)))
    replace(vae, "_NUM_BLOCKS", 1)
    replace(stargan, "_NUM_RESIDUAL_BLOCKS", 1)
    replace(stargan, "_NUM_SCALINGS", 1)
    replace(stargan, "_NUM_HALVINGS", 2)


def leave_replicas_out(replace=setattr):
    """The program's own strategy is none: over one device, too, TensorFlow's would start a thread for each update."""
    import tensorflow as tf

    from descargan_tf.training import step

    replace(step, "all_devices", tf.distribute.get_strategy)


def leave_pictures_undrawn(replace=setattr):
    """Reports have no figures."""
    from descargan_tf.evaluation import figures

    def draw(folder, *_):
        folder.mkdir(parents=True, exist_ok=True)
        return []

    replace(figures, "draw_all", draw)


def leave_bookkeeping_out():
    """What TensorFlow does beside the work: a fifth to a quarter of the time of many small computations."""
    from tensorflow.python.eager import context
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import gen_resource_variable_ops

    # Its eager runtime makes a kernel for each other name of a variable: a quarter of a network's making.
    make = gen_resource_variable_ops.var_handle_op
    gen_resource_variable_ops.var_handle_op = lambda **given: make(**{**given, "debug_name": ""})

    # It forgets all kernels when a seed is set, for those of random operations that keep a state. None does here: what
    # is drawn is a function of a seed that is given.
    def set_seed(self, seed):
        self._seed, self._rng = seed, random.Random(seed)

    context.Context._set_global_seed = set_seed

    # Python 3.11 lists the members of a protocol anew whenever it asks whether something has them, as all tensors do.
    typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)

    # With every operation of a graph it keeps the lines of Python that led to it.
    create = ops._create_c_op.__wrapped__
    assert create.__defaults__ == (None, True)
    create.__defaults__ = (None, False)


def leave_graphs_as_traced(leave=True):
    """TensorFlow does not rewrite graphs before it runs them."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": leave})


LEFT_OUT = {
    EAGER_ROUNDS: leave_rounds_untraced,
    GRAPHS_AS_TRACED: leave_graphs_as_traced,
    ONE_REPLICA: leave_replicas_out,
    NO_PICTURES: leave_pictures_undrawn,
    SHALLOW: leave_layers_out,
}


def _leave():
    """The last of a fork's atexit handlers: Python would now take all apart that it was forked with, which takes longer
    than most starts do. Where there is more to it than an exit status, it does so.
    """
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
        if _status is not None:
            os._exit(_status)


_status = None  # of a program that has ended by itself

if __name__ == "__main__":
    atexit.register(_leave)  # the first is called last
    module, *sys.argv[1:] = _serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        _status = 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _status = (end.code or 0) & 0xFF
        raise
