"""Which process of a training this is, where several train together: what TF_CONFIG says."""

import json
import os
from collections.abc import Mapping
from typing import NamedTuple

from descargan_tf.errors import UserError

_EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'


class Workers(NamedTuple):
    """The processes of a training; the first one, the chief, reports and writes."""

    index: int  # this one's
    count: int

    @property
    def is_chief(self) -> bool:
        """Whether this process speaks for all."""
        return self.index == 0


ALONE = Workers(0, 1)


def workers_of(strategy: str, environment: Mapping[str, str] | None = None) -> Workers:
    """Who trains together under --strategy.

    Args:
        strategy: "auto" takes what TF_CONFIG names, if that is more than one process.
        environment: of this process by default.

    Raises:
        UserError: TF_CONFIG is missing for "multi_worker", or is not understood.
    """
    text = (os.environ if environment is None else environment).get("TF_CONFIG", "")
    if strategy not in ("auto", "multi_worker"):
        return ALONE
    if not text:
        if strategy == "multi_worker":
            raise UserError(f"--strategy=multi_worker needs TF_CONFIG in the environment, as in {_EXAMPLE}.")
        return ALONE
    return _parse(text)


def _parse(text):
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        addresses = {kind: list(found) for kind, found in cluster.items()}
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"TF_CONFIG is not understood ({error!r}): expected {_EXAMPLE}.") from error
    others = sorted(addresses.keys() - {"chief", "worker"})
    if others:
        raise UserError(f"TF_CONFIG names {', '.join(others)}: a training here has a chief and workers only.")
    if not 0 <= index < len(addresses.get(kind, ())):
        raise UserError(f"TF_CONFIG says that this is {kind} {index}, and its cluster has none of that number.")
    before = len(addresses.get("chief", ())) if kind == "worker" else 0
    return Workers(before + index, sum(map(len, addresses.values())))
