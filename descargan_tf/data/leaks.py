"""What lets a network tell the classes, or know the test images, without the disease: sentences from numbers and rows.

A threshold on one number of an image (a tree of depth 1), or one word on how it was taken, is fitted on some images and
scored on others. It is a leak where its balanced accuracy is above `_ACCURACY` and that is no luck: of a few images, a
useless threshold is right about 60 % just as often.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # whose parts load when they are asked for: most of what starts does not

from descargan_tf.names import name_some, shown
from descargan_tf.types import CLASS_NAMES, DISEASED, SPLITS

_MIN_IMAGES = 20  # per class; a threshold on fewer says nothing
_ACCURACY = 0.6
_LUCK = 1e-5  # largest p-value of a leak; a check asks some fifty questions, so that one in 2000 cries wolf
_HINT = 1e-2  # largest p-value of a sample of some hundred whose whole may be right more often than `_ACCURACY`
_SPREAD = 3  # standard errors that a sample's accuracy may be off
_FOLDS = 5
_BORDER = 1 / 32  # of the shorter side: where annotations, collimation, padding and traces of filters are
# Pixels around a mask that hold some of the disease: one, as a resampled image is soft where its mask has an edge,
# and one more that the high-pass reaches.
_RIM = 2
_ROWS = 64  # of an image that are looked at together: a copy of all of a large one as floats costs much memory


# ---- numbers of an image


class Statistics(NamedTuple):
    """Numbers that say little or nothing of an image's content, in the units of its values."""

    minimum: float
    maximum: float
    mean: float
    sd: float
    border_mean: float
    border_sd: float
    noise: float  # mean size of what a high-pass leaves


TITLES = Statistics(
    minimum="minimum",
    maximum="maximum",
    mean="mean",
    sd="standard deviation",
    border_mean="mean of the border",
    border_sd="standard deviation of the border",
    noise="noise energy",
)
# What disease that is bright, dark or large changes by itself.
_MAY_BE_DISEASE = {"mean", "sd"}


def statistics_of(image: np.ndarray, chosen: np.ndarray | None = None) -> Statistics | None:
    """The numbers of an image [H, W], or of its pixels `chosen` [H, W] bool; None where too few are left.

    The high-pass is the one of Immerkaer's noise estimate (1996), the Laplacian of the rows of that of the columns,
    which shades and straight edges along them do not reach.
    """
    height, width = image.shape
    if min(height, width) < 3:
        return None
    rim = max(1, round(min(height, width) * _BORDER))
    border = [
        (slice(0, rim), slice(None)),
        (slice(height - rim, height), slice(None)),
        (slice(rim, height - rim), slice(0, rim)),
        (slice(rim, height - rim), slice(width - rim, width)),
    ]
    edge = np.concatenate([_pick(image, chosen, part) for part in border]).astype(np.float64)
    reference = float(image[0, 0])  # of sums, so that they keep their precision far from 0
    lowest, highest, count, total, squares, high_count, high_total = np.inf, -np.inf, 0, 0.0, 0.0, 0, 0.0
    for start in range(0, height, _ROWS):
        values = _pick(image, chosen, slice(start, start + _ROWS))
        if values.size:
            lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
            values = values.astype(np.float32) - np.float32(reference)
            count += values.size
            total += float(values.sum(dtype=np.float64))
            squares += float(np.square(values).sum(dtype=np.float64))
        rows = slice(start, min(start + _ROWS + 2, height))
        if rows.stop - start >= 3:
            high = _high_pass(image[rows].astype(np.float32))
            high = high if chosen is None else high[chosen[rows][1:-1, 1:-1]]
            high_count += high.size
            high_total += float(np.abs(high).sum(dtype=np.float64))
    if not (edge.size and count and high_count):
        return None
    mean = total / count
    return Statistics(
        minimum=lowest,
        maximum=highest,
        mean=mean + reference,
        sd=float(np.sqrt(max(squares / count - mean**2, 0.0))),
        border_mean=float(edge.mean()),
        border_sd=float(edge.std()),
        noise=high_total / high_count,
    )


def _pick(image, chosen, part):
    return image[part].ravel() if chosen is None else image[part][chosen[part]]


def _high_pass(image):
    down = image[:-2] - 2 * image[1:-1] + image[2:]
    return down[:, :-2] - 2 * down[:, 1:-1] + down[:, 2:]


