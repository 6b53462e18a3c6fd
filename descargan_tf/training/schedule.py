"""How learning rates go over a training; plain numbers, for any backend."""

import dataclasses

_SECOND_WARMUP = 100  # rounds over which rates rise again where the training goes on under fixed statistics


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linearly up over the first `warmup` of `total` rounds, constant, linearly to zero over the last `decay`.

    Where `total` does not hold both, they are shortened in proportion, to fill it.
    """

    total: int
    warmup: int = 0
    decay: int = 0

    @property
    def _share(self):
        return min(1.0, self.total / ((self.warmup + self.decay) or 1))

    @property
    def shortened(self) -> str:
        """What is to be said where they are; empty where they are not."""
        if self._share == 1.0:
            return ""
        parts = {"--warmup_steps": self.warmup, "--decay_steps": self.decay}
        given = " and ".join(f"{name}={rounds}" for name, rounds in parts.items() if rounds)
        made = " and ".join(f"{rounds * self._share:.0f}" for rounds in parts.values() if rounds)
        return f"--max_steps={self.total} is too short for {given}: shortened in proportion, to {made} rounds"

    def factor(self, step: int, length: float = 1.0, fixed_at: int | None = None) -> float:
        """What every learning rate is multiplied by in a round.

        Args:
            step: the round's number, counted from 0.
            length: share of the rounds that there will be where a time limit ends the training; all runs faster then.
            fixed_at: the round from which statistics are fixed; rates rise once more there.
        """
        position = step / length
        warmup, decay = self.warmup * self._share, self.decay * self._share
        factor = min((position + 1.0) / warmup, 1.0) if warmup else 1.0
        if fixed_at is not None:
            factor *= min((step - fixed_at + 1.0) / _SECOND_WARMUP, 1.0)
        if decay:
            factor *= min(max((self.total - position) / decay, 0.0), 1.0)
        return factor
