"""The public retrieval sets as tables: annotations as their authors distribute them, and media files of one's own.

A clip is found by its exact name: `video1` is never `video10`. Nothing is downloaded, and no file is changed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from gramian.data.content import Unreadable, chosen_track, open_container, open_recording
from gramian.data.media import MEDIA
from gramian.data.sets import annotated as formats
from gramian.data.sets.annotated import Entry, Format, read_annotations
from gramian.data.table import Table
from gramian.errors import InputError, check_choice, listing, require
from gramian.files import atomic
from gramian.sheets import Sheet, progress_bar

__all__ = ["CORPORA", "LEFT_OUT", "Captions", "Collected", "Corpus", "Gallery", "collect", "whole"]

Captions: TypeAlias = Literal["first", "all"]
"""A row per item with all its captions in one cell, of which evaluation reads the first and training draws one; or a row per
caption."""

Gallery: TypeAlias = Literal["all", "released"]
"""All items of the test split, or those that have audio, which are the gallery of the papers' figures."""

LEFT_OUT = "-left-out"
"""What follows the name of a split whose items are not in the gallery: no command reads them, but they are counted."""


def whole(table: Table, split: str) -> int:
    """How many different items a split of a table has, or "all" of it, with those that are left out of the gallery."""
    items = table.item_ids or table.ids
    if split == "all" or table.split is None:
        return len(set(items))
    return len({item for item, name in zip(items, table.split, strict=True) if name in (split, split + LEFT_OUT)})


def _itself(name: str) -> tuple[str, ...]:
    """A file has the name of its item alone."""
    return (name,)


def _without_ending(name: str) -> str:
    """The name of a file without the ending of media, if it has one: ids hold dots, too."""
    return name[: -len(_ending(name))] if _ending(name) else name


def _ending(name: str) -> str:
    ending = Path(name).suffix
    return ending if ending.lower() in _KIND_OF else ""


_KIND_OF: Mapping[str, Literal["video", "audio"]] = {
    **dict.fromkeys(MEDIA["video"].endings.split(), "video"),
    **dict.fromkeys(MEDIA["audio"].endings.split(), "audio"),
}


@dataclass(frozen=True)
class Corpus:
    """A public set.

    Attributes:
        about: what it is, in a line.
        formats: of its annotation files.
        stems: id → the names that its media files may have, the likeliest first.
        stem: the name of a file → what identifies its item; without the ending of media by default.
        kinds: of its media.
        splits: a split of the files → what it is in retrieval, where that differs.
        published: the test items in the papers' galleries, where that is known.
        labelled: whether its texts are the names of classes, which then also stand in a column "label".
    """

    about: str
    formats: tuple[Format, ...] = ()
    stems: Callable[[str], tuple[str, ...]] = _itself
    stem: Callable[[str], str] = _without_ending
    kinds: tuple[Literal["video", "audio"], ...] = ("video", "audio")
    splits: Mapping[str, str] = field(default_factory=dict)
    published: int | None = None
    labelled: bool = False


def _audiocaps_stems(name: str) -> tuple[str, ...]:
    """`<id>_100.000_110.000`, `<id>_100` or `<id>`; the id of a video has eleven characters, and may hold an underscore."""
    match = re.fullmatch(r"(.{11})_(\d+)(?:\.\d+)?(?:_\d+(?:\.\d+)?)?", name)
    return (name, f"{match[1]}_{match[2]}", match[1]) if match else (name,)


CORPORA: Mapping[str, Corpus] = {
    "msrvtt": Corpus(
        "MSR-VTT: 10,000 clips; the usual gallery is a list of 1,000",
        (formats.msrvtt_csv, formats.msrvtt_json),
        published=884,
    ),
    "didemo": Corpus(
        "DiDeMo: videos of Flickr, and the sentences about one of them as a paragraph",
        (formats.didemo_json,),
        stems=lambda name: (name.partition(".")[0],),
        stem=lambda name: name.partition(".")[0],
        published=1003,
    ),
    "activitynet": Corpus(
        "ActivityNet Captions: long videos and paragraphs; its validation videos are the gallery",
        (formats.activitynet_json,),
        splits={"validation": "test"},
        published=4917,
    ),
    "vatex": Corpus("VATEX: clips of ten seconds with ten captions", (formats.vatex_json,), published=431),
    "audiocaps": Corpus(
        "AudioCaps: ten seconds of sound with captions", (formats.audiocaps_csv,), stems=_audiocaps_stems, published=729
    ),
    "vggsound": Corpus("VGGSound: clips of ten seconds with a label", (formats.vggsound_csv,), published=5000, labelled=True),
    "youcook2": Corpus(
        "YouCook2: the steps of recipes; its validation steps are the gallery",
        (formats.youcook2_json,),
        splits={"validation": "test"},
    ),
    "clotho": Corpus("Clotho: sounds with five captions", (formats.clotho_csv,), kinds=("audio",)),
}