def outside_disease(image: np.ndarray, mask: np.ndarray) -> list[Statistics]:
    """The numbers of a diseased image [H, W] away from where its mask [H, W] is not 0; none where that is nowhere."""
    near = scipy.ndimage.binary_dilation(mask != 0, np.ones((3, 3), bool), iterations=_RIM)
    found = statistics_of(image, ~near)
    return [found] if found else []


def without_disease(image: np.ndarray, ground_truth: np.ndarray) -> list[Statistics]:
    """The numbers that a diseased image would have without its disease, by what its ground truth may mean.

    Args:
        image: [H, W].
        ground_truth: [H, W], a mask, or healthy - diseased in the image's units.
    """
    healed = statistics_of(image.astype(np.float32) + ground_truth)
    return [*outside_disease(image, ground_truth), *([healed] if healed else [])]


class Measured(NamedTuple):
    """The numbers of all images of a data set."""

    splits: np.ndarray  # [N] str
    labels: np.ndarray  # [N]
    whole: np.ndarray  # [N, 7], columns as Statistics
    without_disease: np.ndarray  # [2, N, 7], as of `without_disease`; NaN where nothing is known


def measured(
    splits: Sequence[str],
    labels: Sequence[int],
    whole: Sequence[Statistics | None],
    beside: Sequence[Sequence[Statistics]],
) -> Measured:
    """Put together what was found image by image; None is of an image that is too small."""
    width = len(Statistics._fields)
    missing = (np.nan,) * width
    rows = np.array([found or missing for found in whole], np.float64).reshape(-1, width)
    columns = [[found[kind] if kind < len(found) else missing for found in beside] for kind in range(2)]
    return Measured(np.array(splits), np.array(labels), rows, np.array(columns, np.float64).reshape(2, -1, width))


# ---- how well one of them tells the classes


class Score(NamedTuple):
    """How often a threshold, or a word, is right on images that it was not fitted on."""

    accuracy: float  # balanced: 0.5 knows nothing, 1 everything
    luck: float  # how probable at least as many hits are where it knows nothing

    @property
    def is_leak(self) -> bool:
        """Whether it is right too often, and not by chance."""
        return self.accuracy > _ACCURACY and self.luck < _LUCK


def score(truth: np.ndarray, said: np.ndarray) -> Score:
    """Judge answers [N] bool by the truth [N] bool, both classes in it; luck by Fisher's exact test, one-sided."""
    hits = int((truth & said).sum())
    accuracy = (said[truth].mean() + 1 - said[~truth].mean()) / 2
    return Score(
        float(accuracy), float(scipy.stats.hypergeom.sf(hits - 1, len(truth), int(truth.sum()), int(said.sum())))
    )


def fit_threshold(values: np.ndarray, diseased: np.ndarray) -> tuple[float, bool]:
    """The threshold of highest balanced accuracy, and whether larger values are the diseased ones."""
    order = np.argsort(values, kind="stable")
    values, diseased = values[order], diseased[order]
    lead = np.cumsum(diseased / diseased.sum() - ~diseased / (~diseased).sum())  # of the diseased among those below
    lead[:-1][values[:-1] == values[1:]] = 0  # no threshold is between equals
    best = int(np.argmax(np.abs(lead[:-1])))
    return float((values[best] + values[best + 1]) / 2), bool(lead[best] < 0)


def score_values(
    values: np.ndarray, diseased: np.ndarray, other_values: np.ndarray | None = None, other_diseased=None
) -> Score | None:
    """Score a threshold on other images if given, else in five parts by those fitted on the other four.

    Returns:
        None where a class has too few images.
    """

    def answer(fitted, asked):
        threshold, is_larger = fit_threshold(*fitted)
        return (asked > threshold) == is_larger

    return _score(answer, values, diseased, other_values, other_diseased)


def score_words(words: np.ndarray, diseased: np.ndarray) -> Score | None:
    """As `score_values` of words: each speaks for the class that it is more common in."""

    def answer(fitted, asked):
        words, diseased = fitted
        names, numbers = np.unique(words, return_inverse=True)
        lead = np.bincount(numbers, diseased / diseased.sum() - ~diseased / (~diseased).sum())
        return np.isin(asked, names[lead > 0])

    return _score(answer, words, diseased, None, None)


