"""DeScarGAN for Keras 3 and TensorFlow: anomaly maps learned from image-level labels.

The map of the package:

    main.py        flags -> one function per --mode         commands.py   those functions: puts the packages together
    config.py      every flag -> one frozen Config          errors.py     what a user caused and can mend
    types.py       the nouns that pass between packages     files.py      files that are whole or not there
    data/          draw, read, check and batch images       models/       the networks, one file each
    losses.py      the paper's equations                    methods/      networks + losses = a method
    training/      steps, loop, checkpoints, writer         evaluation/   metrics, figures, report
    prediction/    splits, files -> maps, table, overlays   pretrained.py published weights: written, loaded, begun with

Letters in shapes: B batch, N images of a split, H height, W width, C channels, K classes. Images are float32 in
[-1, 1]; label 0 is healthy, 1 diseased. r is a real image, a an artificial one, d = a_h - r the signed anomaly map.
"""

__version__ = "0.1.0"
