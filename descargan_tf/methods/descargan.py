"""DeScarGAN (Wolleb, Sandkuehler, Cattin, MICCAI 2020), sect. 2.

r real, a artificial; c the class of a real image, c' the other one; h healthy, p diseased (patients).
"""

import dataclasses

from keras import ops

from descargan_tf import losses
from descargan_tf.methods import monitoring
from descargan_tf.methods.base import Method, translation_prediction
from descargan_tf.models.blocks import InFloat32, left_out_of_averages
from descargan_tf.models.discriminator import CLASSIFIER_UNITS, build_discriminator
from descargan_tf.models.generator import build_generator
from descargan_tf.types import CLASS_NAMES, DISEASED, HEALTHY, Phase

_NAMES = {2: CLASS_NAMES, 1: ("both", "both")}  # number of branches -> name of each class's


@dataclasses.dataclass(frozen=True)
class DeScarGANSettings:
    """Defaults are the paper's (sect. 4). The last four undo what it claims to be of use."""

    image_size: int = 256
    generator_filters: int = 64
    discriminator_filters: int = 32
    precision: str = "float32"
    batch_norm: str = "moving"
    rules: str = "paper"
    critic_updates: int = 5
    generator_learning_rate: float = 1e-4
    discriminator_learning_rate: float = 1e-4
    lambda_adv_d: float = 20.0
    lambda_gp: float = 10.0
    lambda_cls_d: float = 5.0
    lambda_adv_g: float = 1.0
    lambda_cls_g: float = 1.0
    lambda_id: float = 50.0
    lambda_rec: float = 50.0
    distance: str = "l2"
    classifier_dropout: float = 0.1
    discriminator_initializer: str = "glorot_normal"
    discriminator_activation: str = "relu"
    discriminator_max_filters: int = 0
    discriminator_poolings: int = 5
    skip_connections: str = "inner"
    generator_branches: int = 2
    critic_branches: int = 2
    output: str = "image"


