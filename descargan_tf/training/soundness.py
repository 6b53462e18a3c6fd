"""Does an adversarial training hold together? Told from what every round logs anyway."""

import math
from collections.abc import Callable, Mapping

import numpy as np

_WINDOW = 50  # rounds that are looked at together
_WINDOWS = 2  # in so many of them, one after the other, a sign must stand
_STANDARD_ERRORS = 4.0  # of a mean difference within a window; less than so many is noise
_LARGEST_PENALTY = 1.0  # a critic without any gradient has this; more is one that is too steep
_PENALTY = "/gradient_penalty"  # what its terms' names end with
_DEAD = 1e-3  # so near to that penalty, round after round, there is no gradient
_REPEATED = 1000  # rounds between warnings of one that stays dead


class Soundness:
    """Sees every round and says when a training has come apart.

    Signs: a term that is not finite, at once; and, over a while, a gradient penalty above 1, or translations of the
    generator's own update that the critics score above real images, by more than noise and by more than they tell real
    images from the translations of their own update. The generator then pleases in passes that no critic sees.

    Beside these, a critic may be dead: it has no gradient at all for a window of rounds. That is only warned of, as it
    may come back to life.

    Args:
        critic_scores: `Method.critic_scores`.
    """

    def __init__(self, critic_scores: Callable[[Mapping], dict]):
        self._critic_scores = critic_scores
        self._above, self._margin, self._penalty = [], [], []
        self._standing = [0, 0]  # how many windows each sign stands for
        self._rounds = 0
        self._passed = False
        self._rounds_dead: dict[str, int] = {}  # by penalty: for how many rounds its critic had no gradient, up to now
        self._untold: list[str] = []

    def state(self) -> dict:
        """All that it has seen and still needs, as JSON can hold it."""
        return {
            "above": self._above,
            "margin": self._margin,
            "penalty": self._penalty,
            "standing": self._standing,
            "rounds": self._rounds,
            "rounds_dead": self._rounds_dead,
        }

    def restore(self, state: Mapping) -> None:
        """Go on from what `state` gave."""
        self._above, self._margin, self._penalty = (list(state[name]) for name in ("above", "margin", "penalty"))
        self._standing, self._rounds = list(state["standing"]), state["rounds"]
        self._rounds_dead = dict(state["rounds_dead"])

    def passed_a_window(self) -> bool:
        """Whether, since this was last asked, a window ended in which no sign stood: the state now is a sound one."""
        passed, self._passed = self._passed, False
        return passed

    def scalars(self) -> dict[str, float]:
        """Whether a critic is dead now, as a number to be logged; empty where no penalty tells."""
        longest = max(self._rounds_dead.values(), default=None)
        return {} if longest is None else {"critics/dead": float(longest >= _WINDOW)}

    def warnings(self) -> list[str]:
        """What is to be told of dead critics since this was last asked; of each at most once in a thousand rounds."""
        told, self._untold = self._untold, []
        return told

    def _look_for_dead_critics(self, terms):
        for name, value in terms.items():
            if name.endswith(_PENALTY):
                dead = self._rounds_dead[name] = self._rounds_dead.get(name, 0) + 1 if abs(value - 1) <= _DEAD else 0
                if dead >= _WINDOW and (dead - _WINDOW) % _REPEATED == 0:
                    self._untold.append(
                        f"{name} has been 1 for {dead} rounds: this critic has no gradient any more, and nothing is "
                        "learned from it. If it stays so, begin again with a lower rate of learning or another --seed"
                    )

    def see(self, terms: Mapping[str, float]) -> str | None:
        """Look at one round's terms; what is wrong, or None."""
        for name, value in terms.items():
            if not math.isfinite(value):
                return f"{name} is {value}"
        self._look_for_dead_critics(terms)
        self._rounds += 1
        ends = self._rounds % _WINDOW == 0
        scores = self._critic_scores(terms)
        if not scores:
            self._passed |= ends
            return None
        self._above.append(scores["generator"] - scores["real"])
        self._margin.append(scores["real"] - scores["fake"])
        self._penalty.append(max((v for k, v in terms.items() if k.endswith(_PENALTY)), default=0.0))
        if not ends:
            return None
        above, margin, penalty = (float(np.mean(values)) for values in (self._above, self._margin, self._penalty))
        noise = _STANDARD_ERRORS * float(np.std(self._above, ddof=1)) / math.sqrt(_WINDOW)
        self._above, self._margin, self._penalty = [], [], []
        signs = {
            f"the critics score the generator's translations {above:.3g} above real images, where those of their own "
            f"update are at {-margin:.3g}": above > max(noise, abs(margin)),
            f"the gradient penalty stays at {penalty:.3g}": penalty > _LARGEST_PENALTY,
        }
        self._standing = [
            before + 1 if stands else 0 for before, stands in zip(self._standing, signs.values(), strict=True)
        ]
        self._passed = not any(signs.values())
        return next((text for text, long in zip(signs, self._standing, strict=True) if long >= _WINDOWS), None)
