"""`gramian search`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gramian.bundle import Bundle
from gramian.cli.shared import Server, Trust
from gramian.cli.terminal import console_of
from gramian.errors import InputError, renamed
from gramian.index.asking import chosen, embedded, item_of, joined, lacking, row_of
from gramian.index.protocol import SearchScore

__all__ = ["search_command"]


def search_command(
    run: Path,
    text: str | None = None,
    image: str | None = None,
    audio: str | None = None,
    video: str | None = None,
    cells: Mapping[str, str] | None = None,
    like: str | None = None,
    data: str | None = None,
    row: str | None = None,
    by: list[str] | None = None,
    without: str | Mapping[str, str] | None = None,
    unlike: str | None = None,
    weights: Mapping[str, float] | None = None,
    k: int = 10,
    score: SearchScore | None = None,
    beta: float = 1.0,
    filter: str | None = None,
    modalities: list[str] | None = None,
    hubs: bool = False,
    json: bool = False,
    model: str | None = None,
    server: Server = Server(),
    trust: Trust = Trust(),
) -> None:
    """Search a run's index by a text, an image, a recording, or any of them together; a table of the best items.

    Args:
        run: folder that `gramian index` wrote to, or of an index.
        text: to search by, where the model has a modality "text".
        image: file to search by.
        audio: file to search by.
        video: file to search by.
        cells: modality → what to search by, where it has another name: --cells.speech_fr bird.ogg; features as [0.1, 0.2].
        like: id of an item of the index whose vectors to search by: more of the same. It is not among the answers.
        data: a table with a row to search by.
        row: the id of the row.
        by: the modalities of --like or --row that count; all by default.
        without: a text, or --without.NAME for another modality, that the answers should lack: its vector is subtracted.
        unlike: id of an item of the index that the answers should not resemble: its sum is subtracted. It is not among them.
        weights: modality of the query → its weight, negative for what the answers should lack: --weights.text 2.
        k: how many answers.
        score: how an item is compared with the query, see docs/search.md; by default that of the index.
        beta: of the score volume: the exponent of the item's own volume; 0 for none.
        filter: conditions on the metadata that all must hold, as in "year>=1990; lang=fr,de; ok!=false".
        modalities: of the items, to search in; all by default.
        hubs: correct the scores for hubs, by the training items that the model keeps.
        json: print JSON, for programs.
        model: a saved Aligner that embeds the query, instead of the run's.
        server: Qdrant, where the index is, if not in the run's folder.
        trust: towers, and what they may do.

    Raises:
        InputError: nothing to search by, an index or options that cannot be used, a cell that cannot be read.
    """
    index = server.index(run, model, trust)
    plain = {"text": text, "image": image, "audio": audio, "video": video}
    typed = {name: value for name, value in plain.items() if value is not None} | dict(cells or {})
    parts: list[tuple[str, Bundle]] = []
    if typed:
        with renamed(**{name: f"cells.{name}" for name in cells or ()}):
            parts.append(("", embedded(index, typed)))
    if like is not None:
        parts.append(("like ", chosen(item_of(index, like, "like")[0], by)))
    if (data is None) != (row is None):
        raise InputError("--data and --row go together: a table, and the id of the row to search by.")
    if data is not None and row is not None:
        parts.append(("row ", chosen(row_of(index, data, row, by, trust.media_root), by)))
    if not parts:
        raise InputError(
            "there is nothing to search by. Type --text, --image, --audio, --cells.NAME, --like or --data and --row."
        )
    query = parts[0][1] if len(parts) == 1 else joined(parts)
    lacks = None
    if without is not None:
        unwanted = {"text": without} if isinstance(without, str) else without
        with renamed(cells="without", **{name: "without" if without != unwanted else f"without.{name}" for name in unwanted}):
            lacks = embedded(index, unwanted)
    answers = index.search(
        query,
        k,
        score=score,
        beta=beta,
        filter=filter,
        modalities=modalities,
        weights=weights,
        without=lacking(index, lacks, unlike),
        hubs=hubs,
        exclude=[name for name in (like, unlike) if name is not None],
    )
    if json:
        asked = {name: bool(query.has(name)[0]) for name in query.modalities}
        print(
            _dumps(
                {
                    "query": [name for name, has in asked.items() if has],
                    "score": answers.score,
                    "modalities": list(answers.modalities),
                    "hits": [hit.to_dict() for hit in answers[0]],
                }
            )
        )
        return
    console = console_of()
    for sheet in answers.sheets():
        console.print(sheet.rich())


def _dumps(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
