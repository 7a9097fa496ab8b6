"""Annotation files of the public retrieval sets, as their authors distribute them: what each says of an item.

A JSON list of objects is the form of VAST, GRAM and PMRL and is read for every set; each set's own formats are beside it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gramian.data.sources import SPLITS
from gramian.errors import InputError, first_line, shown
from gramian.files import read_json

__all__ = ["Entry", "Format", "read_annotations"]


@dataclass(frozen=True)
class Entry:
    """What one record of a file says of an item.

    Attributes:
        id: of the item.
        texts: its captions; several records of one file may each have some.
        split: "train", "validation" or "test"; None where the record does not say.
        subtitle: what is spoken; "" where nothing is, None where the file has no subtitles.
        listed: whether the file says by itself which items a split has. Records of a file of all items, as MSRVTT_data.json,
            only add to what a list names, where there is a list.
    """

    id: str
    texts: tuple[str, ...] = ()
    split: str | None = None
    subtitle: str | None = None
    listed: bool = True


Format = Callable[[Any], Iterator[Entry]]
"""The content of a file, rows of a CSV or data of a JSON, to its entries. KeyError, TypeError and ValueError: it is another."""

_WORDS: Mapping[str, str] = {
    **SPLITS,
    "training": "train",
    "trainval": "train",
    "development": "train",  # of Clotho
    "testing": "test",
    "evaluation": "test",
}
"""A word in the name of a file → its split."""

_IDS = ("clip_id", "video_id", "image_id", "image", "id")
_TEXTS = ("desc", "caption", "vast_cap")


def read_annotations(source: str, formats: Sequence[Format]) -> list[Entry]:
    """The entries of one file.

    Args:
        source: its path, or SPLIT=PATH for a file that does not say which split it is.
        formats: the set's own, tried in order; then the authors' JSON.

    Returns:
        At least one entry, each with a split.

    Raises:
        InputError: no such file, one that none of the formats fits, or one whose split is not known.
    """
    split, path = _split_and_path(source)
    content = _content(path)
    for read in (*formats, _authors):
        try:
            entries = list(read(content))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            continue
        if entries:
            break
    else:
        raise InputError(f"`annotations` {str(path)!r} is in none of the formats of this set: {_start(content)}.")
    try:
        "".join(part for one in entries for part in (one.id, *one.texts, one.subtitle or "", one.split or "")).encode()
    except UnicodeEncodeError:
        raise InputError(f"`annotations` {str(path)!r} holds half of a surrogate, which is no Unicode text. Fix it.") from None
    split = split or _split_of_name(path)
    done = [
        Entry(one.id, one.texts, SPLITS.get(one.split or "", one.split) or split, one.subtitle, one.listed) for one in entries
    ]
    if any(one.split is None for one in done):
        raise InputError(
            f"`annotations` {str(path)!r} does not say which split it is. Write test={path}, train={path} or validation={path}."
        )
    return done


def _split_and_path(source: str) -> tuple[str | None, Path]:
    word, equals, rest = source.partition("=")
    return (SPLITS[word], Path(rest)) if equals and word in SPLITS else (None, Path(source))


def _split_of_name(path: Path) -> str | None:
    """The split that a word of a file's name says; None if none does, or several."""
    words = re.findall(r"[a-z]+", path.name.lower().removesuffix(path.suffix.lower()))
    splits = {_WORDS[word] for word in words if word in _WORDS}
    return splits.pop() if len(splits) == 1 else None


def _content(path: Path) -> Any:
    """Rows of a CSV, each a list of texts, or the data of a JSON."""
    try:
        if path.suffix.lower() == ".json":
            return read_json(path)
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"`annotations` {str(path)!r} is not in UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    except InputError as error:
        raise InputError(f"`annotations` {str(path)!r} cannot be read: {error}") from None
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise InputError(f"`annotations` must be files; {str(path)!r} {reason}.") from None
    if path.suffix.lower() not in (".csv", ".txt"):
        raise InputError(f"`annotations` must be .json or .csv files; got {str(path)!r}.")
    first = text.partition("\n")[0]
    lines = io.StringIO(text, newline="")  # a caption may hold what other functions take for the end of a line
    try:
        return [row for row in csv.reader(lines, delimiter=";" if first.count(";") > first.count(",") else ",") if row]
    except csv.Error as error:
        raise InputError(f"`annotations` {str(path)!r} cannot be read as CSV: {first_line(error)}.") from None


def _start(content: Any) -> str:
    """How a file begins, for errors."""
    if isinstance(content, dict):
        return f"an object with {', '.join(map(str, list(content)[:5])) or 'nothing in it'}"
    return f"it begins with {shown(content[0])}" if isinstance(content, list) and content else f"it holds {shown(content)}"


