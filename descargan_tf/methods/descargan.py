"""DeScarGAN (Wolleb, Sandkuehler, Cattin, MICCAI 2020), sect. 2.

r real, a artificial; c the class of a real image, c' the other one; h healthy, p diseased (patients).
"""

import dataclasses

from keras import ops

from descargan_tf import losses
from descargan_tf.methods import monitoring
from descargan_tf.methods.base import Method
from descargan_tf.models.blocks import InFloat32, gaussian_blur
from descargan_tf.models.discriminator import CLASSIFIER_UNITS, build_discriminator
from descargan_tf.models.generator import build_generator
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY, Phase, Prediction

_NAMES = {2: CLASS_NAMES, 1: ("both", "both")}  # number of branches -> name of each class's


@dataclasses.dataclass(frozen=True)
class DeScarGANSettings:
    """Defaults are the paper's (sect. 4). The last four undo what it claims to be of use."""

    image_size: int = 256
    generator_filters: int = 64
    discriminator_filters: int = 32
    precision: str = "float32"
    batch_norm: str = "moving"
    critic_updates: int = 5
    generator_learning_rate: float = 1e-4
    discriminator_learning_rate: float = 1e-4
    generator_warmup_steps: int = 0
    generator_initial_learning_rate: float = 0.0
    discriminator_warmup_steps: int = 0
    discriminator_initial_learning_rate: float = 0.0
    lambda_adv_d: float = 20.0
    lambda_gp: float = 10.0
    lambda_cls_d: float = 5.0
    lambda_adv_g: float = 1.0
    lambda_cls_g: float = 1.0
    lambda_id: float = 50.0
    lambda_rec: float = 50.0
    distance: str = "l2"
    fake_classes: str = "opposite"
    penalty_score: str = "mean"
    noise: float = 0.0
    classifier_dropout: float = 0.1
    critic_padding: int = 0
    discriminator_initializer: str = "glorot_normal"
    discriminator_activation: str = "relu"
    discriminator_max_filters: int = 0
    discriminator_poolings: int = 5
    reals_per_fake: int = 1
    adversarial_delay_steps: int = 0
    critic_blur: float = 0.0
    critic_blur_steps: int = 0
    skip_connections: str = "inner"
    generator_branches: int = 2
    critic_branches: int = 2
    output: str = "image"


