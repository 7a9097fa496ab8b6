"""What joining an item's modalities gains over the best single one: by joint score, by ridge regression, by chosen weights.

    python benchmarks/joint_queries.py stamps digits furniture --splits 5

MAXVAR's heads, ridges, weights and the best single modality are chosen on the validation split; figures are of the test split.
Intervals are over items with one split, over splits with several (Nadeau and Bengio's variance): docs/canonical.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gramian import Aligner, Bundle, Table
from gramian.benchmark.families import SEARCH, data_sets
from gramian.benchmark.standing import split_of
from gramian.evaluation import choose_weights, weighted
from gramian.evaluation.metrics import hits_at_k, mean_reciprocal_rank
from gramian.evaluation.rankings import Rankings
from gramian.evaluation.stats import difference_interval, resampled_interval
from gramian.model import JointHeads
from gramian.training import fit_canonical

SCORES = ("centroid", "weighted_centroid", "cone", "span")
JOINED = ("regression", "weights")  # joined before they are scored
FACTORS = (0.3, 1.0, 3.0)  # of the heads' own ridge

Weights = dict[str, dict[str, float]]
Hits = dict[str, NDArray[np.float64]]


def with_joint(aligner: Aligner, heads: JointHeads, weights: Weights, part: Table) -> Bundle:
    """The items, and for each modality one vector of all others, by the regression and by the weights."""
    bundle = aligner.embed(part)
    columns = {name: bundle.column(name) for name in bundle.modalities}
    present = {name: bundle.has(name) for name in bundle.modalities}
    for name in bundle.modalities:
        rest = [other for other in bundle.modalities if other != name]
        columns[f"regression {name}"], present[f"regression {name}"] = heads(part, rest)
        columns[f"weights {name}"], present[f"weights {name}"] = weighted(bundle, weights[name])
    return Bundle.from_dict(columns, present=present, item_ids=bundle.item_ids, check=False)


def asked(names: Sequence[str], way: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Each modality against the others together, and the others against it."""
    pairs = []
    for name in names:
        rest = (f"{way} {name}",) if way in JOINED else tuple(other for other in names if other != name)
        pairs += [((name,), rest), (rest, (name,))]
    return pairs


def measured(table: Table, head: str) -> tuple[Hits, NDArray[np.int64]]:
    """Hits at rank 1 of every way, (1, directions, items), and the items."""
    train, validation, test = (table.part(split).has_any() for split in ("train", "validation", "test"))
    aligner, choice = fit_canonical(train, validation, search=replace(SEARCH, heads=(head,)), progress=False)
    names = tuple(aligner.modalities)
    space = aligner.embed(validation)
    weights = {name: choose_weights(space, name) for name in names}
    heads = {f: JointHeads(aligner, train, ridge=f * choice.settings.ridge) for f in FACTORS}
    shown = {f: Rankings(with_joint(aligner, joint, weights, validation)) for f, joint in heads.items()}

    def mrr(rankings, query, target):
        return mean_reciprocal_rank(rankings.rows(query, target, "cosine").at(rankings.asked(query, target)))

    best = max(FACTORS, key=lambda f: sum(mrr(shown[f], *pair) for pair in asked(names, "regression")))
    rankings = Rankings(with_joint(aligner, heads[best], weights, test))
    found = {}
    for way in ("single", *SCORES, *JOINED):
        pairs = asked(names, way)
        if way == "single":
            singles = []
            for query, target in pairs:
                long, short = (query, target) if len(query) > 1 else (target, query)
                options = [((one,), short) if long is query else (short, (one,)) for one in long]
                singles.append(max(options, key=lambda pair: mrr(shown[best], *pair)))
            pairs = singles
        found[way] = np.full((1, len(pairs), len(test)), np.nan)
        for row, (query, target) in zip(found[way][0], pairs, strict=True):
            rows = rankings.asked(query, target)
            row[rows] = hits_at_k(rankings.rows(query, target, way if way in SCORES else "cosine").at(rows), 1)
    print("  weights:", {name: {k: round(w / max(own.values()), 3) for k, w in own.items()} for name, own in weights.items()})
    return found, rankings.items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["stamps"])
    parser.add_argument("--heads", default="linear,kernel")
    parser.add_argument("--splits", type=int, default=1)
    options = parser.parse_args()
    for name, table in data_sets(options.sets):
        for head in options.heads.split(","):
            splits = [split_of(table, name, seed) for seed in range(options.splits)]
            each = [measured(split, head) for split in splits]
            tested = len(splits[0].part("test")) / (len(splits[0].part("train")) + len(splits[0].part("validation")))
            for way in each[0][0]:
                means = np.array([np.nanmean(found[way]) for found, _ in each])
                gain = "–"
                if way != "single" and options.splits > 1:
                    interval, _ = resampled_interval(means - [np.nanmean(found["single"]) for found, _ in each], tested)
                    gain = interval.percent()
                elif way != "single":
                    found, items = each[0]
                    gain = difference_interval(found[way] - found["single"], items).percent()
                print(f"{name}, {head} heads, {way}: R@1 {100 * means.mean():.1f}, gain {gain}", flush=True)


if __name__ == "__main__":
    main()
