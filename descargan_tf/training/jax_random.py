"""The numbers of `tf.random.stateless_uniform`, bit for bit, in JAX: both steps draw the same.

Philox 4x32 with ten rounds (Salmon et al., SC 2011); how TensorFlow makes key and counter of a seed is from its
`random_ops_util` and `stateless_random_ops`.
"""

import functools
import math

import jax
import jax.numpy as jnp

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_SCRAMBLING_KEY = 0x3EC8F720, 0x02461E29  # TensorFlow's


def uniform(seed_words, shape):
    """float32 of this shape in [0, 1), as `stateless_uniform(shape, [a, b])` gives.

    Args:
        seed_words: uint32 [4]: a's low and high word, b's low and high word.
        shape: static.
    """
    k0, k1, c2, c3 = _philox(tuple(seed_words), tuple(map(jnp.uint32, _SCRAMBLING_KEY)))
    size = math.prod(shape)
    group = jnp.arange(-(-size // 4), dtype=jnp.uint32)
    zeros = jnp.zeros_like(group)
    bits = jnp.stack(_philox((group, zeros, c2 + zeros, c3 + zeros), (k0, k1)), axis=1).reshape(-1)[:size]
    one_to_two = jax.lax.bitcast_convert_type((bits & 0x7FFFFF) | 0x3F800000, jnp.float32)
    return (one_to_two - 1.0).reshape(shape)


def _philox(counter, key):
    def mixed(_, state):
        c0, c1, c2, c3, k0, k1 = state
        high_0, low_0 = _multiply(_MULTIPLIERS[0], c0)
        high_1, low_1 = _multiply(_MULTIPLIERS[1], c2)
        mixed = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        return *mixed, k0 + jnp.uint32(_KEY_STEPS[0]), k1 + jnp.uint32(_KEY_STEPS[1])

    # Processors get a loop, as of JAX's own generator: the rounds in a row take XLA a second to compile.
    return jax.lax.fori_loop(0, 10, mixed, (*counter, *key), unroll=jax.default_backend() != "cpu")[:4]


@functools.partial(jax.jit, static_argnums=0)  # traced once for all of its forty calls
def _multiply(a, b):
    """High and low word of a product; in halves, as JAX has no 64 bits unless all of it has."""
    a_high, a_low = jnp.uint32(a >> 16), jnp.uint32(a & 0xFFFF)
    b_high, b_low = b >> 16, b & 0xFFFF
    middle = a_high * b_low + ((a_low * b_low) >> 16)
    other = a_low * b_high + (middle & 0xFFFF)
    return a_high * b_high + (middle >> 16) + (other >> 16), jnp.uint32(a) * b