def _records(rows: Any, *needed: str) -> Iterator[dict[str, str]]:
    """The rows of a CSV by the names in its first one, which must have those that are needed."""
    names = [name.strip() for name in rows[0]] if isinstance(rows[0], list) else []
    if not set(needed) <= set(names):
        raise ValueError("another header")
    yield from (dict(zip(names, row, strict=False)) for row in rows[1:])


def _list(value: Any) -> tuple[str, ...]:
    """A caption, or several, as texts."""
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("no text")
    return tuple(text for text in texts if text.strip())


def _authors(content: Any) -> Iterator[Entry]:
    """The JSON of VAST, GRAM and PMRL: an id and captions under one of several names, and perhaps a subtitle."""
    for record in content:
        name = record[next((key for key in _IDS if key in record), _IDS[0])]
        text: Any = next((record[key] for key in _TEXTS if key in record), [])
        subtitle = record.get("subtitle")
        yield Entry(str(name), _list(text), subtitle=None if subtitle is None else " ".join(_list(subtitle)).strip())


def msrvtt_csv(content: Any) -> Iterator[Entry]:
    """`MSRVTT_JSFUSION_test.csv`, with a sentence, or `MSRVTT_train.9k.csv`, which lists ids; commas or semicolons."""
    for record in _records(content, "video_id"):
        yield Entry(record["video_id"].strip(), _list(record.get("sentence") or []))


def msrvtt_json(content: Any) -> Iterator[Entry]:
    """`MSRVTT_data.json`: all clips, and twenty sentences for each."""
    texts: dict[str, list[str]] = {}
    for sentence in content["sentences"]:
        texts.setdefault(sentence["video_id"], []).extend(_list(sentence["caption"]))
    for video in content["videos"]:
        split = {"validate": "validation"}.get(video["split"], video["split"])
        yield Entry(video["video_id"], tuple(texts.get(video["video_id"], ())), split, listed=False)


def didemo_json(content: Any) -> Iterator[Entry]:
    """`{train,val,test}_data.json`: sentences about moments of a video, which are joined in the order of their median time."""
    moments: dict[str, list[tuple[float, str]]] = {}
    for record in content:
        middle = median(start + end for start, end in record["times"])
        moments.setdefault(record["video"].partition(".")[0], []).append((middle, record["description"].strip()))
    for name, sentences in moments.items():
        yield Entry(name, (" ".join(text for _, text in sorted(sentences, key=lambda each: each[0])),))


def activitynet_json(content: Any) -> Iterator[Entry]:
    """`{train,val_1,val_2}.json`: the sentences of a video, joined as they stand."""
    for name, record in content.items():
        yield Entry(name, (" ".join(record["sentences"]),))


def vatex_json(content: Any) -> Iterator[Entry]:
    """`vatex_*.json`: ten English captions of a clip."""
    for record in content:
        yield Entry(record["videoID"], _list(record["enCap"]))


def audiocaps_csv(content: Any) -> Iterator[Entry]:
    """`{train,val,test}.csv`: a row for each caption of ten seconds of a video."""
    for record in _records(content, "youtube_id", "start_time", "caption"):
        start = float(record["start_time"])
        yield Entry(f"{record['youtube_id']}_{start:.3f}_{start + 10:.3f}", _list(record["caption"]))


def vggsound_csv(content: Any) -> Iterator[Entry]:
    """`vggsound.csv`, without a header: id, second, label, split; or `test.csv`: the name of a file, label."""
    for row in content:
        if len(row) == 4:
            yield Entry(f"{row[0]}_{int(row[1]):06d}", _list(row[2]), row[3].strip())
        elif len(row) == 2 and row[0].endswith(".mp4"):
            yield Entry(row[0].removesuffix(".mp4"), _list(row[1]))
        else:
            raise ValueError("neither")


def youcook2_json(content: Any) -> Iterator[Entry]:
    """`youcookii_annotations_trainval.json`: the steps of a recipe, each a clip of its own."""
    subsets = {"training": "train", "testing": "test"}
    for name, record in content["database"].items():
        split = subsets.get(record["subset"], record["subset"])
        for step in record.get("annotations", ()):
            start, end = step["segment"]
            yield Entry(f"{name}_{start}_{end}", _list(step["sentence"]), split)


def clotho_csv(content: Any) -> Iterator[Entry]:
    """`clotho_captions_{development,validation,evaluation}.csv`: five captions of a recording."""
    for record in _records(content, "file_name", "caption_1"):
        captions = [text for name, text in record.items() if name.startswith("caption_")]
        yield Entry(record["file_name"].removesuffix(".wav"), _list(captions))
