"""Count what lies on both sides of every split of the data sets on this machine, and fill the table of docs/datasets.md.

python benchmarks/leaks.py
"""

from __future__ import annotations

import re
from pathlib import Path

from gramian import load
from gramian.data.sets import REPEATS, SETS, prepared
from gramian.data.sets.splitting import leaks
from gramian.files import write_text
from gramian.sheets import Sheet

PAGE = Path(__file__).parent.parent / "docs" / "datasets.md"
MARKED = re.compile(r"(?<=<!-- leaks -->\n).*?(?=<!-- /leaks -->)", flags=re.S)


def shown(counts: list[tuple[int, int]]) -> str:
    """The range of identical items, and of nearly identical ones."""
    ranges = [(min(column), max(column)) for column in zip(*counts, strict=True)]
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in ranges)


def main() -> None:
    """Write the table."""
    rows = []
    for name in ("stamps", *(name for name in SETS if prepared(name).is_file())):
        own = load(name)
        counts, others = leaks(own), [leaks(load(f"{name}@{i}")) for i in range(1, REPEATS + 1)]
        further = {way: leaks(load(f"{name}@{way}")) for way in (SETS[name].ways if name in SETS else ())}
        test = load(name, split="test").counts()
        for modality, count in counts.items():
            more = ", ".join(f"{way} {shown([found[modality]])}" for way, found in further.items())
            ten = [one[modality] for one in others]
            rows.append((f"`{name}`", f"`{modality}`", str(test[modality]), shown([count]), shown(ten), more or "–"))
    header = ("set", "column", "test items", "own split", "ten others", "further")
    note = (
        "Test items of which another split has the very features, then those of which it has nearly those: a cosine of 0.999 "
        "or more of the standardised features. Lowest and highest of ten splits."
    )
    table = Sheet("", header, tuple(rows), note).markdown().partition("\n\n")[2]
    write_text(PAGE, MARKED.sub(lambda _: f"\n{table}\n", PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
