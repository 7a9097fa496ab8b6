"""Classification in a shared space: by class prompts, by nearest neighbours, by a linear probe.

Over 400 lines: three ways to classify, with the one record, figures and sheets that they share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice, check_number, check_type, listing, require
from gramian.evaluation.directions import Direction
from gramian.evaluation.metrics import Ranks, hits_at_k
from gramian.evaluation.rankings import Names
from gramian.evaluation.stats import Interval, share_interval
from gramian.geometry import unit
from gramian.kernels.ranks import top_k
from gramian.scores import SCORES, ScoreName
from gramian.sheets import Sheet

__all__ = ["Classified", "Labels", "classified_sheets", "features_of", "items_of", "names_of", "nearest", "probe", "zero_shot"]

Labels: TypeAlias = "Sequence[str | None]"
"""The class of each row; None where it is unknown."""

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Inverse strengths of the probe's penalty, C, among which validation chooses."""


@dataclass(frozen=True)
class Classified:
    """How well the classes of some items are predicted.

    Attributes:
        method: "zero-shot", "nearest neighbours" or "linear probe".
        modalities: what is known of the items.
        score: the name of the score; "" for a probe.
        classes: their names, sorted.
        truth: (q,) number of each item's class.
        values: (q, c) how strongly each class is suggested, higher is more.
        rows: (q,) row numbers in the evaluated Bundle.
        items: (q,) the item of each; intervals are drawn over items.
        unlabelled: rows of the Bundle that are left out, since their class is unknown or they lack the modalities.
        settings: what was chosen: prompts per class, neighbours, strength of the penalty.
    """

    method: Literal["zero-shot", "nearest neighbours", "linear probe"]
    modalities: Names
    score: str
    classes: tuple[str, ...]
    truth: NDArray[np.int64] = field(repr=False)
    values: NDArray[np.float64] = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    items: NDArray[np.int64] = field(repr=False)
    unlabelled: int
    settings: dict[str, float]

    @property
    def name(self) -> str:
        """Such as "zero-shot, image+audio by span"."""
        return f"{self.method}, {'+'.join(self.modalities)}" + (f" by {self.score}" if self.score else "")

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(q,) the class that is suggested most; of several the first."""
        best: NDArray[np.int64] = self.values.argmax(1)
        return best

    @property
    def ranks(self) -> Ranks:
        """The rank of each item's own class among the classes."""
        own = np.take_along_axis(self.values, self.truth[:, None], 1)
        return Ranks((self.values > own).sum(1), (self.values == own).sum(1) - 1)

    def direction(self, label: str) -> Direction:
        """The classification as a direction from the modalities to the class, for the files of ranks.

        Args:
            label: of the classes.

        Returns:
            A Direction whose gallery are the classes, and whose score is the method.
        """
        method = f"{self.method}, {self.score}" if self.score else self.method
        return Direction(
            self.modalities, (label,), method, self.rows, self.items, self.ranks, len(self.classes), 0, self.unlabelled
        )

    def accuracy(self, k: int = 1) -> Interval:
        """Share of the items whose class is among the k that are suggested most, in expectation where some tie."""
        return share_interval(hits_at_k(self.ranks, k), self.items)

    def balanced_accuracy(self) -> Interval:
        """Mean over the classes of the share of their items that are predicted right; classes without an item do not count."""
        hits = hits_at_k(self.ranks, 1)
        strata = np.where(self.truth == np.arange(len(self.classes))[:, None], hits, np.nan)
        return share_interval(strata[~np.isnan(strata).all(1)], self.items)

    def confusion(self) -> NDArray[np.int64]:
        """(c, c) how many items of each class, in rows, are taken for each class, in columns."""
        c = len(self.classes)
        return np.bincount(self.truth * c + self.predicted, minlength=c * c).reshape(c, c)

    def chance(self) -> float:
        """The accuracy of always naming the class that most of these items are of."""
        return float(np.bincount(self.truth).max() / len(self.truth))

    def to_dict(self) -> dict[str, object]:
        """Everything as plain numbers, lists and dicts; shares in [0, 1]."""
        return {
            "method": self.method,
            "modalities": list(self.modalities),
            "score": self.score,
            "classes": list(self.classes),
            "items": len(self.truth),
            "unlabelled": self.unlabelled,
            "settings": self.settings,
            "accuracy": self.accuracy()._asdict(),
            "balanced_accuracy": self.balanced_accuracy()._asdict(),
            "top_5_accuracy": self.accuracy(5)._asdict() if len(self.classes) > 5 else None,
            "chance": self.chance(),
            "confusion": self.confusion().tolist(),
        }