class DeScarGAN(Method):
    """The paper's method; `settings` choose between its text and the authors' program where the two differ."""

    averaged = "generator"
    training_only = ("discriminator/critic_",)
    classifying = ("discriminator/",)

    def __init__(self, settings: DeScarGANSettings):
        s = self.settings = settings
        self.networks = {
            "generator": build_generator(
                s.image_size,
                s.generator_filters,
                s.precision,
                s.batch_norm,
                s.skip_connections,
                _NAMES[s.generator_branches],
                s.output,
            ),
            "discriminator": self._build_discriminator(s.precision),
        }
        self._in_float32 = InFloat32(self.networks["discriminator"], s.precision, self._build_discriminator)
        self.phases = (
            Phase(
                "discriminator",
                "discriminator",
                s.critic_updates,
                s.discriminator_learning_rate,
                s.discriminator_warmup_steps,
                s.discriminator_initial_learning_rate,
                batches=s.reals_per_fake,
            ),
            Phase(
                "generator",
                "generator",
                1,
                s.generator_learning_rate,
                s.generator_warmup_steps,
                s.generator_initial_learning_rate,
                # Departs: against a generator that evades them from the start, blurred critics learn nothing.
                delayed=("adversarial", "classification"),
                delay=s.adversarial_delay_steps,
            ),
        )

    # --- the two networks and their parts

    def _build_discriminator(self, precision):
        s = self.settings
        return build_discriminator(
            s.image_size,
            s.discriminator_filters,
            precision,
            s.critic_padding,
            s.discriminator_initializer,
            s.discriminator_activation,
            s.discriminator_max_filters,
            s.discriminator_poolings,
            _NAMES[s.critic_branches],
        )

    def _branch(self, label, features, images, training):
        """G_c from the trunk's features on; an additive one needs the images too."""
        branch = self.networks["generator"].get_layer(_NAMES[self.settings.generator_branches][label])
        return branch([features, images] if self.settings.output == "additive" else features, training=training)

    def _translate(self, to_healthy, to_diseased):
        """G_h of some images and G_p of as many others, in one pass through the trunk; either may be None."""
        generator = self.networks["generator"]
        parts = [(x, c) for x, c in ((to_healthy, HEALTHY), (to_diseased, DISEASED)) if x is not None]
        images = _join([x for x, _ in parts])
        targets = _join([_one_hot(ops.shape(x)[0], c) for x, c in parts])
        features = generator.get_layer("trunk")([images, targets], training=True)
        if self.settings.generator_branches == 1:  # one pass: it normalises over both classes, as at inference
            made = _split(self._branch(HEALTHY, features, images, training=True), len(parts))
        else:
            halves = zip(parts, _split(features, len(parts)), strict=True)
            made = [self._branch(c, z, x, training=True) for (x, c), z in halves]
        outputs = {c: a for (_, c), a in zip(parts, made, strict=True)}
        return outputs.get(HEALTHY), outputs.get(DISEASED)

    def _scores(self, of_healthy, of_diseased, draws, part):
        """D_h of some images and D_p of as many others, and the features of both; `part(x, name)` is a part of D."""
        images, s = ops.concatenate([of_healthy, of_diseased]), self.settings
        if s.critic_blur:
            # Departs: where a contour must move by more than its width, a sharp critic's gradient does not say whereto.
            left = ops.maximum(1.0 - ops.cast(draws["step"], "float32") / max(s.critic_blur_steps, 1), 0.0)
            images = gaussian_blur(images, s.critic_blur * left)
        features = _split(part(images, "trunk"), 2)
        maps = [part(z, f"critic_{n}") for n, z in zip(_NAMES[s.critic_branches], features, strict=True)]
        return maps, features

    def _criticise(self, of_healthy, of_diseased, draws, keep, classify):
        """The two score maps, and D_cls of the first `classify` of both."""

        def part(x, name):
            return self.networks["discriminator"].get_layer(name)(x)

        maps, (healthy, diseased) = self._scores(of_healthy, of_diseased, draws, part)
        logits = part([ops.concatenate([healthy[:classify], diseased[:classify]]), keep], "classifier")
        return *maps, *_split(logits, 2)

    # --- training

    def weights(self, phase):
        """Eq. (7) and (8)."""
        s = self.settings
        if phase.trains == "discriminator":
            return losses.discriminator_weights(s.lambda_adv_d, s.lambda_gp, s.lambda_cls_d)
        weights = losses.generator_weights(s.lambda_adv_g, s.lambda_rec, s.lambda_id, s.lambda_cls_g)
        if s.fake_classes == "both":
            # Reference: the two classes' means are added, not averaged (D4.3, D4.4); it matters to gradient clipping.
            weights = {name: 2 * weight for name, weight in weights.items()}
        return weights

    def draws(self, phase, batch_size):
        """Mixing factors of eq. (1), dropout of the classifier, noise."""
        s = self.settings
        both = s.fake_classes == "both"
        classified = batch_size * (2 if both and phase.trains == "generator" else 1)
        shapes = {}
        if phase.trains == "discriminator":
            shapes["t"] = (batch_size, 1, 1, 1)
        if s.classifier_dropout:
            shapes["dropout"] = (classified, CLASSIFIER_UNITS)
        if s.noise:
            shapes["noise"] = (batch_size, s.image_size, s.image_size, 1)
        return shapes

    def _keep(self, draws, count):
        """The dropout mask: 0, or 1 / (1 - rate)."""
        rate = self.settings.classifier_dropout
        if not rate:
            return ops.ones((count, CLASSIFIER_UNITS))
        return ops.cast(draws["dropout"] >= rate, "float32") / (1.0 - rate)

    def losses(self, phase, batch, draws, input_gradient):
        """Raw terms of eq. (1) and (4), or of (2), (3), (5) and (6)."""
        # Reference: one draw of noise goes onto inputs, fakes and cycled images alike (D4.1); none in the paper.
        noise = [self.settings.noise * n for n in _split(draws["noise"], 2)] if "noise" in draws else [None, None]
        r = [_plus(image, n) for image, n in zip(batch, noise, strict=True)]
        if phase.trains == "discriminator":
            return self._discriminator_losses(r, noise, draws, input_gradient)
        if self.settings.fake_classes == "both":
            return self._generator_losses_reference(batch, r, noise, draws)
        return self._generator_losses(batch, r, noise, draws)

    def _discriminator_losses(self, r, noise, draws, input_gradient):
        (r_h, r_p), (n_h, n_p) = r, noise
        half = ops.shape(r_h)[0]
        count = half // self.settings.reals_per_fake  # the first of each class are translated too
        t_h, t_p = [t[:count] for t in _split(draws["t"], 2)]
        mixed_with_h, mixed_with_p = r_h[:count], r_p[:count]
        if self.settings.fake_classes == "opposite":
            a_h, a_p = self._translate(r_p[:count], r_h[:count])
            a_h, a_p = _plus(a_h, _first(n_p, count)), _plus(a_p, _first(n_h, count))
        else:
            # Reference: fakes of all images into both classes (D4.2), penalised against reals of any class (D4.7).
            a_h, a_p = self._translate_all([r_h[:count], r_p[:count]], [_first(n, count) for n in noise])
            mixed_with_h = mixed_with_p = ops.concatenate([mixed_with_h, mixed_with_p])
            t_h = t_p = ops.concatenate([t_h, t_p])
        a_h, a_p = ops.stop_gradient(a_h), ops.stop_gradient(a_p)
        real_and_fake = ops.concatenate([r_h, a_h]), ops.concatenate([r_p, a_p])
        s_h, s_p, logits_h, logits_p = self._criticise(
            *real_and_fake, draws, self._keep(draws, 2 * half), classify=half
        )

        x_hat = ops.concatenate([losses.mix(mixed_with_h, a_h, t_h), losses.mix(mixed_with_p, a_p, t_p)])

        def penalised(x):
            maps, _ = self._scores(*_split(x, 2), draws, self._in_float32)
            reduce = losses.score if self.settings.penalty_score == "mean" else _sum
            return ops.concatenate([reduce(m) for m in maps])

        return {
            "real": losses.critic_real(ops.concatenate([s_h[:half], s_p[:half]])),
            "fake": losses.critic_fake(ops.concatenate([s_h[half:], s_p[half:]])),
            "gradient_penalty": losses.gradient_penalty(input_gradient(penalised, x_hat)),
            "classification": _classification(logits_h, logits_p),
        }

    def _generator_losses(self, batch, r, noise, draws):
        half = ops.shape(r[0])[0]
        both = ops.concatenate(r)
        g_h, g_p = self._translate(both, both)
        (i_h, a_h), (a_p, i_p) = _split(g_h, 2), _split(g_p, 2)
        a_h, a_p = _plus(a_h, noise[DISEASED]), _plus(a_p, noise[HEALTHY])
        s_h, s_p, *logits = self._criticise(a_h, a_p, draws, self._keep(draws, 2 * half), classify=half)
        cycled = self._translate(a_p, a_h)
        return self._generator_terms(batch, (s_h, s_p), logits, (i_h, i_p), cycled)

    def _generator_losses_reference(self, batch, r, noise, draws):
        """Reference: one target class per pass; same-class fakes are criticised and classified too (D4.3, D4.12)."""
        half = ops.shape(r[0])[0]
        f_h, f_p = self._translate_all(r, noise)
        s_h, s_p, *logits = self._criticise(f_h, f_p, draws, self._keep(draws, 4 * half), classify=2 * half)
        cycled = self._translate(f_p[:half], None)[0], self._translate(None, f_h[half:])[1]
        same_class = _plus(f_h[:half], noise[HEALTHY], -1), _plus(f_p[half:], noise[DISEASED], -1)
        return self._generator_terms(batch, (s_h, s_p), logits, same_class, cycled)

    def _translate_all(self, r, noise):
        """Reference: G_h and G_p of all images, one target class to a pass (D3.3), with the inputs' noise on top."""
        both = ops.concatenate(r)
        n = None if noise[0] is None else ops.concatenate(noise)
        return _plus(self._translate(both, None)[0], n), _plus(self._translate(None, both)[1], n)

    def _generator_terms(self, batch, score_maps, logits, same_class, cycled):
        real = ops.concatenate([batch.healthy, batch.diseased])
        kind = self.settings.distance
        return {
            "adversarial": losses.generator_adversarial(ops.concatenate(score_maps)),
            "reconstruction": losses.reconstruction(real, ops.concatenate(cycled), kind),
            "identity": losses.identity(real, ops.concatenate(same_class), kind),
            "classification": _classification(*logits),
        }

    # --- inference

    def translate(self, images):
        """G_h and G_p of each image, by itself."""
        generator, n = self.networks["generator"], ops.shape(images)[0]
        g_h = generator({"image": images, "target": _one_hot(n, HEALTHY)}, training=False)["healthy"]
        g_p = generator({"image": images, "target": _one_hot(n, DISEASED)}, training=False)["diseased"]
        return {"healthy": g_h, "diseased": g_p}

    def _probabilities(self, images):
        keep = ops.ones((ops.shape(images)[0], CLASSIFIER_UNITS))
        discriminator = self.networks["discriminator"]
        logits = discriminator.get_layer("classifier")([discriminator.get_layer("trunk")(images), keep])
        return ops.softmax(logits, axis=-1)

    def predict(self, images):
        """d = a_h - r; the score is its mean magnitude."""
        trunk = self.networks["generator"].get_layer("trunk")
        features = trunk([images, _one_hot(ops.shape(images)[0], HEALTHY)], training=False)
        a_h = self._branch(HEALTHY, features, images, training=False)
        d = a_h - images
        return Prediction(d, a_h, ops.mean(ops.abs(d), axis=(1, 2, 3)), self._probabilities(images))

    def monitor(self, batch):
        """Translation success and effect of the label."""
        return monitoring.translation(batch, self.translate, self._probabilities)


def _one_hot(count, label):
    return ops.one_hot(ops.full((count,), label, dtype="int32"), 2)


def _split(x, parts):
    # Not slices: the gradient of a slice is a zero array of the whole, that of a split is a concatenation.
    return ops.split(x, parts) if parts > 1 else [x]


def _join(parts):
    return ops.concatenate(parts) if len(parts) > 1 else parts[0]


def _first(noise, count):
    return None if noise is None else noise[:count]


def _plus(image, noise, sign=1):
    return image if noise is None else image + sign * noise


def _classification(logits_h, logits_p):
    return ops.concatenate([losses.classification(logits_h, HEALTHY), losses.classification(logits_p, DISEASED)])


def _sum(score_map):
    """Reference: the gradient of the sum of the map is held to norm one (D4.6)."""
    return ops.sum(ops.cast(score_map, "float32"), axis=(1, 2, 3))
