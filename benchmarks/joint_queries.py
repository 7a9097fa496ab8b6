"""What joining the modalities of an item gains over the best single one, by joint score and by ridge regression.

    python benchmarks/joint_queries.py stamps digits

Heads, ridges and the best single modality are chosen on the validation split; figures are of the test split: docs/canonical.md.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from gramian import Aligner, Bundle, Table, load
from gramian.benchmark.families import COLUMNS, SEARCH
from gramian.evaluation.metrics import hits_at_k, mean_reciprocal_rank
from gramian.evaluation.rankings import Rankings
from gramian.evaluation.stats import difference_interval
from gramian.model import JointHeads
from gramian.training import fit_canonical

SCORES = ("centroid", "weighted_centroid", "cone", "span")
FACTORS = (0.3, 1.0, 3.0)  # of the heads' own ridge


def with_joint(aligner: Aligner, heads: JointHeads, part: Table) -> Bundle:
    """The items, and for each modality one vector of all others."""
    bundle = aligner.embed(part)
    columns = {name: bundle.column(name) for name in bundle.modalities}
    present = {name: bundle.has(name) for name in bundle.modalities}
    for name in bundle.modalities:
        rest = [other for other in bundle.modalities if other != name]
        columns[f"without {name}"], present[f"without {name}"] = heads(part, rest)
    return Bundle.from_dict(columns, present=present, check=False)


def asked(names: tuple[str, ...], way: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Each modality against the others together, and the others against it."""
    pairs = []
    for name in names:
        rest = (f"without {name}",) if way == "regression" else tuple(other for other in names if other != name)
        pairs += [((name,), rest), (rest, (name,))]
    return pairs


def main() -> None:
    for name in sys.argv[1:] or ["stamps"]:
        table = load(name, columns=list(COLUMNS[name]) if name in COLUMNS else None)
        train, validation, test = (table.part(split).has_any() for split in ("train", "validation", "test"))
        for head in ("linear", "kernel"):
            aligner, choice = fit_canonical(train, validation, search=replace(SEARCH, heads=(head,)), progress=False)
            names = tuple(aligner.modalities)
            heads = {f: JointHeads(aligner, train, ridge=f * choice.settings.ridge) for f in FACTORS}

            def ranks(rankings, query, target, score):
                rows = rankings.asked(query, target)
                return rows, rankings.rows(query, target, score).at(rows)

            def mrr(rankings, query, target):
                return mean_reciprocal_rank(ranks(rankings, query, target, "cosine")[1])

            shown = {f: Rankings(with_joint(aligner, joint, validation)) for f, joint in heads.items()}
            best = max(FACTORS, key=lambda f: sum(mrr(shown[f], *pair) for pair in asked(names, "regression")))
            rankings = Rankings(with_joint(aligner, heads[best], test))
            found = {}
            for way in ("single", *SCORES, "regression"):
                pairs = asked(names, way)
                if way == "single":
                    singles = []
                    for query, target in pairs:
                        long, short = (query, target) if len(query) > 1 else (target, query)
                        options = [((one,), short) if long is query else (short, (one,)) for one in long]
                        singles.append(max(options, key=lambda pair: mrr(shown[best], *pair)))
                    pairs = singles
                table_of = np.full((1, len(pairs), len(test)), np.nan)
                for row, (query, target) in zip(table_of[0], pairs, strict=True):
                    rows, found_ranks = ranks(rankings, query, target, way if way in SCORES else "cosine")
                    row[rows] = hits_at_k(found_ranks, 1)
                found[way] = table_of
                gain = difference_interval(table_of - found["single"], rankings.items).percent() if way != "single" else "–"
                print(f"{name}, {head} heads, {way}: R@1 {100 * np.nanmean(table_of):.1f}, gain {gain}", flush=True)


if __name__ == "__main__":
    main()
