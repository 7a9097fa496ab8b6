"""Data sets on the hub, as Hugging Face datasets reads them: files of their own repository, in formats that only hold data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gramian.data.arrow import Column, plain
from gramian.data.content import Folder
from gramian.data.formats import Part, Wanted, in_split
from gramian.data.media import MEDIA
from gramian.errors import InputError, first_line, require

__all__ = ["hub_folder", "read_hub"]

_FORMATS = ("arrow", "csv", "json", "parquet", "text", "webdataset", "imagefolder", "audiofolder", "videofolder", "cache")
"""Readers of datasets that open no file but the one they are given. (Links in HDF5 lead to any file of this machine.)"""

_CARDS = ("README.md", ".huggingface.yaml")
"""Files of a repository whose `configs` say which files are the data."""


def hub_folder(source: str, roots: Sequence[Path]) -> Folder:
    """Where the paths in a hub data set's cells may lead: to its own files in the caches of huggingface_hub and datasets.

    Args:
        source: owner/name.
        roots: folders of the user's that they may lead to as well.

    Returns:
        The folder.

    Raises:
        InputError: datasets is not installed.
    """
    require("datasets")
    from datasets import config
    from huggingface_hub import constants

    own = Path(constants.HF_HUB_CACHE) / f"datasets--{source.replace('/', '--')}"
    return Folder.of(own, (*roots, Path(config.DOWNLOADED_DATASETS_PATH)))


def read_hub(source: str, revision: str | None, wanted: Wanted, streaming: bool) -> Iterator[Part]:
    """The rows of a data set on the hub, with media as bytes or paths.

    Args:
        source: owner/name.
        revision: the newest by default.
        wanted: the names of its columns → those to read.
        streaming: read the files as they arrive, without a copy on the disk.

    Yields:
        Its rows, split by split; with a column "split" if there are several.

    Raises:
        InputError: it cannot be read, or its configuration points to files elsewhere.
    """
    require("datasets")
    import datasets
    import pyarrow as pa

    with _quiet(), _retold(source):
        revision, configs = _configs(source, revision)
        strange = list(_strange(configs))
        if strange:
            raise InputError(f"{source!r} is refused: its card points out of the repository ({strange[0]!r:.80}).")
        builder = datasets.load_dataset_builder(source, revision=revision)
        _check(source, builder)
        if streaming:
            loaded = builder.as_streaming_dataset()
        else:
            builder.download_and_prepare()
            loaded = builder.as_dataset()
        parts = loaded if isinstance(loaded, Mapping) else {"train": loaded}
        for split, rows in parts.items():
            rows = _undecoded(rows)
            if streaming:
                tables = rows.with_format("arrow").iter(batch_size=1024)
            else:
                tables = iter([rows.with_format("arrow")[:] if rows._indices is not None else rows.data.table])
            for table in tables:
                names = tuple(table.column_names)
                table = pa.table(table)
                columns: dict[str, Column] = {name: plain(table.column(name)) for name in wanted(names)}
                part = Part(columns, table.num_rows, names, source)
                yield in_split(part, split if len(parts) > 1 else None)


def _configs(source: str, revision: str | None) -> tuple[str | None, list[Any]]:
    """The commit that is read, and what its cards say."""
    import yaml
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.repocard import metadata_load

    with suppress(OfflineModeIsEnabled):  # then it is read from the cache, as it was checked
        revision = HfApi().dataset_info(source, revision=revision).sha
    configs = []
    for name in _CARDS:
        with suppress(EntryNotFoundError):
            card = hf_hub_download(source, name, repo_type="dataset", revision=revision)
            configs.append(
                metadata_load(card) if name.endswith(".md") else yaml.safe_load(Path(card).read_text(encoding="utf-8"))
            )
    return revision, configs


def _strange(value: Any, files: bool = False, seen: set[tuple[int, bool]] | None = None) -> Iterator[str]:
    """What stands under `data_files` and `data_dir` of a card, at any depth, and is no plain path of its repository."""
    seen = set() if seen is None else seen
    if isinstance(value, str):
        if files and ("://" in value or "::" in value or value.startswith(("/", "~", "\\")) or ".." in value.split("/")):
            yield value
    elif isinstance(value, Mapping | list) and (id(value), files) not in seen:  # aliases of YAML make one value many
        seen.add((id(value), files))
        entries = value.items() if isinstance(value, Mapping) else ((None, each) for each in value)
        for name, each in entries:
            yield from _strange(each, files or name in ("data_files", "data_dir"), seen)


def _check(source: str, builder: Any) -> None:
    """Check what datasets made of the card, whatever that says."""
    kinds = {cls.__module__.split(".")[2] for cls in type(builder).__mro__ if cls.__module__.startswith("datasets.packaged_")}
    if not kinds & set(_FORMATS):
        held = ", ".join(sorted(kinds)) or "no known format"
        raise InputError(f"{source!r} holds {held}; it must hold one of {', '.join(_FORMATS)}.")
    files = [str(file) for part in (builder.config.data_files or {}).values() for file in part]
    strange = [file for file in files if not file.startswith(f"hf://datasets/{source}@")]
    if strange:
        raise InputError(f"{source!r} is refused: it points out of its repository ({strange[0]!r:.80}).")


def _undecoded(rows: Any) -> Any:
    """The same data set with media as bytes or paths; `__key__` of a webdataset named `id`."""
    features = {medium.feature for medium in MEDIA.values()}
    for name, feature in dict(rows.features or {}).items():
        if type(feature).__name__ in features and feature.decode:
            rows = rows.cast_column(name, type(feature)(decode=False))
    if "__key__" in (rows.column_names or ()) and "id" not in rows.column_names:
        rows = rows.rename_column("__key__", "id")
    return rows


@contextmanager
def _retold(source: str) -> Iterator[None]:
    """Errors of Hugging Face datasets in our own words."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # it fails in many ways
        reason = first_line(error.__cause__ or error) or type(error).__name__
        raise InputError(f"{source!r} cannot be read as a hub data set: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hugging Face datasets without its progress bars and messages."""
    import datasets

    shown, level = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what fails is reported by our own error
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()
