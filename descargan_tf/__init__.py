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
    surroundings.py  environment, Keras, terminal         pretrained.py  published weights: written, loaded, begun with
    program.py     a program's end: errors, lost readers  signals.py     ends from outside;   locks.py  one at work
    export/        what serves a model; in a checkout this is the folder beside the package

Letters in shapes: B batch, N images of a split, H height, W width, C channels, K classes. Images are float32 in
[-1, 1]; label 0 is healthy, 1 diseased. r is a real image, a an artificial one, d = a_h - r the signed anomaly map.
"""

__version__ = "0.1.0"