@dataclass(frozen=True)
class Collected:
    """A set as a table of raw cells.

    Attributes:
        name: of the set.
        columns: "id", "item", "text", "video", "audio", "subtitle" and "split", of n cells, "label" of a set of classes; None
            where missing.
        media: the folders outside of the table's own that its cells name files in.
        notes: what the reader should know, a sentence each.
        counts: split → what is counted → items.
    """

    name: str
    columns: dict[str, list[Any]]
    media: tuple[Path, ...]
    notes: tuple[str, ...]
    counts: dict[str, Counter[str]]

    def sheet(self) -> Sheet:
        """A row per split: what is there, missing and silent."""
        header = ("split", "items", "captions", *CORPORA[self.name].kinds, "subtitle", "without media", "silent")
        rows = tuple((split, *(str(count[name]) for name in header[1:])) for split, count in self.counts.items())
        return Sheet(self.name, header, rows, " ".join(self.notes))

    def save(self, path: Path) -> None:
        """Write the table as parquet, whole or not at all.

        Raises:
            InputError: pyarrow is not installed.
        """
        require("pyarrow")
        import pyarrow as pa
        import pyarrow.parquet as pq

        arrays = {}
        for name, column in self.columns.items():
            lists = any(isinstance(cell, list) for cell in column)
            arrays[name] = pa.array(column, pa.large_list(pa.large_string()) if lists else pa.large_string())
        with atomic(path) as partial:
            pq.write_table(pa.table(arrays), partial)


def collect(
    name: str,
    annotations: Sequence[str],
    media: Sequence[Path],
    output: Path,
    *,
    gallery: Gallery = "all",
    captions: Captions = "first",
    progress: bool = False,
) -> Collected:
    """A set as a table: what its annotation files say, and the media files that are there.

    An item's audio is the audio file of its name or else the sound of its video. A video without sound is silent.

    Args:
        name: one of `CORPORA`.
        annotations: files; see `read_annotations`.
        media: folders, which are searched with all folders in them.
        output: where the table will lie; media in that folder are named relative to it.
        gallery: "released" leaves test items without audio out of the gallery, as the papers do.
        captions: "first" or "all"; see `Captions`.
        progress: show a progress bar where videos are opened to see if they have sound.

    Returns:
        The table, with the items of all splits in the order of the files.

    Raises:
        InputError: a file that cannot be read, an item in two splits, no media that belong to any item.
    """
    corpus = CORPORA[check_choice("name", name, CORPORA)]
    check_choice("gallery", gallery, get_args(Gallery))
    check_choice("captions", captions, get_args(Captions))
    if not annotations:
        raise InputError(f"`annotations` must name the files of {name}, as its authors distribute them; got none.")
    if not media:
        raise InputError(f"`media` must name the folders with the files of {name}; got none.")
    entries, unlisted = _merged([read_annotations(source, corpus.formats) for source in annotations], corpus)
    found, clashes = _index(media, corpus)
    paths = _matched(entries, found, corpus)
    if not any(paths.values()):
        expected = next(iter(corpus.stems(next(iter(entries)))))
        got = next((stem for stems in found.values() for stem in stems), None)
        there = f"the first file there is of {got!r}" if got else "there are no media files"
        raise InputError(f"`media` has no file that belongs to an item: expected {expected!r} with an ending; {there}.")
    silent = _add_sound(paths, progress) if "audio" in corpus.kinds and "video" in corpus.kinds else set()
    home = output.resolve().parent
    outside: dict[Path, None] = {}

    def cell(path: Path | None) -> str | None:
        if path is None:
            return None
        real = path.resolve()
        if real.is_relative_to(home):
            return real.relative_to(home).as_posix()
        root = next(folder for folder in media if path.is_relative_to(folder)).resolve()
        outside.setdefault(root if real.is_relative_to(root) else real.parent)
        return str(real)

    columns: dict[str, list[Any]] = {column: [] for column in ("id", "item", "text", *corpus.kinds, "subtitle", "split")}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    several = captions == "first" and any(len(entry.texts) > 1 for entry in entries.values())
    for item, entry in entries.items():
        own = paths[item]
        split = str(entry.split)
        split += LEFT_OUT * (gallery == "released" and split == "test" and "audio" not in own)
        texts: list[Any] = list(entry.texts)
        if captions == "first":
            texts = [texts or None] if several else texts or [None]
        for number, text in enumerate(texts or [None]):
            row = {"id": item if len(texts) < 2 else f"{item}#{number}", "item": item, "text": text, "split": split}
            row |= {"subtitle": entry.subtitle} | {kind: cell(own.get(kind)) for kind in corpus.kinds}
            for column, value in row.items():
                columns[column].append(value)
        count = counts[split]
        count.update(["items", *own, *["subtitle"] * bool(entry.subtitle), *["without media"] * (not own)])
        count.update(["silent"] * (item in silent))
        count["captions"] += len(entry.texts)
    if corpus.labelled:
        columns["label"] = [text[0] if isinstance(text, list) else text for text in columns["text"]]
    notes = _notes(corpus, counts, entries, gallery, unlisted, clashes)
    return Collected(name, columns, tuple(outside), notes, dict(counts))


