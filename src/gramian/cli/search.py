"""`gramian search`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gramian.bundle import Bundle
from gramian.cli.terminal import console_of
from gramian.data import load
from gramian.errors import InputError, check_choice, first_line
from gramian.files import parse_json
from gramian.index import Index
from gramian.index.protocol import SearchScore
from gramian.model import Aligner
from gramian.model.specs import Spec, build_towers
from gramian.model.towers import Tower

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
    weights: Mapping[str, float] | None = None,
    k: int = 10,
    score: SearchScore = "centroid",
    beta: float = 1.0,
    filter: str | None = None,
    modalities: list[str] | None = None,
    hubs: bool = False,
    json: bool = False,
    model: str | None = None,
    towers: Mapping[str, Tower | Spec] | None = None,
    trust_code: bool = False,
    media_root: list[Path] | None = None,
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
        weights: modality of the query → its weight, negative for what the answers should lack: --weights.text 2.
        k: how many answers.
        score: how an item is compared with the query; see docs/search.md.
        beta: of the score volume: the exponent of the item's own volume; 0 for none.
        filter: conditions on the metadata that all must hold, as in "year>=1990; lang=fr,de; ok!=false".
        modalities: of the items, to search in; all by default.
        hubs: correct the scores for hubs, by the training items that the model keeps.
        json: print JSON, for programs.
        model: a saved Aligner that embeds the query, instead of the run's.
        towers: modality → the tower of a class of your own that the model was trained with.
        trust_code: let `towers` name classes of other modules, whose code then runs; typed, never in a file.
        media_root: folders outside of the table's own that its cells may name files in; typed, never in a file.

    Raises:
        InputError: nothing to search by, an index or options that cannot be used, a cell that cannot be read.
    """
    other = None
    if model is not None or towers is not None:
        source = model or str(run / "aligner")
        other = Aligner.from_pretrained(source, towers=build_towers(towers, trust_code=trust_code))
    index = Index.open(run, model=other)
    plain = {"text": text, "image": image, "audio": audio, "video": video}
    typed = {name: value for name, value in plain.items() if value is not None} | dict(cells or {})
    parts: list[tuple[str, Bundle]] = []
    if typed:
        parts.append(("", _embedded(index, typed)))
    if like is not None:
        parts.append(("like ", _chosen(index.vectors([like]), by)))
    if (data is None) != (row is None):
        raise InputError("--data and --row go together: a table, and the id of the row to search by.")
    if data is not None and row is not None:
        parts.append(("row ", _chosen(_row(index, data, row, by, media_root), by)))
    if not parts:
        raise InputError(
            "there is nothing to search by. Type --text, --image, --audio, --cells.NAME, --like or --data and --row."
        )
    query = parts[0][1] if len(parts) == 1 else _joined(parts)
    lacks = None if without is None else _embedded(index, {"text": without} if isinstance(without, str) else without)
    answers = index.search(
        query,
        k,
        score=score,
        beta=beta,
        filter=None if filter is None else [part for part in filter.split(";") if part.strip()],
        modalities=modalities,
        weights=weights,
        without=lacks,
        hubs=hubs,
        exclude=() if like is None else [like],
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


def _embedded(index: Index, typed: Mapping[str, str]) -> Bundle:
    """One item in the index's space, of what was typed."""
    model = index.model
    if model is None:
        raise InputError("the index has no model to embed the query with. Pass --model, or search with --like.")
    cells: dict[str, Any] = {}
    for name, value in typed.items():
        check_choice("cells", name, model.modalities)
        if name not in model.raw_modalities():
            value = _features(name, value, model.modalities[name].width)
        cells[name] = value
    bundle = index.embed(cells)
    return bundle.select(*(name for name in bundle.modalities if name in typed))


def _features(name: str, text: str, width: int) -> Any:
    try:
        values = parse_json(text)
        if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
            raise ValueError("no list of numbers")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the model reads features of `{name}`, {width} numbers as in [0.1, 0.2]; got {text!r:.40} "
            f"({first_line(error):.40}). "
            "Search by --like ID, or by --data TABLE --row ID."
        ) from None
    return values


def _row(index: Index, data: str, row: str, by: list[str] | None, media_root: list[Path] | None) -> Bundle:
    """The cells of one row of a table, in the index's space."""
    model = index.model
    if model is None:
        raise InputError("the index has no model to embed the row with. Pass --model, or search with --like.")
    table = model.towers.known(load(data, raw=model.raw_modalities(), media_root=media_root), by)
    if row not in table.ids:
        raise InputError(f"`row` must be the id of a row of {data!r}, such as {table.ids[0]!r}; got {row!r:.80}.")
    one = table[[table.ids.index(row)]]
    names = [name for name in one.modalities if bool(one.present[name][0])]
    if not names:
        raise InputError(f"`row` {row!r} of {data!r} is empty in {', '.join(by or one.modalities)}. Choose another with --by.")
    return model.embed(one.select(*names)).select(*names).to("cpu")


def _chosen(item: Bundle, by: list[str] | None) -> Bundle:
    """Those of an item's modalities that it has and that count."""
    for name in by or ():
        check_choice("by", name, item.modalities)
    names = [name for name in item.modalities if name in (by or item.modalities) and bool(item.has(name)[0])]
    if not names:
        raise InputError(f"the item lacks {', '.join(by or ())}. Choose another modality with --by.")
    return item.select(*names)


def _joined(parts: list[tuple[str, Bundle]]) -> Bundle:
    """The vectors of several items as one query; a name that occurs twice says where it is from."""
    columns: dict[str, torch.Tensor] = {}
    for source, part in parts:
        for name in part.modalities:
            columns[f"{source}{name}" if name in columns else name] = part.column(name)
    return Bundle.from_dict(columns)
