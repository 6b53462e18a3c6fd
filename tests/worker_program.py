"""One of several processes that train together, as TF_CONFIG says: `python -m worker_program <run folder> <fall>`.

The last of them kills itself before round `fall`; 0: it does not.
"""

import signal
import sys
from pathlib import Path

import keras
import toy_training

from descargan_tf import program
from descargan_tf.training.loop import Trainer
from descargan_tf.training.step import TensorFlowEngine, strategy_of
from descargan_tf.training.workers import workers_of


def main():
    run_dir, fall = Path(sys.argv[1]), int(sys.argv[2])
    workers = workers_of("auto")
    strategy = strategy_of("auto", workers)
    keras.utils.set_random_seed(toy_training.SETTINGS.seed)
    settings = toy_training.SETTINGS
    engine = TensorFlowEngine(
        toy_training.Toy,
        strategy,
        toy_training.SMALL,
        batch_size=settings.batch_size,
        seed=settings.seed,
        average_decay=toy_training.AVERAGE_DECAY,
        workers=workers,
    )
    training = Trainer(run_dir, engine, settings, toy_training.watch(toy_training.SMALL))
    if fall and workers.index == workers.count - 1:
        toy_training.on_round(training, fall, toy_training.send(signal.SIGKILL))
    print(training.run())
    return 0


if __name__ == "__main__":
    sys.exit(program.run(main))
