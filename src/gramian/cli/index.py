"""`gramian index`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from gramian.cli.shared import Server, Trust, model_of, run_settings, split_ids
from gramian.cli.terminal import console_of, warn_unreadable
from gramian.data import Reading, Table, length, load, stream
from gramian.distributed import device
from gramian.errors import InputError, check_choice, check_number
from gramian.files import check_folder
from gramian.index import FlatIndex, Index, QdrantIndex
from gramian.index.building import Indexed, index_tables
from gramian.index.protocol import SearchScore
from gramian.model import Aligner

__all__ = ["index_command"]


def index_command(
    run: Path,
    data: str | None = None,
    model: str | None = None,
    output: Path | None = None,
    split: str | None = None,
    columns: list[str] | None = None,
    metadata: list[str] | None = None,
    id_column: str = "id",
    replace: bool = False,
    delete: list[str] | None = None,
    compact: bool = False,
    int8: bool = False,
    score: SearchScore | Literal["validation"] | None = None,
    diagnose: bool = False,
    batch_size: int | None = None,
    part_size: int = 16384,
    server: Server = Server(),
    trust: Trust = Trust(),
    reading: Reading = Reading(),
) -> None:
    """Embed a table with a run's model and add its items to the run's index, RUN/index, for `gramian search RUN`.

    The table is read as it arrives; each part is on the disk before the next is embedded. A killed command goes on where it
    stopped when it is started again: items whose id is in the index are kept as they are, unless --replace is given.

    Args:
        run: folder that `gramian train` wrote, or of an aligner; without --data of an index, too.
        data: the table: "stamps", a file, a folder or a hub id. Without one the index is only changed or diagnosed.
        model: a saved Aligner, a folder or a hub id, instead of the run's.
        output: folder of the index, instead of RUN/index.
        split: the split to index; all by default.
        columns: the modalities to index; all that the model reads by default.
        metadata: columns to keep with the items, to filter by and to show: texts, numbers, truth values; split, item.
        id_column: the column that names the items.
        replace: embed items again whose id is in the index.
        delete: ids of items to delete.
        compact: afterwards, write the index again in few files, without what was deleted.
        int8: keep the vectors of a new index in 8 bits, too, or with --compact those of an old one: a quarter more on the disk,
            and a query reads a quarter as much; answers are the same. It pays on processors with AVX-512 VNNI or AMX.
        score: of searches that name none; by default, and with "validation", what finds the run's validation items best, if the
            index has them: span or max_cosine where it is better beyond noise, else centroid.
        diagnose: afterwards, check every file and measure what makes answers bad.
        batch_size: items per forward pass; by default 4,096 of features, 32 with raw cells.
        part_size: items that are committed at a time.
        server: Qdrant, where the index is to be.
        trust: towers, and what they may do.
        reading: of raw cells.

    Raises:
        InputError: a run, a table or options that cannot be used; an index of another model.
    """
    console = console_of()
    if data is None and (score == "validation" or not (delete or compact or diagnose or score)):
        raise InputError(
            "--data must be given: the table to index. Without one: --delete, --compact, --score NAME, --diagnose."
        )
    check_number("part_size", part_size, "[1, inf)", integer=True)
    folder = output or (run if data is None else run / "index")  # an index without its run can be looked after, too
    check_folder(folder)
    remote = server.address("edge")
    place = folder if remote is None else f"{remote} {server.collection}"
    if server.qdrant == "edge" and FlatIndex.found(folder):
        raise InputError(f"{str(folder)!r} holds a FlatIndex. Name another folder by --output.")
    on_qdrant = server.qdrant is not None or (QdrantIndex.found(folder) and not FlatIndex.found(folder))
    if on_qdrant and (int8 or compact):
        raise InputError("--int8 and --compact are for a FlatIndex: Qdrant looks after its own files.")
    index: Index | None = None
    if data is None:
        index = Index.open(folder) if remote is None else server.connect()
    elif FlatIndex.found(folder):
        index = FlatIndex.open(folder)
    if int8 and isinstance(index, FlatIndex) and not index.int8 and not compact:
        raise InputError(f"{str(folder)!r} has no vectors in 8 bits. Add --compact to write it again with them.")
    if data is not None:
        aligner = trust.run_model(run, model)
        for name in columns or ():
            check_choice("columns", name, aligner.modalities)
        tables, total = _tables(data, split, columns, metadata, id_column, part_size, aligner, trust)
        first = next(tables, None)  # refused before anything is written
        if first is not None and not set(first.modalities) & set(aligner.modalities):
            aligner.towers.known(first)
        names = [] if first is None else [name for name in columns or first.modalities if name in aligner.modalities]
        if remote is not None:
            index = server.connect(model=aligner, modalities=names)
        elif on_qdrant:
            index = QdrantIndex.edge(folder, model=aligner, modalities=names)
        else:
            if index is None:
                FlatIndex.create(folder, dim=aligner.dim, model=aligner, int8=int8)
            index = FlatIndex.open(folder, model=aligner)
        _ = index.model  # one of another space is refused here
        if score == "validation":
            index.set_score(None)
        validation = _validation(model or model_of(run), data) if score in (None, "validation") else []
        done = index_tables(
            index,
            aligner.to(device()),
            chain([first] if first is not None else [], tables),
            columns=columns,
            metadata=metadata or (),
            replace=replace,
            validation=validation,
            batch_size=batch_size,
            reading=reading,
            total=total,
        )
        notes = {"replaced": done.replaced, "were there already": done.kept, "had nothing to embed": done.empty}
        note = "".join(f", {count} {what}" for what, count in notes.items() if count)
        if isinstance(index, QdrantIndex):
            index.optimize()
        console.print(f"{place}: {done.added} items added{note}; {len(index)} in all, of {', '.join(index.modalities)}")
        if metadata and done.kept:
            console.print("Items that were there already keep the metadata that they had; --replace writes them anew.")
        warn_unreadable(done.broken)
        if score in (None, "validation"):
            console.print(f"score {_chosen(index, done, bool(validation))}")
    assert index is not None
    if delete:
        console.print(f"{place}: {index.delete(delete)} items deleted; {len(index)} remain")
    if score is not None and score != "validation":
        index.set_score(score)
        console.print(f"score {score}, as typed, where a search names none")
    if compact and isinstance(index, FlatIndex):
        index.compact(int8=int8 or None)
        console.print(f"{place}: compact, {len(index.segments)} segments")
    if diagnose:
        console.print(index.diagnose().sheet().rich())
    if isinstance(index, QdrantIndex):
        index.close()


def _tables(
    data: str,
    split: str | None,
    columns: list[str] | None,
    metadata: list[str] | None,
    id_column: str,
    part_size: int,
    aligner: Aligner,
    trust: Trust,
) -> tuple[Iterator[Table], int | None]:
    """The table part by part, and how many rows it has, where that is known."""
    raw = [*(name for name in aligner.raw_modalities() if columns is None or name in columns), *(metadata or ())]
    raw = [name for name in raw if name not in ("split", "item")]
    every = None if columns is None else [*columns, *(name for name in raw if name not in columns)]
    options: dict[str, Any] = {"columns": every, "raw": raw, "id_column": id_column, "media_root": trust.media_root}
    if split is None:
        return stream(data, part_size, **options), length(data)
    whole = load(data, split=split, **options)
    return (whole[start : start + part_size] for start in range(0, len(whole), part_size)), len(whole)


def _validation(model: str, data: str) -> list[str]:
    """The ids of the items that a model's run was validated on; none where they may name other items in this table.

    Rows without names are numbered, in every table: those of one by another name are other items.
    """
    ids = split_ids(model, "validation")
    if not all(name.isdecimal() for name in ids):
        return ids
    trained = run_settings(model, "data")
    return ids if trained and Path(trained["data"]).name == Path(data).name else []


def _chosen(index: Index, done: Indexed, known: bool) -> str:
    """The score of searches that name none, and why."""
    if done.choice is not None:
        return str(done.choice)
    if index.score_is_set:
        return f"{index.score}, as it was set"
    why = (
        "the index has none of the run's validation items" if known else "no validation items of a run are known for this table"
    )
    return f"{index.score}: {why}, which choose another where it is better"
