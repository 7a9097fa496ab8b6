"""Options of several commands, written once: a parameter of a type in `SHARED` stands for its fields, as options."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gramian.data import Reading, Table, load
from gramian.data.released import TASKS, Release, TaskName
from gramian.data.sets.stamps import FOLDER, raw
from gramian.errors import InputError, renamed
from gramian.evaluation.report import REPORT
from gramian.files import read_json
from gramian.index import Index, QdrantIndex
from gramian.model import Aligner
from gramian.model.encoders.released.towers import VOCABULARY
from gramian.model.released import Released, load_released
from gramian.model.specs import Spec, build_towers
from gramian.model.towers import Tower

__all__ = ["SHARED", "Checkpoint", "Server", "Trust", "media_table", "model_of", "run_settings", "split_ids"]


def model_of(run: Path) -> str:
    """Where the model of a run is: its folder `aligner`, or itself, if it is an aligner."""
    return str(run / "aligner" if (run / "aligner").is_dir() else run)


@dataclass(frozen=True)
class Trust:
    """What may be read, and whose code may run.

    Attributes:
        towers: column → the encoder that reads its raw cells, in a YAML file; of a model only those of a class of your own that
            it was trained with.
        trust_code: let `towers` name classes of other modules, whose code then runs; typed, never in a file.
        media_root: folders outside of the table's own in which its cells, or items of an index, may name files; typed, never in
            a file.
    """

    towers: Mapping[str, Tower | Spec] | None = None
    trust_code: bool = False
    media_root: list[Path] | None = None

    def roots(self) -> list[Path]:
        """The folders of `media_root`.

        Raises:
            InputError: one that does not exist.
        """
        for root in self.media_root or ():
            if not root.is_dir():
                raise InputError(f"`media_root` must name existing folders; {str(root)!r} is none.")
        return self.media_root or []

    def built(self, columns: Sequence[str] | None = None) -> dict[str, Tower]:
        """The towers, of `columns` alone."""
        return build_towers(self.towers, columns, trust_code=self.trust_code)

    def aligner(self, model: str) -> Aligner:
        """A saved Aligner, with the towers."""
        return Aligner.from_pretrained(model, towers=self.built())

    def run_model(self, run: Path, model: str | None) -> Aligner:
        """The model of a run: that of its folder `aligner`, itself if it is an aligner, or another by its name.

        Raises:
            InputError: a run that does not exist, a model that cannot be read.
        """
        if model is None and not run.is_dir():
            raise InputError(f"`run` must be a folder that `gramian train` wrote; {str(run)!r} does not exist.")
        return self.aligner(model or model_of(run))

    def named_model(self, run: Path, model: str | None) -> Aligner | None:
        """The model that options name, or None for that of the index's run, which is read when it is needed."""
        return None if model is None and self.towers is None else self.run_model(run, model)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of others that a command may name.

    Attributes:
        released: a checkpoint as the authors of GRAM, PMRL or VAST published it, in place of a model or towers: a file, folder
            or hub id.
        task: the data set whose settings `released` is read with.
        release: whose checkpoint `released` is.
        vocabulary: the words of the BERT of `released`: vocab.txt, a folder or a hub id.
    """

    released: str | None = None
    task: TaskName | None = None
    release: Release = "gram"
    vocabulary: str = VOCABULARY

    def load(self, columns: list[str] | None, **others: object) -> Released | None:
        """The checkpoint, if one is named.

        Args:
            columns: the modalities that are used; those of the task by default. "depth" is of no task, and must be named.
            others: options that do not go with it, by name.

        Returns:
            What `load_released` gives; None without `released`.

        Raises:
            InputError: a checkpoint without a task, a task without a checkpoint, one of `others`, what cannot be loaded.
        """
        if self.released is None:
            if self.task is not None:
                raise InputError("`task` is for `released`, whose settings it names. Leave it out.")
            return None
        for name, value in others.items():
            if value is not None:
                raise InputError(f"`{name}` does not go with `released`. Leave one out.")
        if self.task is None:
            raise InputError(f"`released` needs the data set whose settings it is read with: --task {' or '.join(TASKS)}.")
        modalities = columns if columns is not None and "depth" in columns else None
        options: dict[str, Any] = {"release": self.release, "modalities": modalities, "vocabulary": self.vocabulary}
        with renamed(model="released", modalities="columns"):
            return load_released(self.released, self.task, **options)


@dataclass(frozen=True)
class Server:
    """A Qdrant server that a command may name. It is typed, never in a file, whose author would be sent the key.

    Attributes:
        qdrant: address of the server that holds the index, as http://host:6333. For `gramian index` also "edge": a new index of
            Qdrant Edge in the folder, instead of a FlatIndex.
        collection: of the server.
        qdrant_key: for the server; by default that of the variable QDRANT_KEY, which nobody sees in a list of processes.
    """

    qdrant: str | None = None
    collection: str = "gramian"
    qdrant_key: str | None = None

    def address(self, *others: str) -> str | None:
        """The address, if one is named.

        Args:
            others: what else may be typed in its place.

        Returns:
            The address, or None.

        Raises:
            InputError: it is no address, or a key or a collection without one.
        """
        if self.qdrant is not None and "://" in self.qdrant:
            return self.qdrant
        if self.qdrant is not None and self.qdrant not in others:
            choice = "".join(f"{other!r}, or " for other in others)
            raise InputError(f"`qdrant` must be {choice}an address such as http://host:6333; got {self.qdrant!r:.60}.")
        if self.qdrant_key is not None or self.collection != Server.collection:
            raise InputError("--collection and --qdrant-key are of a server: --qdrant http://host:6333.")
        return None

    def connect(self, **options: Any) -> QdrantIndex:
        """The index on the server; options as of `QdrantIndex.connect`."""
        return QdrantIndex.connect(str(self.qdrant), self.collection, key=self.key(), **options)

    def key(self) -> str | None:
        """The key, if there is one."""
        return self.qdrant_key or os.environ.get("QDRANT_KEY") or None

    def index(self, run: Path, model: str | None, trust: Trust) -> Index:
        """The index of a run that is to be searched: on the server, or in the run's folder.

        Args:
            run: with the model.
            model: another that embeds queries.
            trust: its towers.

        Returns:
            The index.

        Raises:
            InputError: an index or a server that cannot be used.
        """
        if self.address() is None:
            return Index.open(run, model=trust.named_model(run, model))
        if not run.is_dir():
            raise InputError(f"`run` must be a folder that `gramian train` wrote; {str(run)!r} does not exist.")
        own = (lambda: trust.run_model(run, None)) if (Path(model_of(run)) / "config.json").is_file() else None
        return self.connect(model=trust.named_model(run, model) or own)


SHARED = (Reading, Trust, Checkpoint, Server)


def split_ids(model: str, split: Literal["train", "validation"]) -> list[str]:
    """The ids of a split of the run that a model lies in, by the `splits.json` beside it; none where there is no such file."""
    try:
        return list(map(str, read_json(Path(model) / ".." / "splits.json")[split]))
    except (InputError, OSError, KeyError, TypeError):
        return []


def run_settings(model: str, *names: str) -> dict[str, str]:
    """What the report of `gramian train`, beside a model, says of its run; nothing where it does not say all that is named."""
    try:
        settings = read_json(Path(model) / ".." / REPORT, finite=False)["settings"]
        return {name: str(settings[name]) for name in names}
    except (InputError, OSError, KeyError, TypeError):
        return {}


def media_table(media: str, names: Sequence[str], roots: Sequence[Path] | None, columns: Sequence[str] | None = None) -> Table:
    """The raw cells that a page shows.

    Args:
        media: a table, or "stamps": the installed collection.
        names: columns of raw cells.
        roots: see `load`.
        columns: of the table; all by default.

    Returns:
        The table.
    """
    return raw(FOLDER) if media == "stamps" else load(media, columns=columns, raw=names, media_root=roots)