def _score(answer, values, diseased, other_values, other_diseased):
    classes = [diseased] if other_diseased is None else [diseased, other_diseased]
    if any(min(part.sum(), (~part).sum()) < _MIN_IMAGES for part in classes):
        return None
    if other_values is not None:
        return score(other_diseased, answer((values, diseased), other_values))
    fold = np.empty(len(values), int)
    for part in (diseased, ~diseased):
        fold[part] = np.arange(part.sum()) % _FOLDS
    said = np.empty(len(values), bool)
    for number in range(_FOLDS):
        asked = fold == number
        said[asked] = answer((values[~asked], diseased[~asked]), values[asked])
    return score(diseased, said)


def statistics_scores(found: Measured) -> dict[str, dict[str, Score]]:
    """From each statistic and scope, such as "in train", to how well it tells the classes where disease is left out.

    What is known without the disease can only clear a number: where both it and that of the whole image tell the
    classes, the lower of the two counts. Left alone, what is cut out of one class would tell it.
    """
    return {
        name: {scope: score for scope in _scopes(found) if (score := _statistic_score(found, column, scope))}
        for column, name in enumerate(Statistics._fields)
    }


_FROM_TRAIN = "from train to validate"
_OVER_ALL = "over all splits"


def _scopes(found):
    named = [f"in {split}" for split in SPLITS if (found.splits == split).any()]
    return [*named, _FROM_TRAIN, _OVER_ALL]


def _members(found, scope):
    return np.ones(len(found.splits), bool) if scope == _OVER_ALL else found.splits == scope.removeprefix("in ")


def _statistic_score(found, column, scope):
    scores = []
    for alternative in (None, *found.without_disease):
        values = found.whole[:, column]
        if alternative is not None:
            values = np.where(found.labels == DISEASED, alternative[:, column], values)
        known = ~np.isnan(values)

        def part(members, known=known, values=values):
            members = members & known
            return values[members], found.labels[members] == DISEASED

        if scope == _FROM_TRAIN:
            result = score_values(*part(found.splits == "train"), *part(found.splits == "validate"))
        else:
            result = score_values(*part(_members(found, scope)))
        scores.append(result)
    return min((result for result in scores if result), key=lambda result: result.accuracy, default=None)


def is_undecided(found: Measured, sampled: Collection[str]) -> bool:
    """Whether all the images of the splits `sampled`, of which some are here, may say something else than these."""
    for scores in statistics_scores(found).values():
        for scope, score in scores.items():
            is_sampled = bool(sampled) if scope in (_FROM_TRAIN, _OVER_ALL) else scope.removeprefix("in ") in sampled
            judged = found.labels[_members(found, "in validate" if scope == _FROM_TRAIN else scope)]
            share = sum(1 / (judged == label).sum() for label in range(len(CLASS_NAMES)))
            error = np.sqrt(score.accuracy * (1 - score.accuracy) * share) / 2
            if is_sampled and score.luck < _HINT and abs(score.accuracy - _ACCURACY) < _SPREAD * error:
                return True
    return False


def class_leak_findings(found: Measured) -> Iterator[str]:
    """A single number that tells the classes apart, other than by what disease itself does where that is known."""
    for name, scores in statistics_scores(found).items():
        leaks = [f"{score.accuracy:.0%} {scope}" for scope, score in scores.items() if score.is_leak]
        if not leaks:
            continue
        is_known = not np.isnan(found.without_disease).all()
        where = " outside its ground truth" if is_known else ""
        if name in _MAY_BE_DISEASE and not is_known:
            advice = "this may be the disease itself, if that is bright, dark or large; if not, a network will learn it"
        else:
            advice = "a network will learn that"
        why = "Are they from other devices" if name == "noise" else "Were the classes scaled differently, or per image"
        yield (
            f"class leak: the {getattr(TITLES, name)} of an image{where} alone tells its class (accuracy "
            f"{', '.join(leaks)}); {advice} in place of the disease. {why}?"
        )


# ---- rows of a manifest


