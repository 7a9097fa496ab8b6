"""How scores treat items that lack a modality: the table of docs/results/arity.md.

    python benchmarks/arity.py

Half a minute on two cores. 1,000 synthetic items in 128 dimensions, each known by an image and a sound that lean to the
item's direction; half of them lack one of the two. A text asks for each. Five draws.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from gramian.bundle import Bundle
from gramian.evaluation.metrics import hits_at_k, ranks
from gramian.evaluation.stats import share_interval
from gramian.files import write_text
from gramian.scores import SCORES
from gramian.sheets import Sheet

PAGE = Path(__file__).parent.parent / "docs" / "results" / "arity.md"

N, D, NOISE, DRAWS = 1000, 128, 1.8, 5


def draw(seed: int) -> tuple[Tensor, Bundle]:
    generator = torch.Generator().manual_seed(seed)
    centre = normalize(torch.randn(N, 1, D, generator=generator), dim=-1)
    noise = normalize(torch.randn(N, 3, D, generator=generator), dim=-1)
    vectors = normalize(centre + NOISE * noise, dim=-1)
    present = torch.ones(N, 2, dtype=torch.bool)
    lacking = torch.randperm(N, generator=generator)[: N // 2]
    present[lacking, torch.randint(2, (N // 2,), generator=generator)] = False
    return vectors[:, 0], Bundle(vectors[:, 1:].masked_fill(~present[..., None], 0), present, ("image", "sound"))


def main() -> None:
    rows = []
    for name, score in SCORES.items():
        found = np.full((DRAWS, 2, N), np.nan)  # complete, incomplete
        for seed in range(DRAWS):
            queries, items = draw(seed)
            hit = hits_at_k(ranks(score(queries, items), torch.arange(N)), 1)
            complete = items.present.all(1).numpy()
            found[seed, 0, complete], found[seed, 1, ~complete] = hit[complete], hit[~complete]
        both, incomplete = (share_interval(found[:, [i]]).percent() for i in (0, 1))
        rows.append((f"`{name}`", both, incomplete, f"{100 * np.nanmean(found):.1f}"))
    note = (
        f"R@1 in % of text → image+sound, {DRAWS} draws of {N} items, d = {D}; {N // 2} items have both vectors, {N // 2} one. "
        "95 % intervals over items and draws."
    )
    sheet = Sheet("Complete and incomplete items", ("score", "complete", "incomplete", "all"), tuple(rows), note)
    write_text(PAGE, f"# Scores and missing modalities\n\nWritten by `python benchmarks/arity.py`.\n\n{sheet.markdown()}")
    print(sheet.markdown(), end="")


if __name__ == "__main__":
    main()