def zero_shot(
    bundle: Bundle,
    labels: Labels,
    prompts: Bundle,
    classes: Labels,
    *,
    modalities: Sequence[str] | None = None,
    score: ScoreName = "centroid",
) -> Classified:
    """Name the class whose prompts score highest: no training item of the classes is seen.

    Several prompts of one class are one, with the unit mean of their vectors.

    Args:
        bundle: n items.
        labels: n classes.
        prompts: descriptions of classes in the same space, in any modality.
        classes: the class of each prompt.
        modalities: what is known of the items; by default all but those of the prompts, or all where nothing would be left.
        score: how items and prompts are compared.

    Returns:
        The Classified.

    Raises:
        InputError: labels or prompts that cannot be used, an unknown score or modality.

    Source: Radford et al., CLIP, for the mean over prompts.
    """
    check_type("prompts", prompts, Bundle, fix="An Aligner embeds a Table of prompts: aligner.embed(table).")
    check_choice("score", score, SCORES)
    used = [name for name, count in prompts.counts().items() if count]
    others = [name for name in bundle.modalities if name not in used]
    names = names_of(bundle, modalities or others or bundle.modalities)
    known, of_prompt = _known(prompts, classes, "classes", tuple(used))
    if len(known) < 2:
        raise InputError(f"`classes` must name at least two classes; got {listing(known) or 'none'}.")
    centres = _centres(prompts.select(*used), of_prompt, len(known))
    rows, truth, items = _asked(bundle, labels, names, known, "prompt")
    with torch.no_grad():
        values = SCORES[score](bundle[rows].select(*names), centres.to(bundle.vectors.device))
    each = len(prompts) / len(known)
    return Classified(
        "zero-shot",
        names,
        score,
        known,
        truth,
        values.double().cpu().numpy(),
        rows,
        items,
        len(bundle) - len(rows),
        {"prompts per class": each},
    )


def nearest(
    train: Bundle,
    train_labels: Labels,
    bundle: Bundle,
    labels: Labels,
    *,
    modalities: Sequence[str] | None = None,
    score: ScoreName = "centroid",
    k: int = 20,
) -> Classified:
    """Name the class that most of the k nearest training items are of; of several the one whose items are nearer.

    Args:
        train: items whose class is known; all of them are used where there are fewer than k.
        train_labels: their classes.
        bundle: n items in the same space.
        labels: n classes.
        modalities: what is known of both; all by default.
        score: how items are compared.
        k: neighbours that vote.

    Returns:
        The Classified.

    Raises:
        InputError: labels that cannot be used, an unknown score or modality, k below 1.
    """
    check_choice("score", score, SCORES)
    check_number("k", k, "[1, inf)", integer=True)
    names = names_of(bundle, modalities)
    known, of_train, train = _training(train, train_labels, names)
    rows, truth, items = _asked(bundle, labels, names, known, "training item")
    with torch.no_grad():
        form = SCORES[score].of(bundle[rows].select(*names), train.to(bundle.vectors.device).select(*names))
        _, columns = top_k(form, k)
    voters = of_train[columns.cpu().numpy()]
    votes = np.zeros((len(rows), len(known)))
    for place in range(voters.shape[1]):  # a vote, and less than half of one for all places together to break ties
        np.add.at(votes, (np.arange(len(rows)), voters[:, place]), 1 + 0.4 * 2.0 ** -(place + 1))
    return Classified(
        "nearest neighbours",
        names,
        score,
        known,
        truth,
        votes,
        rows,
        items,
        len(bundle) - len(rows),
        {"neighbours": voters.shape[1], "training items": len(of_train)},
    )


