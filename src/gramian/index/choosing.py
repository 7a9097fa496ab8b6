"""The score that an index searches by when none is named: chosen on items that the model was validated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch

from gramian.bundle import Bundle
from gramian.errors import check_type
from gramian.evaluation.metrics import reciprocal_ranks
from gramian.evaluation.rankings import Rankings
from gramian.evaluation.stats import Interval, difference_interval
from gramian.index.protocol import DEFAULT, Index, SearchScore

__all__ = ["CANDIDATES", "Choice", "choose_score", "chosen_by"]

CANDIDATES: tuple[SearchScore, ...] = ("span", "max_cosine")
"""What may take the centroid's place: scores as quick as it is, in Qdrant too. The cone finds as much as the span, in twenty
times the time."""

ASKING = 2  # modalities of a query at most
VALIDATED = 1000  # items at most, drawn at random from more: ranking grows with their square


@dataclass(frozen=True)
class Choice:
    """The score that was chosen, and what the candidates gain over the centroid.

    Attributes:
        score: of the candidates whose gain is above zero beyond noise the one that gains most, or the centroid.
        gains: candidate → its mean reciprocal rank minus the centroid's, with an interval that allows for the number of
            candidates.
        items: that chose.
    """

    score: SearchScore
    gains: Mapping[SearchScore, Interval]
    items: int

    def __str__(self) -> str:
        best = max(self.gains, key=lambda name: self.gains[name].value, default=None)
        if best is None:
            return f"{self.score}: the {self.items} validation items do not tell scores apart"
        gain = f"{best} − {DEFAULT} = {self.gains[best].percent()} points of MRR on {self.items} validation items"
        return f"{self.score}: {gain}" if self.score == best else f"{self.score}, since no other is better beyond noise: {gain}"


def choose_score(validation: Bundle) -> Choice:
    """The score by which items are found best, of the centroid and `CANDIDATES`.

    Each modality, and each two, ask for the items by all their other modalities; the items stand in the gallery as they are,
    so what a score loses by favouring those with more modalities counts against it. A candidate takes the centroid's place if
    its mean reciprocal rank is higher, paired by item, beyond an interval of 95 % for all candidates together (Bonferroni).

    Args:
        validation: n items in the shared space, with or without missing modalities; not those that the score is tested on. Rows
            with equal `item_ids` are one item.

    Returns:
        The choice; the centroid, without gains, where no two items have three modalities between them.

    >>> choose_score(Bundle.from_dict({"text": torch.eye(3), "image": torch.eye(3)})).score
    'centroid'
    """
    check_type("validation", validation, Bundle)
    rankings = Rankings(validation)
    names = [name for name, count in validation.counts().items() if count]
    found: dict[SearchScore, list[np.ndarray]] = {score: [] for score in (DEFAULT, *CANDIDATES)}
    for size in range(1, ASKING + 1):
        for query in combinations(names, size):
            target = tuple(name for name in names if name not in query)
            if not target or len(names) < 3 or not len(rows := rankings.asked(query, target)):
                continue
            for score, of_score in found.items():
                of_score.append(np.full(len(validation), np.nan))
                of_score[-1][rows] = reciprocal_ranks(rankings.rows(query, target, score).at(rows))
    if not found[DEFAULT]:
        return Choice(DEFAULT, {}, len(validation))
    tables = {score: np.stack(of_score) for score, of_score in found.items()}
    level = 1 - 0.05 / len(CANDIDATES)
    gains = {score: difference_interval(tables[score] - tables[DEFAULT], rankings.items, level=level) for score in CANDIDATES}
    better = [score for score in CANDIDATES if gains[score].low > 0]
    best = max(better, key=lambda score: gains[score].value, default=DEFAULT)
    return Choice(best, gains, len(validation))


def chosen_by(index: Index, ids: Sequence[str], items: Mapping[str, str]) -> Choice | None:
    """The score that some items of an index choose.

    Args:
        index: that has them.
        ids: of the items, and of others that are not in the index.
        items: id → the item that the row is about, where several rows are about one.

    Returns:
        The choice; None where the index has none of them.
    """
    names = [name for name, has in zip(ids, index.known(ids), strict=True) if has]
    if len(names) > VALIDATED:
        drawn = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))[:VALIDATED]
        names = [names[i] for i in drawn.sort().values.tolist()]
    if not names:
        return None
    numbers: dict[str, int] = {}
    about = [numbers.setdefault(items.get(name, name), len(numbers)) for name in names]
    return choose_score(replace(index.vectors(names), item_ids=torch.tensor(about)))