def _merged(files: Iterable[Sequence[Entry]], corpus: Corpus) -> tuple[dict[str, Entry], int]:
    """Item → what all files say of it; and how many items no list names, which are left out where there is a list.

    Within a file, captions are added up. A later file fills in what earlier ones do not say: a file of all items comes last.
    """
    every: dict[str, Entry] = {}
    unlisted = 0
    ordered = sorted(files, key=lambda entries: not entries[0].listed)
    for entries in ordered:
        own: dict[str, Entry] = {}
        for entry in entries:
            entry = replace(entry, split=corpus.splits.get(str(entry.split), entry.split))
            name = entry.id.strip()
            before = own.get(name)
            own[name] = entry if before is None else replace(before, texts=before.texts + entry.texts)
        lists = ordered[0][0].listed
        conflicts = []
        for name, entry in own.items():
            before = every.get(name)
            if before is None:
                if lists and not entry.listed:
                    unlisted += 1
                    continue
                every[name] = entry
                continue
            if entry.listed and before.split != entry.split:
                conflicts.append(name)
            subtitle = entry.subtitle if before.subtitle is None else before.subtitle
            every[name] = replace(before, texts=before.texts or entry.texts, subtitle=subtitle)
        if conflicts:
            raise InputError(f"`annotations` put {len(conflicts)} items into two splits ({listing(conflicts)}). Name one list.")
    if not any(entry.texts for entry in every.values()):
        raise InputError("`annotations` hold no captions. Add the file that has them.")
    return every, unlisted


def _index(media: Sequence[Path], corpus: Corpus) -> tuple[dict[str, dict[str, Path]], list[str]]:
    """Kind → stem → file; and the stems of which a kind has several files, the first of which is taken."""
    found: dict[str, dict[str, Path]] = {kind: {} for kind in corpus.kinds}
    clashes = []
    for folder in media:
        if not folder.is_dir():
            raise InputError(f"`media` must be existing folders; {str(folder)!r} is none.")
        for path in sorted(folder.rglob("*")):
            kind = _KIND_OF.get(path.suffix.lower(), "video" if path.suffix in ("", ".") else "")
            if path.name.startswith(".") or kind not in found or not path.is_file():
                continue
            stem = corpus.stem(path.name)
            if found[kind].setdefault(stem, path) != path:
                clashes.append(stem)
    return found, clashes


def _matched(
    entries: Mapping[str, Entry], found: Mapping[str, Mapping[str, Path]], corpus: Corpus
) -> dict[str, dict[str, Path]]:
    """Item → kind → its file. A name that could be of several items is that of none."""
    stems = {item: tuple(dict.fromkeys(corpus.stems(item))) for item in entries}
    claims = Counter(stem for names in stems.values() for stem in names)
    return {
        item: {
            kind: path
            for kind in corpus.kinds
            if (path := next((found[kind][stem] for stem in names if claims[stem] == 1 and stem in found[kind]), None))
        }
        for item, names in stems.items()
    }


def _add_sound(paths: Mapping[str, dict[str, Path]], progress: bool) -> set[str]:
    """Give each item without an audio file the sound of its video; return those whose video has none."""
    mute = [item for item, own in paths.items() if "video" in own and "audio" not in own]
    silent = set()
    if mute:
        require("av")
    with progress_bar(progress) as bar:
        task = bar.add_task("looking for sound", total=len(mute))
        for item in mute:
            try:
                with open_container(open_recording(paths[item]["video"]), "video") as container:
                    chosen_track(container, "audio")
                paths[item]["audio"] = paths[item]["video"]
            except Unreadable:
                silent.add(item)
            bar.advance(task)
    return silent


def _notes(
    corpus: Corpus,
    counts: Mapping[str, Counter[str]],
    entries: Mapping[str, Entry],
    gallery: Gallery,
    unlisted: int,
    clashes: Sequence[str],
) -> tuple[str, ...]:
    notes = []
    if "test" in counts:
        test, outside = counts["test"]["items"], counts.get("test" + LEFT_OUT, Counter())["items"]
        known = f" (the papers' gallery: {corpus.published:,})" if corpus.published else ""
        notes.append(f"Gallery: {test:,} of {test + outside:,} test items{known}.")
        if gallery == "released" and corpus.published and test != corpus.published:
            notes.append("It is not the papers': their figures are not comparable item by item.")
    if unlisted:
        notes.append(f"{unlisted:,} items that no list names are left out.")
    if clashes:
        notes.append(f"{len(clashes):,} names have several files of one kind ({listing(clashes)}): the first is taken.")
    bare = sum(not entry.texts for entry in entries.values())
    if bare:
        notes.append(f"{bare:,} items have no caption.")
    return tuple(notes)
