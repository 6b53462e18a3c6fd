"""One module per --mode: each puts the packages together and holds no arithmetic."""

from collections.abc import Callable

from descargan_tf.commands import (
    benchmark,
    check_data,
    evaluate,
    export,
    generate,
    predict,
    prepare,
    publish,
    serve,
    train,
)
from descargan_tf.config import Config

# By --mode; what each returns is the exit status.
COMMANDS: dict[str, Callable[[Config], int]] = {
    "generate": generate.generate,
    "prepare": prepare.prepare,
    "check_data": check_data.check_data,
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "predict": predict.predict,
    "export": export.export,
    "serve": serve.serve,
    "publish": publish.publish,
    "benchmark": benchmark.benchmark,
}
