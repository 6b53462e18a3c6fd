"""What the two steps are compared on, for the process of either backend: methods, weights, batches, draws.

`answer(folder)` under Keras' JAX backend answers in <folder>/jax.npz what <folder>/given.npz asks.
"""

import importlib.metadata

import keras
import numpy as np
import program_starts
from keras import ops

from descargan_tf import losses
from descargan_tf.methods import METHODS
from descargan_tf.models import discriminator, generator
from descargan_tf.types import Batch, Split

# For processes of JAX: of code that is compiled quickly, to run slowly; and in one piece, not in many at a time.
_XLA_FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if importlib.metadata.version("jax").startswith("0.10."):  # later ones do not know it, and end at what they do not know
    _XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
COMPILED_QUICKLY = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(_XLA_FLAGS)}
SEED, STEP, CLIP_NORM, AVERAGE_DECAY, FACTOR = 7, 3, 5.0, 0.5, 0.25
SMALL = {"image_size": 32, "discriminator_filters": 2, "discriminator_learning_rate": 0.1}
GAN = {**SMALL, "generator_filters": 2, "generator_learning_rate": 0.1, "critic_updates": 1}
CASES = {
    "descargan": GAN,
    "vagan": {**GAN, "critic_updates": 2},
    "dcls": SMALL,
}
ROUNDS = ("descargan", "vagan")  # of the other, engines do three


def leave_more_layers_out(replace=setattr):
    """Beyond what is left out of shallow networks: skip connections, and all but one of a trunk's sizes.

    Each kind of layer is there still, in a network or other; TensorFlow's engine goes through the same ones.
    """
    replace(generator, "_NUM_POOLINGS", 1)
    replace(discriminator, "_TRUNK", ((1,),))


def build(name, **changes):
    """The method of one case, tiny, float32."""
    entry = METHODS[name]
    return entry.method(entry.settings(**{**CASES[name], **changes}))


def critic_in_bfloat16(given, input_gradient, compiled=lambda fn: fn):
    """VAGAN's critic, built in bfloat16, of some images: its scores, and the penalty, which is to be float32."""
    method = build("vagan", precision="bfloat16")
    critic = method.networks["discriminator"]
    critic.set_weights(arrays_of(given, "vagan/networks/discriminator"))

    def found(images):
        gradient = input_gradient(lambda x: losses.score(method._in_float32(x)), images)
        return {"scores": losses.score(critic(images)), "penalty": losses.gradient_penalty(gradient)}

    return {name: np.asarray(value) for name, value in compiled(found)(ops.convert_to_tensor(split().images)).items()}


def batches(count, half=2):
    """[count, half, H, W, 1] of each class: waves, as in noise rounding alone moves the maxima of poolings."""
    y, x = np.mgrid[0:1:32j, 0:1:32j]
    shift = np.random.default_rng(0).uniform(0, 6, (2, count, half, 4, 1, 1))
    a, b, c, d = np.moveaxis(shift, 3, 0)
    images = 0.5 * np.sin(a + (2 + b) * x + y) + 0.4 * np.cos(c - (1 + d) * y + x)
    return Batch(*images[..., None].astype(np.float32))


def arrays_of(given, prefix):
    """The arrays under a prefix in order."""
    return [given[key] for key in sorted(key for key in given if key.startswith(prefix + "/"))]


def split():
    """Four healthy and three diseased images."""
    images = np.concatenate([part[:, 0] for part in batches(4)])[:7]
    return Split(images, np.repeat([0, 1], [4, 3]), None, [str(i) for i in range(7)])


ENGINE = {"batch_size": 4, "seed": SEED, "clip_norm": CLIP_NORM, "average_decay": AVERAGE_DECAY}
FACTORS = [0.5, 0.25, 1.0]  # of the rounds that engines do
SHAPE = (5, 1, 27)  # no multiple of four; JAX takes half a second to compile a drawing of another shape
DRAWS = [(7 * 2**31 + 12345, 0, SHAPE), (2**62 + 2**31 - 1, 987654, SHAPE), (3, 2**33 + 1, SHAPE)]
FEW_PASSES = 6  # that statistics are estimated from
PARTS = {"a": [1.0, np.nan, 3.0, np.inf], "b": [1.0, 2.0, 4.0, 8.0]}  # terms of four updates


