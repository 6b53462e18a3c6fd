"""What the two steps are compared on, for the process of either backend: methods, weights, batches, draws.

`python step_cases.py <folder>` under KERAS_BACKEND=jax answers in <folder>/jax.npz what <folder>/given.npz asks.
"""

import sys
from pathlib import Path

import numpy as np

from descargan_tf.methods import METHODS
from descargan_tf.types import Batch

SEED, STEP, CLIP_NORM, AVERAGE_DECAY, FACTOR = 7, 3, 5.0, 0.5, 0.25
SMALL = {"image_size": 64, "discriminator_filters": 2, "discriminator_learning_rate": 0.1}
GAN = {**SMALL, "generator_filters": 2, "generator_learning_rate": 0.1, "critic_updates": 1}
CASES = {
    "descargan": GAN,
    "vagan": {**GAN, "critic_updates": 2},
    "densenet169": {**SMALL, "dense_blocks": "1,1,1,1"},
    "dcls": SMALL,
}


def build(name):
    """The method of one case, tiny, float32."""
    kind, settings = METHODS[name]
    return kind(settings(**CASES[name]))


def batches(count, half=2):
    """[count, half, H, W, 1] of each class: waves, as in noise rounding alone moves the maxima of poolings."""
    y, x = np.mgrid[0:1:64j, 0:1:64j]
    shift = np.random.default_rng(0).uniform(0, 6, (2, count, half, 4, 1, 1))
    a, b, c, d = np.moveaxis(shift, 3, 0)
    images = 0.5 * np.sin(a + (2 + b) * x + y) + 0.4 * np.cos(c - (1 + d) * y + x)
    return Batch(*images[..., None].astype(np.float32))


def arrays_of(given, prefix):
    """The arrays under a prefix in order."""
    return [given[key] for key in sorted(key for key in given if key.startswith(prefix + "/"))]


def answer(folder):
    """JAX's side."""
    import jax
    import jax.numpy as jnp

    from descargan_tf.training.jax_step import JaxStep, State

    given, found = dict(np.load(folder / "given.npz")), {}
    for name in CASES:
        method = build(name)
        step = JaxStep(method, SEED, clip_norm=CLIP_NORM, average_decay=AVERAGE_DECAY)

        def put(prefix, variables, name=name):
            return [
                jnp.asarray(a, v.dtype) for a, v in zip(arrays_of(given, f"{name}/{prefix}"), variables, strict=True)
            ]

        networks = {n: put(f"networks/{n}", network.weights) for n, network in method.networks.items()}
        averaged = put("averaged", method.networks[method.averaged].weights)
        state = State(networks, averaged, {n: put(f"optimizers/{n}", a.variables) for n, a in step.adams.items()})
        data = Batch(*map(jnp.asarray, batches(method.batches_per_round)))
        state, logs = jax.jit(step.round)(state, jnp.int32(STEP), jnp.float32(FACTOR), data)
        found |= {f"{name}/logs/{n}": value for n, value in logs.items()}
        for n, arrays in state.networks.items():
            found |= {f"{name}/networks/{n}/{i:03d}": a for i, a in enumerate(arrays)}
        found |= {f"{name}/averaged/{i:03d}": a for i, a in enumerate(state.averaged)}
        for n, arrays in state.optimizers.items():
            found |= {f"{name}/optimizers/{n}/{i:03d}": a for i, a in enumerate(arrays)}
    np.savez(folder / "jax.npz", **found)


if __name__ == "__main__":
    answer(Path(sys.argv[1]))
