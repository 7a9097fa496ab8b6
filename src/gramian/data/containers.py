"""How long a file of audio or video says it is, for decoders read one that is cut off up to the cut and do not say so."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["declared_size", "ogg_links"]


def declared_size(file: BinaryIO) -> int:
    """The bytes that a file must have by its own account; 0 where it gives none.

    WAV, AVI, AIFF, AU, CAF and ASF (WMA, WMV) give it with their data, MP4 in boxes, Matroska in its segment, Ogg in pages, MP3
    in a Xing header, GIF and APNG by a mark at their end; MPEG streams, ADTS and what was written to a pipe do not.
    """
    head = file.read(24).ljust(24, b"\0")
    file.seek(0)
    if head[:4] in _CHUNKS:
        return _data_end(file, *_CHUNKS[head[:4]])
    if head[:4] == b"\x1aE\xdf\xa3":
        return _segment_end(file)
    if head[:4] == b"OggS":
        return max((end for _, end in ogg_links(file)), default=0)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _box_end(file)
    if head[:4] == b".snd":
        start, size = struct.unpack_from(">II", head, 4)
        return start + size if size < _LIMIT else 0
    if head[:4] == b"riff":  # W64
        return int.from_bytes(head[16:24], "little")
    if head[:4] == b"0&\xb2u":
        return _asf_end(file)
    if head[:4] == b"GIF8":
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 64))
        return size if file.read().rstrip(b"\0\r\n").endswith(b";") else size + 1
    if head[:4] == b"\x89PNG":
        return _png_end(file)
    return _xing_end(file)


_LIMIT = 0x7FFF0000
"""Programs that do not know a size when they write it write a larger one."""

_HEADER = 64
"""Some programs count the header of a WAV file among its data."""

_PARTS = 2**19
"""A file of more parts (an hour of Ogg has some ten thousand) is not followed to its end."""


def _at(file: BinaryIO, place: int, length: int) -> bytes:
    """What is at a place of the file; empty behind its end."""
    try:
        file.seek(place)
    except (OSError, OverflowError, ValueError):  # further than files may be long
        return b""
    return file.read(length)


_CHUNKS = {b"RF64": (12, "<4sI"), b"RIFF": (12, "<4sI"), b"RIFX": (12, ">4sI"), b"FORM": (12, ">4sI"), b"caff": (8, ">4sQ")}
"""Files of chunks: where the first begins, and the header of each: its name and size."""


def _data_end(file: BinaryIO, at: int, form: str) -> int:
    """The end of the data; what lies behind them is an index, or tags."""
    length = struct.calcsize(form)
    limit = 2**63 if form.endswith("Q") else _LIMIT
    large = 0
    for _ in range(_PARTS):
        header = _at(file, at, length)
        if len(header) < length:
            break
        name, size = struct.unpack(form, header)
        at += length
        if name == b"LIST":
            name = file.read(4)
        if name == b"ds64":  # of RF64
            large = int.from_bytes(file.read(16)[8:], "little")
        if name in (b"data", b"SSND", b"movi"):
            size = size if size < limit else large
            slack = 0 if name == b"movi" else _HEADER
            return at + size - slack if size else 0
        at += size + (size % 2 if form.endswith("I") else 0)
    return 0


def _box_end(file: BinaryIO) -> int:
    """The end of the last box of MP4 that matters."""
    at = end = 0
    for _ in range(_PARTS):
        head = _at(file, at, 16)
        if len(head) < 8 or not head[4:8].isalpha():
            break
        size = int.from_bytes(head[:4])
        if size == 1:
            size = int.from_bytes(head[8:])
        if size < 8:  # 0: to the end of the file
            break
        at += size
        if head[4:8] in (b"moov", b"moof", b"mdat"):
            end = at
    return end


def _segment_end(file: BinaryIO) -> int:
    file.seek(4)
    header = _number(file)
    if _at(file, file.tell() + header, 4) != b"\x18S\x80g":
        return 0
    size = _number(file)
    return file.tell() + size if size else 0


def _number(file: BinaryIO) -> int:
    """A size of Matroska, whose first bits tell its length; 0 for an unknown one."""
    first = int.from_bytes(file.read(1))
    more = 8 - first.bit_length()
    size = int.from_bytes(bytes([first & (127 >> more)]) + file.read(more)) if first else 0
    return 0 if size == 2 ** (7 * more + 7) - 1 else size


def _asf_end(file: BinaryIO) -> int:
    """The end of its second object, the data."""
    at = 0
    for _ in range(2):
        size = int.from_bytes(_at(file, at + 16, 8), "little")
        at += size
    return at if size else 0


def _png_end(file: BinaryIO) -> int:
    at = 8
    for _ in range(_PARTS):
        header = _at(file, at, 8)
        at += 12 + int.from_bytes(header[:4])
        if header[4:] in (b"IEND", b""):
            break
    return at


def _xing_end(file: BinaryIO) -> int:
    at, tag = 0, file.read(10)
    for _ in range(_PARTS):
        if tag[:3] != b"ID3" or len(tag) < 10:
            break
        at += 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(tag[6:]))
        tag = _at(file, at, 10)
    frame = (tag + file.read(64)).ljust(74, b"\0")
    mark = max(frame.find(b"Xing", 4, 44), frame.find(b"Info", 4, 44))
    if frame[0] != 255 or mark < 0 or not frame[mark + 7] & 2:  # no bytes given
        return 0
    where = mark + (12 if frame[mark + 7] & 1 else 8)
    return at + int.from_bytes(frame[where : where + 4])


def ogg_links(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Where each link of a chained Ogg file begins, and where its last page ends, which may be behind the end of the file."""
    start = at = 0
    is_beginning = True
    for _ in range(_PARTS):
        page = _at(file, at, 27)
        if page[:4] != b"OggS":
            break
        page = page.ljust(27, b"\0")
        if page[5] & 2 and not is_beginning:  # the first page of a stream, behind the data of another
            yield start, at
            start = at
        is_beginning = bool(page[5] & 2)
        at += 27 + page[26] + sum(file.read(page[26]))
    if at > start:
        yield start, at
