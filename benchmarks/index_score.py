"""Which score an index should rank by: the table of docs/results/index_score.md.

    python benchmarks/index_score.py                            # three spaces from real data; two minutes on two cores
    python benchmarks/index_score.py --fixed clips.safetensors  # and one that is not trained here: text, video, audio, …

The test items of stamps, digits and furniture in spaces by kernel canonical analysis (`Aligner.canonical`), with the modalities
of the items all there, or 30 % of them missing in three draws; the last of an item is kept. --fixed names a file of unit
vectors, one row per item in each modality. A second table says what `choose_score` chooses by the validation items of the same
spaces, and what that gains on their test items.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from gramian.bundle import Bundle
from gramian.data import load
from gramian.evaluation.metrics import hits_at_k, ranks
from gramian.evaluation.stats import difference_interval, share_interval
from gramian.files import write_text
from gramian.index.choosing import CANDIDATES, choose_score
from gramian.model import Aligner
from gramian.scores import SCORES
from gramian.sheets import Sheet

PAGE = Path(__file__).parent.parent / "docs" / "results" / "index_score.md"
ASKED = {
    "stamps": ["text → image+speech_fr", "text+speech_fr → image", "text → image+speech_fr+sound"],
    "digits": ["zer → fou+kar+pix", "fou+zer → kar+pix"],
    "furniture": ["text → image+depth", "text+dimensions → image+depth"],
    "fixed": ["text → video+audio", "text → video+audio+subtitle", "text+audio → video+subtitle"],
}
OTHERS = ("span", "cone", "weighted_centroid", "cosine", "max_cosine", "leading")
DRAWS = 3


def space(data: str) -> tuple[Bundle, Bundle]:
    """The validation and the test items of a data set, in a space that its training items made."""
    names = {name for line in ASKED[data] for side in line.split(" → ") for name in side.split("+")}
    table = load(data, columns=sorted(names))
    aligner = Aligner.canonical(table.part("train"), dim=256)
    return aligner.embed(table.part("validation")), aligner.embed(table.part("test"))


def fixed(path: Path) -> Bundle:
    """Vectors from a file."""
    return Bundle.from_dict({name: value.float() for name, value in load_file(path).items()})


def lacking(items: Bundle, share: float, seed: int) -> Bundle:
    """The items without a share of their vectors; of each the one that is drawn last stays."""
    order = torch.rand(items.present.shape, generator=torch.Generator().manual_seed(seed)).masked_fill(~items.present, 2)
    kept = items.present & ((order >= share) | (order == order.amin(1, keepdim=True)))
    return Bundle(items.vectors.masked_fill(~kept[..., None], 0), kept, items.modalities)


def measure(name: str, everything: Bundle) -> list[tuple[str, ...]]:
    rows = []
    for line in ASKED[name]:
        by, among = (side.split("+") for side in line.split(" → "))
        both = everything.select(*by).has() & everything.select(*among).has()
        queries, items = (everything.select(*names)[both] for names in (by, among))
        for share in (0.0, 0.3) if len(among) > 1 else (0.0,):
            found = {
                score: np.stack(
                    [
                        hits_at_k(ranks(SCORES[score](queries, part), torch.arange(len(part))), 1)
                        for part in (lacking(items, share, seed) for seed in range(DRAWS if share else 1))
                    ]
                )[:, None]
                for score in ("centroid", *OTHERS)
            }
            differences = (difference_interval(found[score] - found["centroid"]).percent() for score in OTHERS)
            centroid = share_interval(found["centroid"]).percent()
            rows.append((name, line, f"{share:.0%}".replace("%", " %"), str(len(items)), centroid, *differences))
            print(*rows[-1], sep=" | ", flush=True)
    return rows


def chosen(name: str, validation: Bundle, test: Bundle) -> list[tuple[str, ...]]:
    """What validation items choose, and what each candidate gains on them and on the test items."""
    rows = []
    for share in (0.0, 0.3):
        parts = validation, test
        choice, check = (choose_score(lacking(part, share, 0) if share else part) for part in parts)
        gains = (part.gains[score].percent() for score in choice.gains for part in (choice, check))
        rows.append((name, f"{share:.0%}".replace("%", " %"), str(choice.items), str(check.items), choice.score, *gains))
        print(*rows[-1], sep=" | ", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixed", type=Path)
    options = parser.parse_args()
    rows, choices = [], []
    for name in ASKED:
        if name != "fixed":
            validation, test = space(name)
            choices += chosen(name, validation, test)
            rows += measure(name, test)
    if options.fixed is not None:
        rows += measure("fixed", fixed(options.fixed))
    note = (
        "R@1 in % by centroid, and what other scores find more or less than it, paired, with 95 % intervals over items and "
        f"{DRAWS} draws of what is missing."
    )
    header = ("space", "query → items", "missing", "items", "centroid", *(f"{score} − centroid" for score in OTHERS))
    sheet = Sheet("The score of an index", header, tuple(rows), note)
    gains = (f"{score} − centroid, {part}" for score in CANDIDATES for part in ("validation", "test"))
    header = ("space", "more missing", "validation items", "test items", "chosen", *gains)
    note = (
        "Points of MRR over all queries of one and of two modalities against the items' other modalities; intervals of 95 % "
        "for both candidates together. The score is chosen on the validation items alone."
    )
    choice = Sheet("What validation items choose", header, tuple(choices), note)
    told = f"Written by `python benchmarks/index_score.py`.\n\n{sheet.markdown()}\n\n{choice.markdown()}"
    write_text(PAGE, f"# The score of an index\n\n{told}")


if __name__ == "__main__":
    main()
