"""The authors' updates in PyTorch, to hold ours against: networks of the same size, as many passes, the same losses.

Random images, no data pipeline, no averaged weights. Where the authors' program wastes work it is kept (a pass of the
critics that nothing reads), but the graph of the generator in the critics' update is not: that flatters PyTorch.
"""

import itertools
import time

import torch
from torch import nn
from torch.nn import functional

PARAMETERS = {"generator": 8_528_262, "discriminator": 18_170_180}  # at 64 / 32 filters, 256x256


def _convolution(n_in, n_out, normalise, activation=nn.ReLU):
    parts = [nn.Conv2d(n_in, n_out, 3, padding=1)]
    if normalise:
        parts.append(nn.BatchNorm2d(n_out, momentum=0.01))
    return nn.Sequential(*parts, activation())


def _chain(*widths, normalise=True):
    return nn.Sequential(*[_convolution(a, b, normalise) for a, b in itertools.pairwise(widths)])


class Generator(nn.Module):
    """Fig. 2: image and two label planes to the image of one class."""

    def __init__(self, n):
        super().__init__()
        self.down = nn.ModuleList([_chain(3, n, n), _chain(n, 2 * n, 2 * n), _chain(2 * n, 4 * n, 4 * n)])
        self.bottom = _chain(4 * n, 8 * n, 8 * n)
        self.up = nn.ModuleList([_chain(8 * n, 4 * n), _chain(4 * n, 2 * n), _chain(2 * n, n)])
        self.join = nn.ModuleList([_chain(8 * n, 4 * n, 4 * n), _chain(4 * n, 2 * n, 2 * n)])
        self.branches = nn.ModuleList(nn.Sequential(_chain(n, n), _convolution(n, 1, True, nn.Tanh)) for _ in range(2))

    def forward(self, x, label):
        """G_c of images [B, 1, H, W]."""
        planes = torch.zeros(len(x), 2, *x.shape[2:])
        planes[:, label] = 1
        skips = [self.down[0](torch.cat([x, planes], 1))]
        for block in self.down[1:]:
            skips.append(block(functional.max_pool2d(skips[-1], 2)))
        y = self.bottom(functional.max_pool2d(skips[-1], 2))
        for up, join, skip in zip(self.up, self.join, reversed(skips[1:]), strict=False):
            y = join(torch.cat([up(functional.interpolate(y, scale_factor=2)), skip], 1))
        return self.branches[label](self.up[2](functional.interpolate(y, scale_factor=2)))


class Discriminator(nn.Module):
    """Fig. 3: scores of one class's critic, with the border of the authors' program, and the classifier's logits."""

    def __init__(self, n, size):
        super().__init__()
        widths = [(1, n), (n, 2 * n), (2 * n, 4 * n, 4 * n), (4 * n, 8 * n, 8 * n), (8 * n, 8 * n, 8 * n)]
        levels = [nn.Sequential(_chain(*w, normalise=False), nn.MaxPool2d(2)) for w in widths]
        self.trunk = nn.Sequential(*levels, _chain(8 * n, 16 * n, normalise=False))
        head = (16 * n, 16 * n, 16 * n)
        self.critics = nn.ModuleList(
            nn.Sequential(_chain(*head, normalise=False), nn.Conv2d(16 * n, 1, 1, padding=1)) for _ in range(2)
        )
        flat = 16 * n * (size // 64) ** 2
        self.classifier = nn.Sequential(
            *(_chain(*head, normalise=False), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(flat, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 2)),
        )

    def forward(self, x, label):
        """Map and logits of images [B, 1, H, W]."""
        features = self.trunk(x)
        return self.critics[label](features), self.classifier(features)


class Step:
    """Both updates by the rules of the authors' program."""

    def __init__(self, *, size, filters, batch, bfloat16):
        torch.manual_seed(0)
        layout = torch.channels_last if bfloat16 else torch.contiguous_format
        self.bfloat16 = bfloat16
        self.generator = Generator(filters).to(memory_format=layout)
        self.discriminator = Discriminator(max(filters // 2, 1), size).to(memory_format=layout)
        self.optimizers = {
            name: torch.optim.Adam(getattr(self, name).parameters(), 1e-4, (0.5, 0.999)) for name in PARAMETERS
        }
        self.images = (torch.rand(batch, 1, size, size) * 2 - 1).to(memory_format=layout)
        self.parts = self.images.chunk(2)
        self.labels = [torch.full((batch // 2,), c) for c in (0, 1)]

    def _penalty(self, x, fake, label):
        t = torch.rand(len(x), 1, 1, 1)
        mixed = (t * x + (1 - t) * fake.float()).requires_grad_()
        scores = self.discriminator(mixed, label)[0]
        (gradient,) = torch.autograd.grad(scores, mixed, torch.ones_like(scores), create_graph=True)
        return ((gradient.float().square().sum((1, 2, 3)) + 1e-12).sqrt() - 1).square().mean()

    def discriminator_loss(self):
        """Real images of either class, all images translated into either class, a penalty for each critic."""
        real, logits = zip(*[self.discriminator(self.parts[c], c) for c in (0, 1)], strict=True)
        self.discriminator(self.images, 0)  # theirs, and nothing reads it
        with torch.no_grad():
            fakes = [self.generator(self.images, c) for c in (0, 1)]
        loss = 0
        for c in (0, 1):
            fake = self.discriminator(fakes[c], c)[0]
            loss = loss + 10 * (fake.float().mean() - real[c].float().mean())
            loss = loss + 10 * self._penalty(self.images, fakes[c], c)
            loss = loss + 2.5 * functional.cross_entropy(logits[c].float(), self.labels[c])
        return loss

    def generator_loss(self):
        """Translations criticised and classified, identities, the way back."""
        half = len(self.images) // 2
        into = [self.generator(self.images, c) for c in (0, 1)]
        kept, changed = (into[0][:half], into[1][half:]), (into[0][half:], into[1][:half])
        loss = 0
        for c in (0, 1):
            scores, logits = self.discriminator(changed[c], c)
            back = self.generator(changed[c], 1 - c)
            loss = loss + functional.cross_entropy(logits.float(), self.labels[c]) / 2 - scores.float().mean() / 2
            loss = loss + 50 * (
                functional.mse_loss(kept[c], self.parts[c]) + functional.mse_loss(back, self.parts[1 - c])
            )
        return loss

    def update(self, name):
        """One step of Adam with a clipped gradient."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            loss = getattr(self, f"{name}_loss")()
        self.optimizers[name].zero_grad()
        network = getattr(self, name)
        gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(network.parameters(), 10)
        self.optimizers[name].step()
        return float(loss.detach())


def cycle_seconds(*, size, filters, batch, bfloat16, repeats, critic_updates=5):
    """The median over `repeats` of each update, added up to a round."""
    step = Step(size=size, filters=filters, batch=batch, bfloat16=bfloat16)
    if (size, filters) == (256, 64):
        counts = {name: sum(p.numel() for p in getattr(step, name).parameters()) for name in PARAMETERS}
        assert counts == PARAMETERS, counts
    medians = {}
    for name in PARAMETERS:
        step.update(name)
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            step.update(name)
            times.append(time.perf_counter() - started)
        medians[name] = sorted(times)[len(times) // 2]
    return critic_updates * medians["discriminator"] + medians["generator"]