def acquisition_findings(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """How an image was taken or stored, where that tells its class.

    Args:
        rows: a mapping per image, `split`, `label` (a class's name) and what is known of `height`, `width`, `dtype`,
            `view`, `device` and `format`.
    """
    facts = {
        "size": [f"{row['height']}x{row['width']}" if row.get("height") else "" for row in rows],
        "dtype": [row.get("dtype", "") for row in rows],
        "view": [row.get("view", "") for row in rows],
        "device": [row.get("device", "") for row in rows],
        "file format": [row.get("format", "") for row in rows],
    }
    diseased = np.array([row["label"] == CLASS_NAMES[DISEASED] for row in rows], bool)
    splits = np.array([row["split"] for row in rows])
    for name, words in facts.items():
        if len(set(words)) < 2:
            continue
        words, leaks, shares = np.array(words), [], ""
        for scope in (*(f"in {split}" for split in SPLITS), _OVER_ALL):
            chosen = np.ones(len(rows), bool) if scope == _OVER_ALL else splits == scope.removeprefix("in ")
            found = score_words(words[chosen], diseased[chosen])
            if found and found.is_leak:
                leaks.append(f"{found.accuracy:.0%} {scope}")
                shares = shares or _shares(words[chosen], diseased[chosen])
        if leaks:
            yield (
                f"class leak: the {name} of an image alone tells its class (accuracy {', '.join(leaks)}; {shares}); a "
                "network may learn what comes with it in place of the disease. Take both classes from the same sources"
            )


def _shares(words, diseased):
    """Where classes differ most in a word, say how much."""
    names = np.unique(words)
    share = {name: ((words[~diseased] == name).mean(), (words[diseased] == name).mean()) for name in names}
    name = max(share, key=lambda name: abs(share[name][0] - share[name][1]))
    healthy, ill = share[name]
    return f"{shown(str(name)) or 'unknown'} are {healthy:.0%} of the healthy and {ill:.0%} of the diseased images"


def patient_findings(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Patients in several splits; `rows` as of `acquisition_findings`, with `patient`, empty where nobody knows."""
    places = defaultdict(set)
    for row in rows:
        if row.get("patient"):
            places[row["patient"]].add(row["split"])
    several = [
        f"{shown(patient)} in {' and '.join(split for split in SPLITS if split in found)}"
        for patient, found in places.items()
        if len(found) > 1
    ]
    if several:
        verb = "is" if len(several) == 1 else "are"
        yield (
            f"{len(several)} of {len(places)} patients {verb} in several splits ({name_some(several, 3)}); a network "
            "that knows somebody's anatomy from training is not judged on new patients: split by patient"
        )


def identical_file_findings(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """The same file, by its `sha256`, in several splits, or in both classes; `rows` with `source`."""
    for aspect, advice in (
        ("split", "different splits; results on them say nothing about new images"),
        ("label", "both classes; which of the two is right?"),
    ):
        groups = defaultdict(list)
        for row in rows:
            # Slices of a volume are of one file, and each has a class of its own.
            part = row["source"].partition("#")[2] if aspect == "label" else ""
            groups[row["sha256"], part].append(row)
        several = [group for group in groups.values() if len({row[aspect] for row in group}) > 1]
        if several:
            named = name_some((" = ".join(shown(row["source"]) for row in group[:3]) for group in several), 3)
            count = "1 file lies" if len(several) == 1 else f"{len(several)} files lie"
            yield f"{count}, with identical content, in {advice} ({named})"


def identical_picture_findings(
    found: Measured, rows: Sequence[Mapping[str, str]], contents: Sequence[bytes]
) -> Iterator[str]:
    """The same pixels in both classes, of files that differ, as where a copy has another patient in its header.

    Args:
        found: of all images.
        rows: of theirs, with `source`, `label` and `sha256`.
        contents: a digest of the pixels of each.
    """
    groups = defaultdict(list)
    for row, content, lowest, highest in zip(rows, contents, found.whole[:, 0], found.whole[:, 1], strict=True):
        if lowest < highest:
            groups[content].append(row)
    several = [
        group
        for group in groups.values()
        if len({row["label"] for row in group}) > 1 and len({row["sha256"] for row in group}) > 1
    ]
    if several:
        named = name_some((" = ".join(shown(row["source"]) for row in group[:3]) for group in several), 3)
        count = "1 picture lies" if len(several) == 1 else f"{len(several)} pictures lie"
        yield f"{count}, in files that differ, in both classes; which of the two is right? ({named})"


def constant_findings(found: Measured, names: Sequence[str]) -> Iterator[str]:
    """Images of one value."""
    constant = np.flatnonzero(found.whole[:, 0] == found.whole[:, 1])
    if len(constant):
        named = name_some((shown(names[index]) for index in constant), 3)
        count = "1 image holds" if len(constant) == 1 else f"{len(constant)} images hold"
        yield f"{count} one value alone ({named}), from which nothing can be learned: leave it out"
