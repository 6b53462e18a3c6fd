"""What libraries write to the user's terminal of their own accord."""

import contextlib
import os
import shutil
import sys
import tempfile

from descargan_tf.errors import UserError


@contextlib.contextmanager
def held_back_unless_it_fails(descriptor):
    """Keep what TensorFlow's libraries write while they load (no log level reaches it) from the user's terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow leaves oneDNN off on processors without AVX-512; there too its convolutions are twice as fast.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    sys.stderr.flush()
    kept = os.dup(descriptor)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, kept)
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
        except OSError as error:
            raise UserError(f"no temporary file can be written: {error.strerror or error}. Free space.") from error
        os.dup2(held.fileno(), descriptor)
        try:
            yield
        except BaseException:
            held.seek(0)
            with open(kept, "wb", closefd=False) as out:
                shutil.copyfileobj(held, out)
            raise
        finally:
            os.dup2(kept, descriptor)