class DeScarGAN(Method):
    """The method by the rules of the paper's text; `descargan_program.py` has those of the authors' program.

    Every pass of the generator, in training and after it, is of one kind: as many images that look healthy as diseased,
    and nothing in it that differs with what is to be made of an image. Batch normalisation can then not tell the
    generator whether to change its images or to keep them. Its averages are of the passes over real images alone, as
    inference's are. One pass through the trunk serves both branches: two in an update of the generator, one in an
    update of the critics.
    """

    averaged = "generator"
    training_only = ("discriminator/critic_",)
    classifying = ("discriminator/",)
    critic_padding = 0  # zeros around the critics' last feature maps (Fig. 3)

    def __init__(self, settings: DeScarGANSettings):
        s = self.settings = settings
        self.networks = {
            "generator": build_generator(
                image_size=s.image_size,
                filters=s.generator_filters,
                precision=s.precision,
                inference_statistics=s.batch_norm,
                skip_connections=s.skip_connections,
                branches=_NAMES[s.generator_branches],
                output=s.output,
            ),
            "discriminator": self._build_discriminator(s.precision),
        }
        self._in_float32 = InFloat32(self.networks["discriminator"], s.precision, self._build_discriminator)
        self.phases = (
            Phase(
                name="discriminator",
                trains="discriminator",
                updates=s.critic_updates,
                learning_rate=s.discriminator_learning_rate,
            ),
            Phase(name="generator", trains="generator", updates=1, learning_rate=s.generator_learning_rate),
        )

    # --- the two networks and their parts

    def _build_discriminator(self, precision):
        s = self.settings
        return build_discriminator(
            image_size=s.image_size,
            filters=s.discriminator_filters,
            precision=precision,
            critic_padding=self.critic_padding,
            initializer=s.discriminator_initializer,
            activation=s.discriminator_activation,
            max_filters=s.discriminator_max_filters,
            poolings=s.discriminator_poolings,
            critics=_NAMES[s.critic_branches],
        )

    def _planes(self, count, label):
        """What the trunk is told of the target class: with a branch for each class, nothing.

        Departs: the paper's parameter count has these planes (D3.1), and for it they stay, as zeros. A target class
        would be the same for all images of a pass; what it says the first normalisation takes away again, all but at
        the borders.
        """
        if self.settings.generator_branches == 1:  # which has no other way to know
            return _one_hot(count, label)
        return ops.zeros((count, len(CLASS_NAMES)))

    def _trunk(self, images, planes, training):
        return self.networks["generator"].get_layer("trunk")([images, planes], training=training)

    def _branch(self, label, features, images, training):
        """G_c from the trunk's features on; one that gives a change needs the images too."""
        branch = self.networks["generator"].get_layer(_NAMES[self.settings.generator_branches][label])
        return branch([features, images] if self.settings.output == "change" else features, training=training)

    def _both(self, images):
        """G_h and G_p of all images in one pass, in training."""
        n = ops.shape(images)[0]
        if self.settings.generator_branches == 1:  # one pass all the same, half of it with either target
            planes = ops.concatenate([self._planes(n, label) for label in (HEALTHY, DISEASED)])
            images = ops.concatenate([images, images])
            features = self._trunk(images, planes, training=True)
            return _halves(self._branch(HEALTHY, features, images, training=True))
        features = self._trunk(images, self._planes(n, HEALTHY), training=True)
        return [self._branch(label, features, images, training=True) for label in (HEALTHY, DISEASED)]

    def _scores(self, of_healthy, of_diseased, part):
        """D_h of some images and D_p of as many others, and the features of both; `part(x, name)` is a part of D."""
        features = _halves(part(ops.concatenate([of_healthy, of_diseased]), "trunk"))
        names = _NAMES[self.settings.critic_branches]
        return [part(z, f"critic_{n}") for n, z in zip(names, features, strict=True)], features

    def _criticise(self, of_healthy, of_diseased, keep, classify):
        """The two score maps, and D_cls of the first `classify` of both."""

        def part(x, name):
            return self.networks["discriminator"].get_layer(name)(x)

        maps, (healthy, diseased) = self._scores(of_healthy, of_diseased, part)
        logits = part([ops.concatenate([healthy[:classify], diseased[:classify]]), keep], "classifier")
        return *maps, *_halves(logits)

    # --- training

    def weights(self, phase):
        """Eq. (7) and (8)."""
        s = self.settings
        if phase.trains == "discriminator":
            return losses.discriminator_weights(s.lambda_adv_d, s.lambda_gp, s.lambda_cls_d)
        return losses.generator_weights(s.lambda_adv_g, s.lambda_rec, s.lambda_id, s.lambda_cls_g)

    def draws(self, phase, batch_size):
        """Mixing factors of eq. (1), dropout of the classifier."""
        shapes = {}
        if phase.trains == "discriminator":
            shapes["t"] = (batch_size, 1, 1, 1)
        if self.settings.classifier_dropout:
            shapes["dropout"] = (batch_size, CLASSIFIER_UNITS)
        return shapes

    def _keep(self, draws, count):
        """The dropout mask: 0, or 1 / (1 - rate)."""
        rate = self.settings.classifier_dropout
        if not rate:
            return ops.ones((count, CLASSIFIER_UNITS))
        return ops.cast(draws["dropout"] >= rate, "float32") / (1.0 - rate)

    def losses(self, phase, batch, draws, input_gradient):
        """Raw terms of eq. (1) and (4), or of (2), (3), (5) and (6)."""
        if phase.trains == "discriminator":
            return self._discriminator_losses(batch, draws, input_gradient)
        return self._generator_losses(batch, draws)

    def _discriminator_losses(self, batch, draws, input_gradient):
        g_h, g_p = self._both(ops.concatenate(batch))
        a_h, a_p = ops.stop_gradient(_halves(g_h)[DISEASED]), ops.stop_gradient(_halves(g_p)[HEALTHY])
        t_h, t_p = _halves(draws["t"])
        x_hat = losses.mix(batch.healthy, a_h, t_h), losses.mix(batch.diseased, a_p, t_p)
        return self._discriminator_terms(batch, (a_h, a_p), x_hat, draws, input_gradient, losses.score)

    def _discriminator_terms(self, r, a, x_hat, draws, input_gradient, penalised_score):
        """Of real images, fakes and mixtures of both, a pair by critic each."""
        half = ops.shape(r[HEALTHY])[0]
        real_and_fake = [ops.concatenate(pair) for pair in zip(r, a, strict=True)]
        s_h, s_p, *logits = self._criticise(*real_and_fake, self._keep(draws, 2 * half), classify=half)

        def penalised(x):
            maps, _ = self._scores(*_halves(x), self._in_float32)
            return ops.concatenate([penalised_score(m) for m in maps])

        return {
            "real": losses.critic_real(ops.concatenate([s_h[:half], s_p[:half]])),
            "fake": losses.critic_fake(ops.concatenate([s_h[half:], s_p[half:]])),
            "gradient_penalty": losses.gradient_penalty(input_gradient(penalised, ops.concatenate(x_hat))),
            "classification": _classification(*logits),
        }

    def _generator_losses(self, batch, draws):
        half = ops.shape(batch.healthy)[0]
        g_h, g_p = self._both(ops.concatenate(batch))
        (i_h, a_h), (a_p, i_p) = _halves(g_h), _halves(g_p)
        s_h, s_p, *logits = self._criticise(a_h, a_p, self._keep(draws, 2 * half), classify=half)
        with left_out_of_averages():
            c_h, c_p = self._both(ops.concatenate([a_p, a_h]))  # looks half diseased, half healthy too
        cycled = _halves(c_h)[0], _halves(c_p)[1]
        return self._generator_terms(batch, (s_h, s_p), logits, (i_h, i_p), cycled)

    def _generator_terms(self, batch, score_maps, logits, same_class, cycled):
        real = ops.concatenate(batch)
        kind = self.settings.distance
        return {
            "adversarial": losses.generator_adversarial(ops.concatenate(score_maps)),
            "reconstruction": losses.reconstruction(real, ops.concatenate(cycled), kind),
            "identity": losses.identity(real, ops.concatenate(same_class), kind),
            "classification": _classification(*logits),
        }

    def critic_scores(self, terms):
        """Of real images, of the critics' fakes and of the generator's."""
        return monitoring.critic_scores(terms)

    def statistics_pass(self, batch):
        """The one kind of pass."""
        self._both(ops.concatenate(batch))

    # --- inference

    def _translated(self, images, *labels):
        """G_c of each image, by itself, for each of `labels`; inside the range of images where a change leads out."""
        made, features = [], None
        for label in labels:
            if features is None or self.settings.generator_branches == 1:
                features = self._trunk(images, self._planes(ops.shape(images)[0], label), training=False)
            made.append(self._branch(label, features, images, training=False))
        return [ops.clip(a, -1.0, 1.0) for a in made] if self.settings.output == "change" else made

    def translate(self, images):
        """G_h and G_p of each image, by itself."""
        return dict(zip(CLASS_NAMES, self._translated(images, HEALTHY, DISEASED), strict=True))

    def _probabilities(self, images):
        keep = ops.ones((ops.shape(images)[0], CLASSIFIER_UNITS))
        discriminator = self.networks["discriminator"]
        logits = discriminator.get_layer("classifier")([discriminator.get_layer("trunk")(images), keep])
        return ops.softmax(logits, axis=-1)

    def predict(self, images):
        """d = a_h - r; the score is its mean magnitude."""
        (a_h,) = self._translated(images, HEALTHY)
        return translation_prediction(images, a_h, self._probabilities(images))

    def monitor(self, batch):
        """Translation success and effect of the label."""
        return monitoring.translation(batch, self.translate, self._probabilities)


def _one_hot(count, label):
    return ops.one_hot(ops.full((count,), label, dtype="int32"), len(CLASS_NAMES))


def _halves(x):
    # Not slices: the gradient of a slice is a zero array of the whole, that of a split is a concatenation.
    return ops.split(x, 2)


def _classification(logits_h, logits_p):
    return ops.concatenate([losses.classification(logits_h, HEALTHY), losses.classification(logits_p, DISEASED)])
