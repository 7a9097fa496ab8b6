"""The model card of an Aligner: written from its parts and, where it was trained by this library, from the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml

from gramian.data.cells import Broken
from gramian.data.media import MEDIA
from gramian.data.readers import Media
from gramian.model.encoders import Encoder
from gramian.model.heads import Modality
from gramian.model.towers import Features, Towers
from gramian.papers import Paper
from gramian.sheets import Sheet, visible

__all__ = ["Described", "bare_card", "run_card"]

_USE = """\
```sh
pip install gramian
```

```python
import torch

from gramian.model import Aligner

aligner = Aligner.from_pretrained("{where}")
bundle = aligner({{{example}}})  # unit vectors, (items, modalities, {dim})
```
"""


class Described(Protocol):
    """The parts of an Aligner that a card describes."""

    dim: int
    modalities: dict[str, Modality]
    towers: Towers


def bare_card(aligner: Described, where: str = "this/folder") -> str:
    """What the Aligner reads, and how to use it; Markdown with the hub's metadata on top."""
    return _join(_head(aligner, []), _what(aligner), _use(aligner, where))


def run_card(
    aligner: Described,
    *,
    data: str,
    counts: Mapping[str, Mapping[str, int]],
    objective: str,
    papers: Sequence[Paper],
    options: Mapping[str, Any],
    figures: Sequence[Sheet],
    split: str,
    chosen: str,
    broken: Sequence[Broken],
    version: str,
) -> str:
    """The card of a training run.

    Args:
        aligner: the model.
        data: name or path of the table.
        counts: split → modality → items that have it; "items" for all.
        objective: the loss, or the criterion of a closed form.
        papers: behind it.
        options: how it was trained: a recipe, or what was searched.
        figures: tables of what was measured.
        split: what they were measured on.
        chosen: what was chosen on the validation split.
        broken: cells that could not be read.
        version: of the package.

    Returns:
        Markdown with the hub's metadata on top.
    """
    names = list(aligner.modalities)
    rows = [(part, str(count["items"]), *(str(count[name]) for name in names)) for part, count in counts.items()]
    training = [
        "## Training",
        f"Data: `{_without_folders(data)}`.",
        Sheet("Items", ("split", "all", *names), tuple(rows)).markdown(),
        f"Objective: `{objective}`.",
        "\n".join(f"- {paper.cite()}" for paper in papers),
        f"Chosen by the validation split's mean reciprocal rank: {chosen}. Options: `{dict(options)}`. gramian {version}.",
    ]
    if broken:
        first = {cell.modality: cell for cell in reversed(broken)}
        counts_of = Counter(cell.modality for cell in broken)
        lines = [
            f"- {name}: {number} {'cell' if number == 1 else 'cells'} could not be read and counted as missing, such as "
            f"{first[name].id!r} ({first[name].reason})"
            for name, number in counts_of.items()
        ]
        training.append("\n".join(lines))
    flatters = "" if split == "test" else " These items chose the epoch, which flatters the figures."
    measured = [
        "## Figures",
        f"Retrieval on the {split} split, in %, with 95 % intervals over the items.{flatters}",
        *(sheet.markdown() for sheet in figures),
    ]
    return _join(_head(aligner, [data]), _what(aligner), *training, *measured, _use(aligner, "this/folder"))


def _head(aligner: Described, data: Sequence[str]) -> str:
    meta: dict[str, Any] = {
        "library_name": "gramian",
        "pipeline_tag": "feature-extraction",
        "tags": ["gramian", "multimodal", "retrieval", *aligner.modalities],
    }
    bases = [tower.source for tower in aligner.towers.values() if isinstance(tower, Encoder)]
    hub = [base for base in dict.fromkeys(bases) if _on_hub(base)]
    if hub:
        meta["base_model"] = hub
    named = [name for name in data if _on_hub(name)]
    if named:
        meta["datasets"] = named
    return f"---\n{yaml.safe_dump(meta, sort_keys=False, allow_unicode=True)}---"


def _on_hub(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).exists()


def _without_folders(name: str) -> str:
    """A hub id or a relative path as it is; of an absolute path, which says whose machine it was, the last part."""
    return Path(name).name if Path(name).is_absolute() else name


def _what(aligner: Described) -> str:
    rows = []
    for name, tower in aligner.towers.items():
        summary = str(getattr(tower, "summary", f"features of width {tower.width}"))
        if isinstance(tower, Encoder):
            summary = summary.replace(tower.source, _without_folders(tower.source))
        rows.append((name, summary, aligner.modalities[name].kind))
    sheet = Sheet("Modalities", ("modality", "tower", "head"), tuple(rows))
    return (
        f"# An aligner of {', '.join(aligner.modalities)}\n\n"
        f"It projects {len(rows)} modalities into one space of {aligner.dim} dimensions, where items are compared by cosine or "
        f"by a joint score of several modalities. Any modality may be missing.\n\n{sheet.markdown()}"
    )


def _use(aligner: Described, where: str) -> str:
    example = []
    for name, tower in aligner.towers.items():
        if isinstance(tower.reader, Media):
            cells = MEDIA[tower.reader.kind].example
        else:
            cells = f"torch.randn(1, {tower.width})" if isinstance(tower, Features) else "[…]"
        example.append(f'"{name}": {cells}')
    return "## Use\n\n" + _USE.format(where=where, example=", ".join(example), dim=aligner.dim)


def _join(*parts: str) -> str:
    """Paragraphs as Markdown; names and reasons come from tables, and a terminal that shows the card obeys none of them."""
    text = "\n\n".join(part.strip() for part in parts if part.strip())
    return "\n".join(map(visible, text.split("\n"))) + "\n"
