"""Damaged input for every reader: each ends in an `InputError` or an `Unreadable`, within limits of time and memory.

    python tests/fuzz.py --count 100000            all readers in turn
    python tests/fuzz.py --reader png --first 700 --count 1    one input again

An input is a number: the reader, the sample and what is done to it follow from it. Damage knows the structure: checksums and
lengths that a decoder would stop at are made right again, and texts are damaged by tokens. Inputs are read in processes of
their own, a few thousand each, so that a crash of a decoder is a finding, too. `tests/test_fuzz.py` reads the first ones.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import resource
import struct
import subprocess
import sys
import tarfile
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from gramian.data import load, stream
from gramian.data.content import Unreadable
from gramian.data.media import MEDIA, Sampling
from gramian.errors import InputError

SECONDS, MEMORY = 30, 2 << 30
RAW = ("text", "captions", "word", "image", "png", "wav", "none")


@dataclass(frozen=True)
class Reader:
    """What is damaged, how, and what reads it.

    Attributes:
        samples: whole files.
        mend: makes checksums and lengths right again; half of the inputs are left as they are.
        ending: of a table's file; of media, their kind.
    """

    samples: Callable[[], list[bytes]]
    ending: str
    mend: Callable[[bytes, Random], bytes] = lambda data, _: data
    text: bool = False


def table() -> Any:
    import pyarrow as pa

    n = 12
    file = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table(
        {
            "id": [f"row {i}" for i in range(n)],
            "split": ["train"] * n,
            "v": pa.array([[float(i), 1.0] if i % 3 else None for i in range(n)], pa.list_(pa.float32())),
            "w": pa.array([[1, 2, 3]] * n, pa.list_(pa.int16(), 3)),
            "text": ["é", None, "", "x"] * 3,
            "captions": [["a", "b"], [], None] * 4,
            "word": pa.array(["u", None, "w"] * 4).dictionary_encode(),
            "image": pa.array([{"bytes": b"ab", "path": None}] * n, file),
            "none": pa.nulls(n),
        }
    )


def parquets() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = []
    for options in ({"compression": "none"}, {"compression": "zstd", "row_group_size": 5}, {"use_dictionary": False}):
        sink = pa.BufferOutputStream()
        pq.write_table(table(), sink, **options)
        files.append(sink.getvalue().to_pybytes())
    return files


def arrows() -> list[bytes]:
    import pyarrow as pa

    files = []
    for new in (pa.ipc.new_file, pa.ipc.new_stream):
        for compression in (None, "zstd", "lz4"):
            sink = pa.BufferOutputStream()
            with new(sink, table().schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
                writer.write_table(table(), max_chunksize=5)
            files.append(sink.getvalue().to_pybytes())
    views = pa.table(
        {"v": pa.array([[1.0], [2.0]], pa.list_view(pa.float32())), "text": pa.array(["a", "b" * 40], pa.string_view())}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, views.schema) as writer:
        writer.write_table(views)
    return [*files, sink.getvalue().to_pybytes()]


def safetensors() -> list[bytes]:
    from gramian.data import Table

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.safetensors"
        columns = {"a": [[1.0, 2.0], None, [3.0, 4.0]], "b": [[1.0], [2.0], None]}
        Table.from_columns(columns, ids=["x", "y", "z"], split=["train"] * 3, item_ids=["m", "m", "n"]).save(path)
        return [path.read_bytes()]


def csvs() -> list[bytes]:
    rows = "".join(f'{i},"[{i}, 1.0]","a, ""b""\n{i}",x{i}.png\n' for i in range(12))
    return [f"id,v,text,image\n{rows}".encode(), f"\ufeffid,v\r\n{1},[0.5]\r\n".encode(), b"text\n\na\n\n"]


def lines() -> list[bytes]:
    rows = [
        {"id": i, "v": [1.0, i], "captions": ["a", ""], "image": {"path": "x", "bytes": None}, "text": "\ud83d\ude00"}
        for i in range(12)
    ]
    return ["".join(json.dumps(row) + "\n" for row in rows).encode(), json.dumps(rows).encode()]


def tars() -> list[bytes]:
    numbers = io.BytesIO()
    np.save(numbers, np.arange(3.0))
    files = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=form) as archive:
            long = "é" * 60 + "/" + "n" * 80
            for name in ("a", "b", long):
                contents = {
                    "npy": numbers.getvalue(),
                    "txt": b"a cat",
                    "json": b'{"v": [1, 2], "word": "u"}',
                    "png": images("PNG")[0],
                }
                for ending, content in contents.items():
                    member = tarfile.TarInfo(f"{name}.{ending}")
                    member.size, member.mtime = len(content), 0.5
                    archive.addfile(member, io.BytesIO(content))
        files.append(sink.getvalue())
    return files


def images(form: str) -> list[bytes]:
    from PIL import Image

    pictures = [
        Image.radial_gradient("L").resize((24, 16)),
        Image.new("RGBA", (9, 7), (9, 99, 200, 50)),
        Image.new("P", (5, 5)),
    ]
    files = []
    for picture in pictures:
        sink = io.BytesIO()
        (picture.convert("RGB") if form in ("JPEG", "BMP") else picture).save(sink, form)
        files.append(sink.getvalue())
    if form in ("GIF", "WEBP", "PNG", "TIFF"):
        sink = io.BytesIO()
        pictures[0].save(sink, form, save_all=True, append_images=[pictures[0].rotate(90)])
        files.append(sink.getvalue())
    return files


def sounds(form: str) -> list[bytes]:
    import soundfile

    samples = np.sin(np.arange(4000) / 9).astype(np.float32) / 2
    files = []
    for channels, rate in ((1, 16_000), (2, 8000)):
        sink = io.BytesIO()
        soundfile.write(sink, np.repeat(samples[:, None], channels, 1), rate, format=form)
        files.append(sink.getvalue())
    return files


def videos(form: str, codec: str, audio: str) -> list[bytes]:
    import av

    sink = io.BytesIO()
    with av.open(sink, "w", format=form) as container:
        picture, track = (
            container.add_stream(codec, rate=10, width=32, height=32),
            container.add_stream(audio, rate=48_000, layout="mono"),
        )
        picture.pix_fmt = "yuv420p"
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * number, np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        for start in range(0, 19_200, 960):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48_000, start
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return [sink.getvalue()]


def mend_png(data: bytes, random: Random) -> bytes:
    del random
    fixed, at = bytearray(data), 8
    while at + 12 <= len(fixed):
        size = int.from_bytes(fixed[at : at + 4], "big")
        end = at + 8 + size
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(fixed)


def mend_tar(data: bytes, random: Random) -> bytes:
    """Headers with other fields, and the checksum of their new bytes."""
    fixed = bytearray(data)
    for at in range(0, len(fixed) - 511, 512):
        if fixed[at + 257 : at + 262] != b"ustar":
            continue
        if random.random() < 0.1:
            begin, length = random.choice(
                [(0, 100), (100, 8), (124, 12), (124, 12), (156, 1), (156, 1), (157, 100), (345, 155), (386, 97)]
            )
            values = [b"\0" * length, b"7" * length, b"\x80" + b"\xff" * (length - 1), b"../" * 40, b"\xff" * length]
            value = random.choice([bytes([random.choice(b"01234567gxLKSVX\0")])] if length == 1 else values)
            fixed[at + begin : at + begin + length] = value[:length].ljust(length, b"\0")
        fixed[at + 148 : at + 156] = b" " * 8
        fixed[at + 148 : at + 156] = b"%06o\0 " % sum(fixed[at : at + 512])
    return bytes(fixed)


def mend_ogg(data: bytes, random: Random) -> bytes:
    """Pages with the checksum of their new bytes."""
    del random
    fixed, at = bytearray(data), data.find(b"OggS")
    while 0 <= at <= len(fixed) - 27:
        count = fixed[at + 26]
        end = at + 27 + count + sum(fixed[at + 27 : at + 27 + count])
        fixed[at + 22 : at + 26] = bytes(4)
        fixed[at + 22 : at + 26] = _ogg_sum(fixed[at:end]).to_bytes(4, "little")
        at = fixed.find(b"OggS", at + 4)
    return bytes(fixed)


@cache
def _ogg_table() -> list[int]:
    entries = []
    for value in range(256):
        value <<= 24
        for _ in range(8):
            value = (value << 1) ^ (0x104C11DB7 if value & 0x80000000 else 0)
        entries.append(value)
    return entries


def _ogg_sum(page: bytes) -> int:
    total = 0
    for byte in page:
        total = ((total << 8) & 0xFFFFFFFF) ^ _ogg_table()[(total >> 24) ^ byte]
    return total


def mend_safetensors(data: bytes, random: Random) -> bytes:
    """A header of the length that stands before it."""
    del random
    end = data.rfind(b"}") + 1
    return struct.pack("<Q", max(0, end - 8)) + data[8:] if end > 8 else data


READERS: dict[str, Reader] = {
    "parquet": Reader(parquets, ".parquet"),
    "arrow": Reader(arrows, ".arrow"),
    "csv": Reader(csvs, ".csv", text=True),
    "json": Reader(lines, ".json", text=True),
    "jsonl": Reader(lambda: lines()[:1], ".jsonl", text=True),
    "tar": Reader(tars, ".tar", mend_tar),
    "safetensors": Reader(safetensors, ".safetensors", mend_safetensors),
    "png": Reader(lambda: images("PNG"), "image", mend_png),
    "jpeg": Reader(lambda: images("JPEG"), "image"),
    "gif": Reader(lambda: images("GIF"), "image"),
    "webp": Reader(lambda: images("WEBP"), "image"),
    "tiff": Reader(lambda: images("TIFF"), "image"),
    "bmp": Reader(lambda: images("BMP"), "image"),
    "wav": Reader(lambda: sounds("WAV"), "audio"),
    "flac": Reader(lambda: sounds("FLAC"), "audio"),
    "ogg": Reader(lambda: sounds("OGG"), "audio", mend_ogg),
    "mp3": Reader(lambda: sounds("MP3"), "audio"),
    "mp4": Reader(lambda: videos("mp4", "mpeg4", "aac"), "video"),
    "mkv": Reader(lambda: videos("matroska", "mpeg4", "aac"), "video"),
    "webm": Reader(lambda: videos("webm", "libvpx", "libopus"), "video"),
}

NUMBERS = [
    b"\xff\xff\xff\x7f",
    b"\0\0\0\0",
    b"\xff" * 4,
    b"\0\0\0\x80",
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
    b"\0" * 8,
    b"\x01",
    b"\0\1\0\0",
]
TOKENS = [
    "[",
    "]",
    "{",
    "}",
    '"',
    ",",
    "\n",
    "\r",
    ";",
    "null",
    "NaN",
    "1e999",
    "-0",
    "true",
    "9" * 5000,
    "[" * 3000,
    '{"a":' * 500,
]
TOKENS += [
    "\\ud800",
    "\0",
    "\ufeff",
    "\x1b[2J",
    "[]",
    "[[1]]",
    '"v"',
    ":",
    "\\u0000",
    '{"bytes": null}',
    "../x",
    "é",
    "\u202e",
    "1e-400",
]


@cache
def samples(name: str) -> list[bytes]:
    return READERS[name].samples()


def damaged(name: str, number: int) -> bytes:
    """Input `number` of a reader."""
    random = Random(f"{name} {number}")
    reader = READERS[name]
    data = bytearray(random.choice(samples(name)))
    for _ in range(random.choice([1, 1, 2, 4, 8])):
        at = random.randrange(len(data) or 1)
        match random.randrange(9 if reader.text else 8):
            case 0 | 1:
                data[at : at + 1] = bytes([random.randrange(256)])
            case 2:
                data[at:at] = random.randbytes(random.randrange(5))
            case 3:
                value = random.choice(NUMBERS)
                data[at : at + len(value)] = value
            case 4:
                del data[at : at + random.randrange(1, 20)]
            case 5:  # a part once more, or from elsewhere
                begin, length = random.randrange(len(data) or 1), random.choice([1, 4, 16, 64, 512])
                data[at : at + random.choice([0, length])] = data[begin : begin + length]
            case 6:
                other = random.choice(samples(name))
                data[at:] = other[random.randrange(len(other)) :]
            case 7:
                if random.random() < 0.3:
                    del data[at:]
                else:
                    data[at : at + 1] = bytes([data[at] ^ 1 << random.randrange(8)]) if data else b""
            case 8:
                data[at:at] = random.choice(TOKENS).encode()
    return reader.mend(bytes(data), random) if random.random() < 0.5 else bytes(data)


def read(name: str, content: bytes, folder: Path) -> str | None:
    """Read an input in every way that there is; the reason if it is refused."""
    kind = READERS[name].ending
    if not kind.startswith("."):
        reasons = []
        for cell in (content, _written(folder / "cell", content)):
            for medium in (kind, "audio") if kind == "video" else (kind,):
                try:
                    decoded = MEDIA[medium].read(cell, Sampling(seconds=0.2 if cell is content else None), None, None)
                    MEDIA[medium].cut(cell, decoded, Sampling(seconds=0.1), None)
                except (Unreadable, InputError) as error:
                    reasons.append(str(error))
        return reasons[0] if reasons else None
    path = _written(folder / f"t{kind}", content)
    try:
        load(path, raw=RAW).digest()
        for part in () if kind == ".safetensors" else stream(path, 5, raw=RAW):
            part.digest()
    except InputError as error:
        return str(error)
    return None


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def run(
    inputs: Iterator[tuple[str, int]], folder: Path, tell: Callable[[str], None] = lambda _: None
) -> tuple[int, int, list[str]]:
    """Read inputs; how many were read and refused, and what was found."""
    good = refused = 0
    findings = []
    for name, number in inputs:
        tell(f"{name} {number}")
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reason = read(name, damaged(name, number), folder)
            if reason is not None and "\n" in reason:
                findings.append(f"{name} {number}: a reason of several lines: {reason!r:.200}")
            good, refused = good + (reason is None), refused + (reason is not None)
        except Exception as error:  # whatever it is
            at = traceback.extract_tb(error.__traceback__)[-1]
            findings.append(f"{name} {number}: {type(error).__name__} ({str(error)!s:.150}), {at.filename}:{at.lineno}")
        finally:
            faulthandler.cancel_dump_traceback_later()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if grown > MEMORY:
            findings.append(f"{name} {number}: {grown:,} bytes of memory")
    return good, refused, findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="inputs in all (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each reader")
    parser.add_argument("--reader", choices=READERS, help="one reader alone")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    names = [options.reader] if options.reader else list(READERS)
    last = options.first - (-options.count // len(names))
    if options.here or options.count == 1:
        with tempfile.TemporaryDirectory() as folder:
            inputs = ((name, number) for number in range(options.first, last) for name in names)
            tell = (lambda text: print(text, file=sys.stderr, flush=True)) if options.here else (lambda _: None)
            good, refused, findings = run(inputs, Path(folder), tell)
        print(json.dumps([good, refused, findings]))
        return int(bool(findings))
    total, found = [0, 0], 0
    for name in names:
        counts = [0, 0]
        first = options.first
        while first < last:
            count = min(2000, last - first)
            words = [sys.executable, __file__, "--here", "--reader", name, "--first", str(first), "--count", str(count)]
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
            first += count
            try:
                good, refused, findings = json.loads(done.stdout)
            except ValueError:  # a crash, or over the time: the rest of the batch is read next
                told = [line for line in done.stderr.splitlines() if line.startswith(f"{name} ")]
                rest = "\n".join(line for line in done.stderr.splitlines() if not line.startswith(f"{name} "))
                good, refused, findings = 0, 0, [f"{told[-1] if told else name}: exit {done.returncode}\n{rest[-1500:]}"]
                first = int(told[-1].split()[1]) + 1 if told else last
            counts = [counts[0] + good, counts[1] + refused]
            found += len(findings)
            print(*findings, sep="\n", end="\n" if findings else "", flush=True)
        print(f"{name}: {counts[0]} read, {counts[1]} refused", flush=True)
        total = [total[0] + counts[0], total[1] + counts[1]]
    print(f"{sum(total)} inputs: {total[0]} read, {total[1]} refused; {found} findings")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