def answer(folder):
    """JAX's side.

    In few programs: by itself, JAX lowers and compiles one for each operation and shape.
    """
    import jax

    from descargan_tf import surroundings

    with surroundings.unsearched():
        from descargan_tf.training import engine

    engine.STATISTICS_PASSES = FEW_PASSES  # as the step takes it from there
    program_starts.leave_layers_out()
    leave_more_layers_out()
    from descargan_tf.training import jax_step
    from descargan_tf.training.jax_step import input_gradient

    jax_step._MEASURE_SECONDS = 0.01
    # What weights and slots begin with is overwritten; JAX would compile a program for each shape of it.
    drawn = keras.initializers.VarianceScaling, keras.initializers.Constant, keras.initializers.Zeros
    for kind in (*drawn, keras.initializers.Ones):
        kind.__call__ = lambda self, shape, dtype=None: np.zeros(shape, dtype)
    given, found = dict(np.load(folder / "given.npz")), {}
    for name in ROUNDS:
        found |= {f"{name}/{key}": array for key, array in one_round(name, given).items()}
    found |= {f"engine/{key}": array for key, array in engines(given).items()}
    found |= {f"statistics/{key}": array for key, array in statistics(given).items()}
    found |= {f"bfloat16/{key}": array for key, array in critic_in_bfloat16(given, input_gradient, jax.jit).items()}
    found |= parts()
    np.savez(folder / "jax.npz", **found)


def one_round(name, given):
    """What a round makes of a case, and what it logs."""
    import jax
    import jax.numpy as jnp

    from descargan_tf.training.jax_step import JaxStep, State

    method = build(name)
    step = JaxStep(method, SEED, clip_norm=CLIP_NORM, average_decay=AVERAGE_DECAY)

    def put(prefix, variables):
        arrays = arrays_of(given, f"{name}/{prefix}")
        return [jnp.asarray(array, v.dtype) for array, v in zip(arrays, variables, strict=True)]

    networks = {n: put(f"networks/{n}", network.weights) for n, network in method.networks.items()}
    averaged = put("averaged", method.networks[method.averaged].weights)
    state = State(networks, averaged, {n: put(f"optimizers/{n}", a.variables) for n, a in step.adams.items()})
    data = Batch(*map(jnp.asarray, batches(method.batches_per_round)))
    state, logs = jax.jit(step.round)(state, jnp.int32(STEP), jnp.float32(FACTOR), data)
    groups = {f"networks/{n}": arrays for n, arrays in state.networks.items()}
    groups |= {"averaged": state.averaged, **{f"optimizers/{n}": arrays for n, arrays in state.optimizers.items()}}
    found = {f"{n}/{i:03d}": array for n, arrays in groups.items() for i, array in enumerate(arrays)}
    return {f"logs/{term}": value for term, value in logs.items()} | found


def engine_of(name, given, **changes):
    """An engine of a case at the weights and slots that were given."""
    from descargan_tf.training.jax_step import JaxEngine

    engine = JaxEngine(lambda: build(name), split(), **ENGINE, **changes)
    start = {key.removeprefix(f"{name}/"): array for key, array in given.items() if key.startswith(f"{name}/")}
    engine.assign(start, STEP, "given")
    return engine


def engines(given):
    """Three rounds in one call; then the same one by one, with images that are sent along: equal to the last bit."""
    whole, parts = engine_of("dcls", given), engine_of("dcls", given, resident=False)
    logs = whole.rounds(FACTORS)
    one_by_one = [parts.rounds([factor]) for factor in FACTORS]
    for term, values in logs.items():
        np.testing.assert_array_equal(values, np.concatenate([found[term] for found in one_by_one]))
    for key, array in whole.arrays().items():
        np.testing.assert_array_equal(array, parts.arrays()[key], err_msg=key)
    assert (whole.step, parts.step) == (STEP + 3, STEP + 3)
    whole.refresh()
    answers = {"probabilities": whole.predict(split().images).class_probabilities}
    whole.rounds([1.0])  # takes the state's memory; what was asked before stays
    np.testing.assert_array_equal(whole.predict(split().images).class_probabilities, answers["probabilities"])
    shares = whole.shares(1e9)
    assert list(shares) == ["share_of_matrix_product_speed"]
    assert 0 < shares["share_of_matrix_product_speed"] < 1e-6
    return {f"logs/{term}": values for term, values in logs.items()} | parts.arrays() | answers


