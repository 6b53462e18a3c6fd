"""How learning rates go over a training; plain numbers, for any backend."""

import dataclasses

_SECOND_WARMUP = 100  # rounds over which rates rise again where the training goes on under fixed statistics


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linearly up over the first `warmup` of `total` rounds, constant, linearly to zero over the last `decay`."""

    total: int
    warmup: int = 0
    decay: int = 0

    def factor(self, step: int, length: float = 1.0, fixed_at: int | None = None) -> float:
        """What every learning rate is multiplied by in a round.

        Args:
            step: the round's number, counted from 0.
            length: share of the rounds that there will be where a time limit ends the training; all runs faster then.
            fixed_at: the round from which statistics are fixed; rates rise once more there.
        """
        position = step / length
        factor = min((position + 1.0) / self.warmup, 1.0) if self.warmup else 1.0
        if fixed_at is not None:
            factor *= min((step - fixed_at + 1.0) / _SECOND_WARMUP, 1.0)
        if self.decay:
            factor *= min(max((self.total - position) / self.decay, 0.0), 1.0)
        return factor
