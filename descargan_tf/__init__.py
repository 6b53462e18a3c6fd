"""DeScarGAN for Keras 3 and TensorFlow: anomaly maps learned from image-level labels.

The map of the package:

    main.py        flags -> one of commands/              commands/      one module per --mode: puts packages together
    config.py      every flag -> one frozen Config        run_folder.py  what a run folder holds, and how it is read
    types.py       the nouns that pass between packages   errors.py      what a user caused and can mend
    measures.py    what is measured: names, titles, tables
    hardware.py, provenance.py   machine, versions, commit   files.py    files that are whole or not there
    data/          draw, read, check and batch images     models/        the networks, one file each
    losses.py      the paper's equations                  methods/       networks + losses = a method
    training/      steps, loop, checkpoints, writer       evaluation/    metrics, figures, report
    prediction/    splits, files -> maps, table, overlays benchmark/     a grid of runs and its tables
    model.py       load(): a trained model from Python
    surroundings.py  environment, Keras, terminal         pretrained.py  published weights: written, loaded, begun with
    program.py     a program's end: errors, lost readers  signals.py     ends from outside;   locks.py  one at work
    processes.py   work spread over cores, in order
    export/        what serves a model; in a checkout this is the folder beside the package

Letters in shapes: B batch, N images of a split, H height, W width, C channels, K classes. Images are float32 in
[-1, 1]; label 0 is healthy, 1 diseased. r is a real image, a an artificial one, d = a_h - r the signed anomaly map.

What comments call D1.6 and the like, a rule of the authors' program, is in docs/traps.md.
"""

__version__ = "0.1.0"


def load(path, checkpoint: str = "best"):
    """A trained model, which takes and gives numpy arrays: a `descargan_tf.model.Model`.

    Keras computes with TensorFlow, unless it is already there with JAX or KERAS_BACKEND says jax.

    Args:
        path: the folder of a run, of published weights (pretrained/<name>), or of what --mode=export wrote.
        checkpoint: of a run: best, latest or a step.

    Raises:
        descargan_tf.errors.UserError: it is none of these, or cannot be read.
    """
    import os
    import sys

    from descargan_tf import surroundings

    if "keras" not in sys.modules:  # which asks once what to compute with
        backend = "jax" if os.environ.get("KERAS_BACKEND") == "jax" else "tensorflow"
        surroundings.settle(backend)
        with surroundings.loading(backend, own_process=False):
            from descargan_tf import model
    else:
        from descargan_tf import model
    return model.load(path, checkpoint)