def statistics(given):
    """Averages estimated anew, and a batch translated with them."""
    import jax

    engine = engine_of("vagan", given)
    engine.estimate_and_fix_statistics()
    engine.refresh()
    images, network = split().images, engine.method.networks["generator"]

    @jax.jit
    def both(images):
        return [network(images, training=training) for training in (True, False)]

    np.testing.assert_array_equal(*both(images))
    return engine.arrays() | {"maps": engine.predict(images).anomaly_map}


def parts():
    """Functions by themselves."""
    import jax

    from descargan_tf.training.jax_random import uniform
    from descargan_tf.training.jax_step import _flops, _sum_up_to_a_failure

    found, draw = {}, jax.jit(uniform, static_argnums=1)
    for i, (seed, step, shape) in enumerate(DRAWS):
        words = np.array([seed & 0xFFFFFFFF, seed >> 32, step & 0xFFFFFFFF, step >> 32], np.uint32)
        found[f"draws/{i}"] = draw(words, shape)
    sums = jax.jit(_sum_up_to_a_failure)({name: np.array(values, np.float32) for name, values in PARTS.items()})
    found |= {f"sums/{name}": value for name, value in sums.items()}

    def program(x, kernel, matrix):
        """8x8x3 to 4x4x5 three times over, [2, 80] @ [80, 7]; and back to 8x8x3 as a convolution's gradient."""

        def convolve(x):
            return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

        _, y = jax.lax.scan(lambda carry, _: (carry, convolve(x)), 0, length=3)
        return y[0].reshape(2, 80) @ matrix, jax.linear_transpose(convolve, x)(y[0])

    shapes = (2, 8, 8, 3), (3, 3, 3, 5), (80, 7)
    poolings()
    convolutions()
    given = (jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)
    found["flops"] = _flops(jax.make_jaxpr(program)(*given).jaxpr)
    return found


def poolings():
    """Ours and Keras', to the last bit: values, gradients and gradients of gradients, where pixels are equal too."""
    import jax
    import jax.numpy as jnp

    from descargan_tf.models.blocks import MaxPooling2D

    x = jnp.asarray(np.random.default_rng(0).integers(-2, 3, (3, 8, 6, 2)), jnp.float32)

    def found(pool):
        def penalty(x):
            return jnp.sum(jax.grad(lambda y: jnp.sum(pool(y * y) ** 3))(x) ** 2)

        return jax.jit(lambda x: [pool(x), jax.grad(lambda y: jnp.sum(pool(y) ** 2))(x), jax.grad(penalty)(x)])(x)

    for ours, theirs in zip(*(found(kind(2)) for kind in (MaxPooling2D, keras.layers.MaxPooling2D)), strict=True):
        assert np.any(ours)
        np.testing.assert_array_equal(ours, theirs)
    x = np.array(x)
    x[0, 0, 1, 0] = x[1, 0, 0, 0] = np.nan
    holes = np.isnan(jax.jit(MaxPooling2D(2))(x))
    assert holes[0, 0, 0, 0]
    assert holes[1, 0, 0, 0]
    assert holes.sum() == 2


def convolutions():
    """Those that are computed otherwise for a GPU's sake, and Keras' own: values and both gradients."""
    import jax
    import jax.numpy as jnp

    from descargan_tf.models.blocks import Conv2D, UpsampleConv2D

    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, 6, 4, 3)), jnp.float32)
    to_five, to_one = (keras.layers.Conv2D(n, 3, padding="same") for n in (5, 1))
    upsampled = keras.Sequential([keras.layers.UpSampling2D(2), to_five])
    for ours, theirs in ((UpsampleConv2D(5), upsampled), (Conv2D(1, 3, padding="same"), to_one)):
        for layer in (ours, theirs):
            layer.build(x.shape)
        bias = ours.bias
        for variable in (bias, ours.kernel):
            variable.assign(random.normal(size=variable.shape))
        like = jnp.asarray(random.normal(size=ours.compute_output_shape(x.shape)), jnp.float32)

        def products(x, kernel, layer, like=like, bias=bias):
            with keras.StatelessScope(list(zip(layer.weights, (kernel, bias), strict=True))):
                return jnp.sum(layer(x) * like)

        differentiated = jax.jit(jax.value_and_grad(products, (0, 1)), static_argnums=2)
        found = [differentiated(x, ours.kernel.value, layer) for layer in (ours, theirs)]
        for mine, other in zip(*map(jax.tree.leaves, found), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)