def probe(
    train: Bundle,
    train_labels: Labels,
    bundle: Bundle,
    labels: Labels,
    *,
    validation: tuple[Bundle, Labels] | None = None,
    modalities: Sequence[str] | None = None,
) -> Classified:
    """Name the class by multinomial logistic regression on the vectors of the modalities, one behind the other.

    A missing vector is zero; where some are, whether each is present is told as well.

    Args:
        train: items to learn from.
        train_labels: their classes.
        bundle: n items in the same space.
        labels: n classes.
        validation: items and classes by whose accuracy the penalty is chosen; otherwise it is chosen by five folds of the
            training items.
        modalities: what is known of the items; all by default.

    Returns:
        The Classified.

    Raises:
        InputError: scikit-learn is not installed; labels that cannot be used, an unknown modality.
    """
    require("sklearn")
    from sklearn.linear_model import LogisticRegression

    names = names_of(bundle, modalities)
    known, of_train, train = _training(train, train_labels, names)
    rows, truth, items = _asked(bundle, labels, names, known, "training item")
    masks = not bool(train.select(*names).present.all())
    features = features_of(train, names, masks)

    def fitted(strength: float, part: NDArray[np.bool_] | slice = slice(None)) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=500).fit(features[part], of_train[part])

    if validation is None:
        folds = _folds(train, 5)
        accuracy = [
            np.mean([fitted(c, folds != i).score(features[folds == i], of_train[folds == i]) for i in np.unique(folds)])
            for c in STRENGTHS
        ]
    else:
        kept, theirs, _ = _asked(validation[0], validation[1], names, known, "training item")
        seen = features_of(validation[0][kept], names, masks)
        accuracy = [fitted(c).score(seen, theirs) for c in STRENGTHS]
    strength = STRENGTHS[int(np.argmax(accuracy))]
    model = fitted(strength)
    values = np.full((len(rows), len(known)), -np.inf)
    values[:, model.classes_] = model.predict_log_proba(features_of(bundle[rows], names, masks))
    return Classified(
        "linear probe",
        names,
        "",
        known,
        truth,
        values,
        rows,
        items,
        len(bundle) - len(rows),
        {"C": strength, "training items": len(of_train)},
    )


def classified_sheets(label: str, results: Sequence[Classified]) -> list[Sheet]:
    """The results as a table, and the confusion matrix of the best of them, where it has at most 20 classes."""
    first = results[0]
    several = len(first.classes) > 5
    header = ("modalities", "method", "score", "items", "accuracy [95 %]", "balanced [95 %]", *(("top 5",) if several else ()))
    rows = tuple(
        (
            "+".join(one.modalities),
            one.method,
            one.score or "–",
            str(len(one.truth)),
            one.accuracy().percent(),
            one.balanced_accuracy().percent(),
            *((f"{100 * one.accuracy(5).value:.1f}",) if several else ()),
        )
        for one in results
    )
    chosen = next((one for one in results if one.method == "linear probe"), None)
    note = (
        f"{len(first.classes)} classes; always naming the most frequent one is right in {100 * first.chance():.1f} %. Accuracy "
        "in %, intervals over items; balanced accuracy is the mean over the classes."
    )
    near = next((one for one in results if one.method == "nearest neighbours"), None)
    if near is not None:
        note += f" {near.settings['neighbours']} neighbours of {near.settings['training items']} training items vote."
    if chosen is not None:
        note += " The probe's penalty is chosen without the evaluated items."
    sheets = [Sheet(f"Classification by {label}", header, rows, note)]
    best = max(results, key=lambda one: one.accuracy().value)
    if len(best.classes) <= 20:
        counts = tuple((name, *map(str, line)) for name, line in zip(best.classes, best.confusion().tolist(), strict=True))
        title = f"What is taken for what: {best.name}"
        sheets.append(
            Sheet(title, ("class", *best.classes), counts, "Items of the class in the row, by what they are taken for.")
        )
    return sheets


def names_of(bundle: Bundle, modalities: Sequence[str] | None) -> Names:
    """The modalities, checked; all of the Bundle's by default.

    Raises:
        InputError: one that the Bundle lacks.
    """
    for name in modalities or ():
        check_choice("modalities", name, bundle.modalities)
    return tuple(modalities or bundle.modalities)


