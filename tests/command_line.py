"""What tests of flags share: a command line that is taken, and one that is refused."""

import pytest

from descargan_tf.errors import UserError
from descargan_tf.run_folder import configure

SYNTHETIC = ("--dataset=synthetic", "--run_dir=runs/a")


def parsed(*arguments):
    return configure(["main", *arguments])


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        parsed(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message
