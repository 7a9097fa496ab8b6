"""What `gramian demo` trains with: widths, rates and temperatures compared on the validation split of stamps.

    python benchmarks/stamps_selection.py [--seeds 3]

About ten minutes on two cores. Prints a Markdown table: mean reciprocal rank and R@1 over the six directions between image,
text and French speech, on 81 validation items, mean and range over the seeds. The test split is not read.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gramian.data import Table, load
from gramian.losses import PMRL, Contrast, Gram, Loss, Pairwise
from gramian.model import Aligner
from gramian.training import Recipe, fit


@dataclass(frozen=True)
class Candidate:
    name: str
    loss: Callable[[], Loss] = Pairwise
    dim: int = 512
    recipe: Recipe = Recipe()


def candidates() -> list[Candidate]:
    base = Recipe()
    found = [Candidate(f"Pairwise, dim {dim}", dim=dim) for dim in (64, 128, 256, 512, 1024)]
    found += [Candidate(f"Pairwise, learning rate {rate:g}", recipe=replace(base, learning_rate=rate)) for rate in (3e-4, 3e-3)]
    found += [Candidate("Pairwise, batch 441", recipe=replace(base, batch_size=441))]
    for tau in (0.05, 0.1, 0.2, 0.4):
        found.append(Candidate(f"Pairwise, τ = {tau}", lambda tau=tau: Pairwise(temperature=tau)))
    for smoothing in (0.0, 0.1):
        for tau in (0.07, 0.2, 0.4):
            found.append(
                Candidate(
                    f"Gram, cone, each, τ = {tau}, smoothing {smoothing}",
                    lambda tau=tau, s=smoothing: Gram(score="cone", anchor="each", temperature=tau, label_smoothing=s),
                )
            )
    for tau in (0.07, 0.2):
        found.append(Candidate(f"Contrast, centroid, each, τ = {tau}", lambda tau=tau: Contrast("centroid", temperature=tau)))
        found.append(Candidate(f"Gram as published, τ = {tau}", lambda tau=tau: Gram(temperature=tau)))
    found.append(Candidate("Gram, volume, each", lambda: Gram(anchor="each")))
    found.append(Candidate("PMRL as published", PMRL))
    found.append(Candidate("PMRL, τ₁ = 0.5", lambda: PMRL(alignment_temperature=0.5)))
    found.append(Candidate("PMRL, signed, τ₁ = 0.05", lambda: PMRL(signed=True)))
    for first in (0.5, 1.0):
        for second in (0.1, 0.2):
            found.append(
                Candidate(
                    f"PMRL, signed, τ₁ = {first}, τ₂ = {second}",
                    lambda a=first, b=second: PMRL(signed=True, alignment_temperature=a, instance_temperature=b),
                )
            )
    return found


def measure(candidate: Candidate, train: Table, validation: Table, seeds: int) -> str:
    found = []
    for seed in range(seeds):
        aligner = Aligner.for_table(train, dim=candidate.dim, seed=seed)
        recipe = replace(candidate.recipe, seed=seed)
        history = fit(aligner, candidate.loss(), train, validation, recipe=recipe, progress=False, cpu=True)
        best = history.records[history.best_epoch - 1]
        found.append((100 * best["validation/mrr"], 100 * best["validation/recall@1"], history.best_epoch))
    values = np.array(found)
    (mrr, recall, epoch), (low, *_), (high, *_) = values.mean(0), values.min(0), values.max(0)
    return f"| {candidate.name} | {mrr:.1f} ({low:.1f}–{high:.1f}) | {recall:.1f} | {epoch:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    table = load("stamps", columns=["image", "text", "speech_fr"])
    print("| candidate | validation MRR (range) | R@1 | best epoch |\n| :--- | ---: | ---: | ---: |")
    for candidate in candidates():
        print(measure(candidate, table.part("train"), table.part("validation"), seeds), flush=True)


if __name__ == "__main__":
    main()
