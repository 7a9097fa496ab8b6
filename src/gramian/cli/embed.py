"""`gramian embed`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from gramian.cli.shared import Checkpoint, Trust
from gramian.cli.terminal import console_of, warn_unreadable
from gramian.data import Reading, Table, load, stream
from gramian.embedding import check_output, embed_table
from gramian.errors import InputError, check_choices, check_number
from gramian.evaluation.released import known_subtitles
from gramian.model import Aligner, Towers

__all__ = ["embed"]


def embed(
    data: str,
    output: Path,
    model: str | None = None,
    split: str | None = None,
    columns: list[str] | None = None,
    labels: list[str] | None = None,
    batch_size: int | None = None,
    shard_size: int = 4096,
    precision: Literal["no", "bf16", "fp16"] = "no",
    streaming: bool = False,
    checkpoint: Checkpoint = Checkpoint(),
    trust: Trust = Trust(),
    reading: Reading = Reading(),
) -> None:
    """Embed a table: with a trained Aligner into its shared space, or with towers into the features that they give.

    A folder is written shard by shard, with a manifest; a killed run resumes where it stopped when it is started again, and
    several processes (torchrun, accelerate launch) share the work. `gramian train --data FOLDER` reads such a folder.

    Args:
        data: the table: "stamps", a file, a folder or a hub id.
        output: a folder for shards; or one file, .parquet or .safetensors. One vector per modality, empty where missing.
        model: a saved Aligner: a folder or a hub id.
        split: the split to embed; all by default.
        columns: the modalities to embed; all by default.
        labels: columns of text or numbers to keep beside the vectors, such as a class for `gramian evaluate --classify`.
        batch_size: items per forward pass; by default 4,096 of features, 32 with raw cells.
        shard_size: items per file of the folder.
        precision: of the forward pass.
        streaming: read the table as it arrives, without a copy on the disk; the output must be a folder.
        checkpoint: in place of `model`.
        trust: towers, in place of `model` too, and what they may do.
        reading: of raw cells.

    Raises:
        InputError: none of `model`, `released` and `towers`; an output or options that do not go together; a table that
            cannot be read, or has no cell that can.
    """
    console = console_of()
    if model is None and trust.towers is None and checkpoint.released is None:
        raise InputError("one of `model` and `towers` must be given: an Aligner, or encoders for its features.")
    check_output(output, data, streamed=streaming)
    for argument, value in (("shard_size", shard_size), ("batch_size", batch_size)):  # before a model is read for nothing
        check_number(argument, value, "[1, inf)", integer=True, optional=argument == "batch_size")
    if streaming and split is not None:
        raise InputError("`split` cannot be taken from a stream. Embed all of it, and pick the split afterwards.")
    loaded = checkpoint.load(columns, model=model, towers=trust.towers)
    embedder: Aligner | Towers
    if loaded is not None:
        embedder = loaded.aligner
    elif model is not None:
        embedder = trust.aligner(model)
    else:
        embedder = Towers(trust.built(columns))
    every = embedder if isinstance(embedder, Towers) else embedder.towers
    check_choices("columns", columns or (), every.modalities)
    raw = [name for name in every.raw_modalities() if columns is None or name in columns]
    names = columns or (list(every.modalities) if isinstance(embedder, Towers) else None)
    items: Table | Iterator[Table]
    if streaming:
        items = stream(data, shard_size, columns=names, raw=raw, labels=labels or (), media_root=trust.media_root)
    else:
        table = load(data, split=split, columns=names, raw=raw, labels=labels or (), media_root=trust.media_root)
        items = every.known(table)
        if loaded is not None:
            items = known_subtitles(items)
    written = embed_table(
        embedder,
        items,
        output,
        source=data,
        columns=columns,
        batch_size=batch_size,
        shard_size=shard_size,
        reading=reading,
        precision=precision,
    )
    console.print(f"wrote {output}: {written}")
    warn_unreadable(written.broken)