def items_of(bundle: Bundle) -> NDArray[np.int64]:
    """(n,) the item of each row."""
    return np.arange(len(bundle)) if bundle.item_ids is None else bundle.item_ids.cpu().numpy()


def _known(bundle: Bundle, labels: Labels, argument: str, names: Names) -> tuple[tuple[str, ...], list[int | None]]:
    """The classes of the rows that have any of the modalities, sorted, and the number of each row's; None where unknown."""
    if isinstance(labels, str) or len(labels) != len(bundle):
        raise InputError(f"`{argument}` must name the class of each of {len(bundle)} rows; got {len(labels)}.")
    has = bundle.has(*names).tolist()
    known = tuple(sorted({label for label, there in zip(labels, has, strict=True) if label is not None and there}))
    number = {name: i for i, name in enumerate(known)}
    return known, [number.get(label) if there and label is not None else None for label, there in zip(labels, has, strict=True)]


def _centres(prompts: Bundle, of_prompt: Sequence[int | None], classes: int) -> Bundle:
    """One row per class: for each modality the unit mean of its prompts' vectors."""
    sums = prompts.vectors.new_zeros(classes, *prompts.vectors.shape[1:])
    rows = torch.tensor([row for row, number in enumerate(of_prompt) if number is not None], device=sums.device)
    index = torch.tensor([number for number in of_prompt if number is not None], device=sums.device)
    sums.index_add_(0, index, prompts.vectors.detach()[rows])
    present = sums.any(-1)
    return Bundle(unit(sums).masked_fill(~present[..., None], 0), present, prompts.modalities)


def _training(train: Bundle, labels: Labels, names: Names) -> tuple[tuple[str, ...], NDArray[np.int64], Bundle]:
    """The classes, the class of each training item that can be used, and these items."""
    for name in names:
        check_choice("modalities", name, train.modalities)
    known, numbers = _known(train, labels, "train_labels", names)
    if len(known) < 2:
        raise InputError(f"`train_labels` must hold at least two classes to tell apart; got {listing(known) or 'none'}.")
    rows = [row for row, number in enumerate(numbers) if number is not None]
    return known, np.array([numbers[row] for row in rows], np.int64), train[rows]


def _asked(
    bundle: Bundle, labels: Labels, names: Names, known: Sequence[str], what: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row number, class number and item of each row that has a class and any of the modalities."""
    of_rows, _ = _known(bundle, labels, "labels", names)
    if not of_rows:
        raise InputError(f"`labels` must name the class of an item that has {' or '.join(names)}; none does.")
    unseen = Counter(label for label in labels if label is not None and label in of_rows and label not in known)
    if unseen:
        raise InputError(
            f"`labels` must be among the {len(known)} classes that a {what} has; {unseen.total()} items are of "
            f"{listing(sorted(unseen))}. Leave them out, or add a {what} of each."
        )
    number = {name: i for i, name in enumerate(known)}
    has = bundle.has(*names).tolist()
    rows = [row for row, (label, there) in enumerate(zip(labels, has, strict=True)) if there and label in number]
    index = np.array(rows, np.int64)
    return index, np.array([number[str(labels[row])] for row in rows], np.int64), items_of(bundle)[index]


def features_of(bundle: Bundle, names: Names, masks: bool) -> NDArray[np.float64]:
    """(n, m·d), and with `masks` m columns more: which modalities are present. Scaled as if standardised."""
    part = bundle.select(*names)
    vectors = (part.vectors.detach().double() * part.dim**0.5).flatten(1)
    columns = [vectors, part.present.double()] if masks else [vectors]
    return torch.cat(columns, 1).cpu().numpy()


def _folds(bundle: Bundle, folds: int) -> NDArray[np.int64]:
    """(n,) the fold of each row; rows of one item are in one."""
    items = np.unique(items_of(bundle), return_inverse=True)[1].reshape(-1)
    order = np.random.default_rng(0).permutation(items.max() + 1)
    return order[items] % folds
