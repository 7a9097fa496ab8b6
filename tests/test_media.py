"""Images, audio and video from disk and from bytes: exact values where they can be had, and a reason for each bad file."""

import os
import struct
import warnings
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

av = pytest.importorskip("av")
soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
Image = pytest.importorskip("PIL.Image")

from gramian.data.containers import declared_size  # noqa: E402
from gramian.data.media import (  # noqa: E402
    MEDIA,
    Folder,
    Kind,
    Medium,
    Sampling,
    Unreadable,
    audio_seconds,
    open_source,
    read_audio,
    read_image,
    read_text,
    read_video,
)
from gramian.data.readers import Media  # noqa: E402
from gramian.data.video import _upright  # noqa: E402
from gramian.errors import InputError  # noqa: E402

RATE = 16_000
STEP = 10  # grey levels between one frame of a clip and the next


def _encoded(image: Any, form: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _pixels(source: Any, **options: Any) -> list[list[int]]:
    image = read_image(source, **options)
    assert image.mode == "RGB"
    return np.asarray(image).reshape(-1, 3).tolist()


def _tone(seconds: float = 1.0, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def _sound(samples: Any, rate: int = RATE, form: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def _hertz(samples: np.ndarray, rate: int = RATE) -> float:
    return float(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * rate / len(samples))


def _audio_frames(samples: np.ndarray, rate: int) -> list[Any]:
    frames = []
    for start in range(0, samples.shape[1], 1024):
        part = np.ascontiguousarray(samples[:, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo" if len(part) == 2 else "mono")
        frame.sample_rate, frame.pts = rate, start
        frames.append(frame)
    return frames


def _clip(
    count: int = 20,
    form: str = "mp4",
    codec: str = "mpeg4",
    group: int | None = None,
    size: tuple[int, int] = (64, 48),
    samples: np.ndarray | None = None,
    rate: int = RATE,
    audio: str = "aac",
    **options: str,
) -> bytes:
    """A clip whose frame i has the grey level 10 i, with an audio track where there are `samples`."""
    buffer = BytesIO()
    with av.open(buffer, "w", format=form, options=options) as container:
        if count:
            video = container.add_stream(codec, rate=10, width=size[0], height=size[1])
            video.pix_fmt = {"png": "rgb24", "apng": "rgb24", "gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
            video.codec_context.qmin = video.codec_context.qmax = 2
            if group:  # of pictures, the first of which is a key frame
                video.codec_context.gop_size = group
                video.options = {"sc_threshold": "1000000000"}
        if samples is not None:
            layout = "stereo" if len(samples) == 2 else "mono"
            track = container.add_stream(audio, rate=rate, layout=layout)
            track.bit_rate = 128_000
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), STEP * number, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        if count:
            container.mux(video.encode(None))
        if samples is not None:
            for frame in _audio_frames(samples, rate):
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return buffer.getvalue()


def _numbers(video: np.ndarray) -> list[int]:
    assert video.dtype == np.uint8
    levels = video.reshape(len(video), -1).astype(float)
    numbers = levels.mean(1) / STEP
    assert np.abs(numbers - numbers.round()).max() < 0.35
    assert levels.std(1).max() < 3
    return numbers.round().astype(int).tolist()


CLIP = _clip()
TALKING = _clip(samples=np.stack([_tone(), _tone()]))
WAV = _sound(_tone())


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P"])
def test_opaque_modes_keep_their_values(mode):
    image = Image.new("RGB", (3, 2), "black")
    image.putpixel((1, 0), (255, 255, 255))
    assert _pixels(_encoded(image.convert(mode))) == [[0] * 3, [255] * 3] + [[0] * 3] * 4


def test_transparency_is_laid_on_white():
    image = Image.new("RGBA", (4, 1))
    for x, pixel in enumerate([(200, 0, 100, 255), (200, 0, 100, 0), (200, 0, 100, 51), (0, 0, 0, 128)]):
        image.putpixel((x, 0), pixel)
    assert _pixels(_encoded(image)) == [[200, 0, 100], [255] * 3, [244, 204, 224], [127] * 3]


def test_transparent_grey_and_palettes():
    grey = Image.new("LA", (2, 1), (10, 255))
    grey.putpixel((1, 0), (10, 0))
    assert _pixels(_encoded(grey)) == [[10] * 3, [255] * 3]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert _pixels(_encoded(palette, transparency=1)) == [[10, 20, 30], [255] * 3]
    assert _pixels(_encoded(palette, transparency=bytes([255, 0]))) == [[10, 20, 30], [255] * 3]


def test_cmyk():
    assert _pixels(_encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF")) == [[255, 0, 0]]
    near = np.abs(np.array(_pixels(_encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))) - [255, 0, 0])
    assert near.max() < 6


@pytest.mark.parametrize("values", [[0, 257, 32896, 65535], [0, 100, 130, 250]])
def test_16_bits_are_scaled_to_8_however_dark(values):
    image = Image.fromarray(np.array([values], np.uint16))
    assert image.mode == "I;16"
    assert _pixels(_encoded(image)) == [[round(value / 257)] * 3 for value in values]


@pytest.mark.parametrize("grey", [0, 100, 255, 256, 300, 30_000, 65_535])
def test_16_bit_integers_are_scaled_however_dark(grey):
    content = b"P5 2 1 65535\n" + np.full(2, grey, ">u2").tobytes()
    assert _pixels(content) == [[round(grey / 257)] * 3] * 2


def test_a_transparent_value_of_16_bits_is_white():
    image = Image.fromarray(np.array([[5, 6, 30_000]], np.uint16))
    assert [pixel[0] for pixel in _pixels(_encoded(image, transparency=5))] == [255, 0, 117]


@pytest.mark.parametrize(
    ("values", "greys"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 0.5, 1.1], [0, 128, 255]),  # resized
        ([-1.0, 99.6, 300.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
    ],
)
def test_floating_point_images(values, greys):
    row = np.array([values], np.float32)
    for source in (
        _encoded(Image.fromarray(row), "TIFF"),
        Image.fromarray(row),
        row,
        row.astype(np.float16 if values[2] < 9 else float),
    ):
        assert _pixels(source) == [[grey] * 3 for grey in greys]
    with pytest.raises(Unreadable, match="not finite"):
        read_image(_encoded(Image.fromarray(np.array([[0.0, np.nan]], np.float32)), "TIFF"))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.int64, bool])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_arrays_of_every_type(kind, channels):
    """One opaque and one transparent pixel of the same colours."""
    top = {np.uint16: 65535, np.float32: 1, bool: 1}.get(kind, 255)
    colours = np.array([[0.2, 0.6, 1.0], [0.2, 0.6, 1.0]])[:, : channels - 1 + channels % 2]
    if kind is bool:
        colours = np.ones_like(colours)
    layers = colours if channels % 2 else np.concatenate([colours, [[1.0], [0.0]]], 1)
    array = (layers * top).round(0 if top > 1 else 9).astype(kind)[None]
    right = np.round(np.broadcast_to(colours * 255, (2, 3))).astype(int)
    if channels % 2 == 0:
        right[1] = 255
    for source in (array, torch.from_numpy(array)):
        assert _pixels(source) == right.tolist()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"uint8 and shape \(3, 8, 8\); pixels are numbers of shape \(height, width"),
        (np.zeros((2, 2, 7), np.uint8), "shape"),
        (np.zeros(4), "shape"),
        (np.zeros((0, 4)), "shape"),
        (np.array([["a"]]), "<U1"),
        (np.array([[np.inf]]), "not finite"),
    ],
)
def test_arrays_that_are_no_images(array, reason):
    with pytest.raises(Unreadable, match=reason):
        read_image(array)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(depth: int, colour: int, row: bytes, width: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    parts = (_chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", zlib.compress(b"\0" + row)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "key", "greys"),
    [
        (1, 0, b"\x50", b"\0\1", [0, 255, 0, 255]),
        (2, 0, b"\x1b", b"\0\1", [0, 255, 170, 255]),
        (4, 0, b"\x5a\0", b"\0\5", [255, 170, 0, 0]),
        (8, 0, b"\5\6\7\0", b"\0\5", [255, 6, 7, 0]),
        (8, 2, b"\5\5\5\6\6\6\7\7\7\0\0\0", b"\0\6" * 3, [5, 255, 7, 0]),
        (16, 2, b"\5\0" * 3 + b"\6\1" * 3 + b"\x80\x80" * 3 + b"\0\0" * 3, b"\6\1" * 3, [5, 255, 128, 0]),
    ],
)
def test_a_transparent_colour_of_png_at_every_depth(depth, colour, row, key, greys):
    assert _pixels(_png(depth, colour, row, 4, _chunk(b"tRNS", key))) == [[grey] * 3 for grey in greys]


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_large_texts_and_profiles_of_png(kind):
    between = b"\0\1\0\0\0" if kind == b"iTXt" else b"\0\0"
    assert _pixels(_png(8, 0, b"\x5a", 1, _chunk(kind, b"a" + between + zlib.compress(bytes(2_000_000))))) == [[90] * 3]
    texts = [_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000)))] * 80
    assert _pixels(_png(8, 0, b"\x5a", 1, *texts)) == [[90] * 3]


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(24, "Too many open files"), OSError(12, "Cannot allocate memory")], ids=lambda e: str(e)
)
def test_a_machine_that_is_exhausted_is_no_fault_of_a_file(tmp_path, error, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    content = _encoded(Image.new("L", (8, 8)))
    (tmp_path / "a.png").write_bytes(content)
    for name in ("PIL.Image.open", "PIL.ImageFile.ImageFile.load", "gramian.data.content.FileIO"):
        with monkeypatch.context() as patched:
            patched.setattr(name, fail)
            with pytest.raises(type(error)):
                read_image(tmp_path / "a.png")
    error = TypeError("a decoder's own")
    monkeypatch.setattr("PIL.Image.open", fail)
    with pytest.raises(Unreadable, match="decoder"):
        read_image(content)


def test_exif_turns_an_image_upright():
    image = Image.new("RGB", (2, 3), "white")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = read_image(_encoded(image, exif=exif))
    assert upright.size == (3, 2)
    assert upright.getpixel((2, 0)) == (255, 0, 0)


def test_broken_exif_leaves_an_image_as_it_is():
    assert read_image(_encoded(Image.new("RGB", (8, 4)), "JPEG", exif=b"Exif\0\0garbage")).size == (8, 4)


def test_an_animation_gives_its_first_frame():
    first, second = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    assert _pixels(_encoded(first, "GIF", save_all=True, append_images=[second])) == [[255, 0, 0]] * 16


def test_every_kind_of_source(tmp_path):
    content = _encoded(Image.new("RGB", (1, 1), (1, 2, 3)))
    path = tmp_path / "wrongly named.jpg"
    path.write_bytes(content)
    for source in (
        content,
        bytearray(content),
        memoryview(content),
        path,
        str(path),
        {"bytes": content, "path": None},
        {"bytes": None, "path": str(path)},
        {"bytes": content, "path": "gone.png"},
    ):
        assert _pixels(source) == [[1, 2, 3]]
    assert _pixels(path.name, folder=tmp_path) == [[1, 2, 3]]
    assert _pixels({"path": path.name}, folder=tmp_path) == [[1, 2, 3]]
    assert _pixels(path, folder=Path("elsewhere")) == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "0 bytes"),
        ("empty", "0 bytes"),
        ("gone", "no such file"),
        ("", "a folder"),
        ("https://example.org/a.png", "a URL"),
        ("x" * 5000, "name too long"),
        ("a\0b", "null|no such file"),
        ({}, "neither bytes nor a path"),
        ({"bytes": None, "path": None}, "neither bytes nor a path"),
        ({"bytes": b"", "path": None}, "0 bytes"),
        ({"array": [1.0]}, "neither bytes nor a path"),
        (None, "NoneType"),
        (3, "int"),
    ],
)
def test_sources_that_hold_nothing(tmp_path, source, reason):
    (tmp_path / "empty").touch()
    for read in (open_source, read_image, read_audio, audio_seconds, read_video):
        with pytest.raises(Unreadable, match=reason):
            read(source, folder=tmp_path)


def test_files_that_may_not_be_opened(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"a")

    def refuse(_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("gramian.data.content.FileIO", refuse)
    for read in (read_image, read_audio, audio_seconds, read_video):
        with pytest.raises(Unreadable, match="Permission denied"):
            read(tmp_path / "a")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_truncated_images(form):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))
    content = _encoded(image, form, **({"progressive": True} if form == "JPEG" else {}))
    for part in np.linspace(0, 0.98, 20)[1:]:
        with pytest.raises(Unreadable):
            read_image(content[: int(part * len(content))])


def test_text_audio_and_video_are_no_images(tmp_path):
    path = tmp_path / "text.png"
    path.write_text("no image at all")
    for source in (path, WAV, CLIP):
        with pytest.raises(Unreadable, match="not an image"):
            read_image(source)


def _header(width: int, height: int) -> bytes:
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = _chunk(b"IHDR", size) + _chunk(b"IDAT", zlib.compress(b"\0" * 100)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("size", [(50_000, 50_000), (13_000, 13_000), (2**31 - 1, 1)])
def test_bombs_are_refused_before_they_are_decoded(size, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    with warnings.catch_warnings(record=True) as caught, pytest.raises(Unreadable, match="pixels"):
        read_image(_header(*size))
    assert not caught


def test_large_images_below_the_limit_do_not_warn(monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    assert read_image(_encoded(Image.new("L", (15, 10)))).size == (15, 10)


def test_texts():
    assert read_text("  a dog \n") == "a dog"
    assert read_text("\ufeffüber".encode()) == "über"
    for source in ("", " \n", b"", b"\xff\xfe", None, 3, float("nan"), {"bytes": b"a"}):
        with pytest.raises(Unreadable):
            read_text(source)


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "FLOAT"), ("WAV", "PCM_16"), ("FLAC", None), ("AU", "ULAW")])
def test_sound_files(tmp_path, form, subtype):
    content = _sound(_tone(), form=form, subtype=subtype)
    path = tmp_path / "tone.txt"
    path.write_bytes(content)
    samples = read_audio(content)
    assert samples.dtype == np.float32 and samples.flags.c_contiguous
    assert samples[:RATE] == pytest.approx(_tone(), abs={"FLOAT": 0, "ULAW": 0.02}.get(subtype or "", 1e-4))
    assert np.array_equal(read_audio(path), samples)
    assert np.array_equal(read_audio({"bytes": None, "path": path.name}, folder=tmp_path), samples)
    assert audio_seconds(content) == audio_seconds(path) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("form", ["OGG", "MP3"])
def test_lossy_sound_files(form):
    content = _sound(_tone(), form=form)
    samples = read_audio(content)
    assert len(samples) == pytest.approx(RATE, abs=2500)
    assert _hertz(samples) == pytest.approx(440, abs=2)
    assert audio_seconds(content) == pytest.approx(1, abs=0.15)


def test_formats_in_which_libsndfile_cannot_seek():
    content = _sound(_tone(), form="AU", subtype="G721_32")
    assert _hertz(read_audio(content)) == pytest.approx(440, abs=2)
    assert len(read_audio(content, seconds=0.5, generator=np.random.default_rng(0))) == RATE // 2


@pytest.mark.parametrize("name", ["a.raw", "a.vox", "a.mp4", "12:30 a", "file:a", "%03d.jpg"])
def test_a_name_says_nothing_about_the_content(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content, read in ((WAV, read_audio), (CLIP, read_video), (TALKING, read_audio), (_header(1, 1), read_image)):
        Path(name).write_bytes(content)
        assert np.array_equal(np.asarray(read(name)), np.asarray(read(content)))


@pytest.mark.parametrize(
    "content",
    [_clip(0, samples=_tone()[None]), TALKING, _clip(10, "matroska", samples=_tone()[None])],
    ids=["m4a", "mp4", "mkv"],
)
def test_the_audio_track_of_what_soundfile_does_not_read(tmp_path, content):
    path = tmp_path / "track.m4a"
    path.write_bytes(content)
    samples = read_audio(path)
    assert samples.dtype == np.float32 and samples.shape == (pytest.approx(RATE, abs=2100),)
    assert _hertz(samples) == pytest.approx(440, abs=2)
    assert np.array_equal(read_audio(content), samples)
    assert audio_seconds(path) == pytest.approx(1, abs=0.15)


def test_the_length_is_that_of_the_audio_track():
    assert audio_seconds(_clip(20, samples=_tone(0.5)[None])) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("audio", ["soundfile", "aac", "pcm_s16le"])
def test_channels_are_averaged(audio):
    left = np.stack([_tone(), 0 * _tone()])
    content = _sound(left.T) if audio == "soundfile" else _clip(0, "matroska", samples=left, audio=audio)
    both = read_audio(content)[4000:12_000]
    assert np.abs(both).max() == pytest.approx(0.25, abs=0.02)
    assert both.std() == pytest.approx(0.25 / np.sqrt(2), abs=0.005)


@pytest.mark.parametrize("form", ["WAV", "mp4"])
def test_resampling_keeps_the_length_and_the_tone(form):
    tone = _tone(rate=44_100)
    samples = read_audio(_sound(tone, 44_100) if form == "WAV" else _clip(0, samples=tone[None], rate=44_100))
    assert len(samples) == pytest.approx(RATE, abs=1 if form == "WAV" else 800)
    assert _hertz(samples) == pytest.approx(440, abs=2)
    assert samples[4000:12_000].std() == pytest.approx(0.5 / np.sqrt(2), abs=0.01)


def _ramp(seconds: float, rate: int = RATE) -> np.ndarray:
    return (np.arange(round(seconds * rate)) / (4 * rate)).astype(np.float32)


@pytest.mark.parametrize("form", ["WAV", "matroska"])
@pytest.mark.parametrize("seconds", [0.25, 1.3337])
def test_windows(form, seconds):
    ramp = _ramp(3)
    content = _sound(ramp, subtype="FLOAT") if form == "WAV" else _clip(0, form, samples=ramp[None], audio="pcm_f32le")
    length = round(seconds * RATE)
    assert np.array_equal(read_audio(content, seconds=seconds), ramp[:length])
    starts = set()
    for seed in range(8):
        window = read_audio(content, seconds=seconds, generator=np.random.default_rng(seed))
        start = round(float(window[0]) * 4 * RATE)
        assert np.array_equal(window, ramp[start : start + length])
        assert np.array_equal(window, read_audio(content, seconds=seconds, generator=np.random.default_rng(seed)))
        starts.add(start)
    assert len(starts) == 8 and max(starts) - min(starts) > RATE // 2


@pytest.mark.parametrize("rate", [11_025, 44_100, 48_000])
def test_windows_are_full_after_resampling(rate):
    content = _sound(_tone(1, rate), rate)
    for seed in range(10):
        assert len(read_audio(content, seconds=0.3337, generator=np.random.default_rng(seed))) == round(0.3337 * RATE)


def test_shorter_recordings_are_taken_whole():
    for generator in (None, np.random.default_rng(0)):
        assert len(read_audio(WAV, seconds=5, generator=generator)) == RATE
        track = read_audio(TALKING, seconds=5, generator=generator)
        assert np.array_equal(track, read_audio(TALKING))


@pytest.mark.parametrize("content", [WAV, TALKING, _clip(0, "adts", samples=_tone()[None])], ids=["wav", "mp4", "adts"])
def test_long_recordings_need_a_window(content, monkeypatch):
    monkeypatch.setattr("gramian.data.audio.MAX_SECONDS", 0.5)
    with pytest.raises(Unreadable, match="take a window"):
        read_audio(content)
    for seconds in (0.25, 0.75):
        for generator in (None, np.random.default_rng(1)):
            assert len(read_audio(content, seconds=seconds, generator=generator)) == round(seconds * RATE)


def _length_of_flac(samples: int) -> bytes:
    content = bytearray(_sound(_tone(), form="FLAC"))
    start = content.index(b"fLaC") + 8
    content[start + 13] &= 0xF0
    content[start + 14 : start + 18] = struct.pack(">I", samples)
    return bytes(content)


def test_a_stream_that_does_not_say_its_length():
    content = _length_of_flac(0)
    assert read_audio(content) == pytest.approx(_tone(), abs=1e-4)
    assert audio_seconds(content) == np.inf


@pytest.mark.parametrize("form", ["WAV", "AIFF", "AU", "CAF", "RF64", "W64", "FLAC", "OGG", "MP3"])
def test_recordings_that_are_cut_off(form):
    content = _sound(_tone(), form=form)
    for part in np.linspace(0.05, 0.99, 12):
        for options in ({}, {"seconds": 0.02}):
            with pytest.raises(Unreadable):
                read_audio(content[: int(part * len(content))], **options)


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi", "gif", "apng"])
def test_videos_that_are_cut_off(form):
    content = _clip(6, form, {"gif": "gif", "apng": "apng"}.get(form, "mpeg4"))
    whole = read_video(content, 6)
    for part in np.linspace(0.05, 0.99, 12):
        with suppress(Unreadable):  # an index at the end may be missing
            assert np.array_equal(read_video(content[: int(part * len(content))], 6), whole)
            assert part > 0.6


@pytest.mark.parametrize(
    ("size", "samples"),
    [(0xFFFFFFFF, RATE), (0x7FFFFFFF, RATE), (0, RATE), (RATE, RATE // 2), (2 * RATE + 44, RATE), (3 * RATE, None)],
)
def test_wav_whose_header_lies(size, samples):
    """Unknown, none, too small, with the header counted, cut off; as FFmpeg reads them."""
    content = bytearray(_sound(_tone(), subtype="PCM_16"))
    content[40:44] = struct.pack("<I", size)
    if samples is None:
        with pytest.raises(Unreadable, match="cut off"):
            read_audio(bytes(content))
    else:
        assert len(read_audio(bytes(content))) == samples
        assert audio_seconds(bytes(content)) == samples / RATE


def test_what_does_not_say_its_length_is_read_to_its_end():
    stream = _clip(0, "adts", samples=_tone()[None])
    assert 0 < len(read_audio(stream[: stream.index(b"\xff\xf1", len(stream) // 2)])) < len(read_audio(stream))


def test_windows_of_a_recording_shorter_than_its_header_says():
    content = _length_of_flac(100 * RATE)
    for seed in range(3):
        assert len(read_audio(content, seconds=0.5, generator=np.random.default_rng(seed))) == RATE // 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (WAV[:20], "FFmpeg"),
        (TALKING[:40], "FFmpeg"),
        (b"no audio at all, but a text\n" * 500, "FFmpeg"),
        (_encoded(Image.new("RGB", (8, 8))), "no audio track"),
        (_encoded(Image.new("RGB", (8, 8)), "JPEG"), "no audio track"),
        (CLIP, "no audio track"),
        (b"ffconcat version 1.0\nfile a.wav\n", "FFmpeg"),
    ],
    ids=["truncated wav", "truncated mp4", "text", "png", "jpeg", "silent video", "playlist"],
)
@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.snd", "a.gsm", "a.txt"])
def test_no_audio(tmp_path, content, reason, name):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_audio, audio_seconds):
        for source in (path, content):
            with pytest.raises(Unreadable, match=reason):
                read(source)


def test_playlists_open_no_other_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mkv").write_bytes(_clip(form="matroska", samples=_tone()[None]))
    for read in (read_audio, audio_seconds, read_video):
        read("a.mkv")
        with pytest.raises(Unreadable):
            read(b"ffconcat version 1.0\nfile a.mkv\n")


@pytest.mark.parametrize("samples", [[0.0, np.nan], [np.inf, 0.0], [[np.inf, -np.inf]], [[3e38, 3e38]]])
def test_samples_that_are_not_finite(samples):
    content = _sound(np.array(samples, np.float32), subtype="FLOAT")
    with pytest.raises(Unreadable, match="not finite"):
        read_audio(content)


def test_containers_of_endless_or_senseless_parts():
    generator = np.random.default_rng(0)
    for head in (
        b"RIFF",
        b"FORM",
        b"caff",
        b"\0\0\0\1ftyp",
        b"\x1aE\xdf\xa3",
        b"OggS",
        b"ID3\4",
        b"\x89PNG",
        b"0&\xb2u",
        b"GIF8",
    ):
        for tail in (bytes(20_000), b"\xff" * 200, *(generator.bytes(200) for _ in range(40))):
            assert declared_size(BytesIO(head + tail)) >= 0
    assert declared_size(BytesIO(b"OggS" + bytes(23) + b"OggS\0\2" + bytes(21))) == 54
    with pytest.raises(Unreadable, match="more than 1,000 joined"):
        read_audio((b"OggS\0\2" + bytes(21) + b"OggS" + bytes(23)) * 1200)


@pytest.mark.parametrize(("count", "rate"), [(0, RATE), (0, 44_100), (1, 48_000), (100, 2**31 - 1)])
def test_no_samples(count, rate):
    with pytest.raises(Unreadable, match="no samples"):
        read_audio(_sound(np.zeros(count), rate))


@pytest.mark.parametrize("options", [{"rate": 0}, {"seconds": 0.0}, {"seconds": -1.0}, {"seconds": float("nan")}])
def test_audio_options(options):
    with pytest.raises(InputError):
        read_audio(WAV, **options)


@pytest.mark.parametrize(
    ("frames", "numbers"),
    [(1, [10]), (2, [5, 15]), (4, [2, 7, 12, 17]), (8, [1, 3, 6, 8, 11, 13, 16, 18]), (20, list(range(20)))],
)
def test_the_middles_of_equal_parts(frames, numbers):
    video = read_video(CLIP, frames)
    assert video.shape == (frames, 48, 64, 3) and video.flags.c_contiguous
    assert _numbers(video) == numbers


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("matroska", "mpeg4"),
        ("avi", "mpeg4"),
        ("mpegts", "mpeg2video"),
        ("mp4", "libx264"),
        ("avi", "mjpeg"),
        ("matroska", "ffv1"),
    ],
)
def test_containers_and_codecs(form, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg is built without {codec}")
    assert _numbers(read_video(_clip(form=form, codec=codec), 4)) == [2, 7, 12, 17]


def test_random_frames_are_one_per_part():
    drawn = set()
    for seed in range(8):
        video = read_video(CLIP, 4, generator=np.random.default_rng(seed))
        numbers = _numbers(video)
        assert [number // 5 for number in numbers] == [0, 1, 2, 3]
        assert np.array_equal(video, read_video(CLIP, 4, generator=np.random.default_rng(seed)))
        drawn.add(tuple(numbers))
    assert len(drawn) > 4


@pytest.mark.parametrize("generator", [None, np.random.default_rng(0)])
def test_short_videos_repeat_frames(generator):
    assert _numbers(read_video(_clip(3), 6, generator=generator)) == [0, 0, 1, 1, 2, 2]
    assert _numbers(read_video(_clip(1), 4, generator=generator)) == [0, 0, 0, 0]


def test_videos_from_files_and_bytes(tmp_path):
    path = tmp_path / "wrongly named.png"
    path.write_bytes(CLIP)
    video = read_video(CLIP)
    for source in (path, str(path), {"bytes": CLIP, "path": None}, {"bytes": None, "path": str(path)}, CLIP):
        assert np.array_equal(read_video(source), video)
    assert np.array_equal(read_video(path.name, folder=tmp_path), video)


def test_frames_are_turned_upright():
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10, width=64, height=32)
        stream.pix_fmt = "yuv420p"
        left = np.zeros((32, 64, 3), np.uint8)
        left[:, :32] = 255
        for _ in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(left, format="rgb24")))
        container.mux(stream.encode(None))
    one = 1 << 16
    as_it_is = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, one, 0, -one, 0, 0, 32 * one, 0, 1 << 30)
    content = buffer.getvalue()
    at = content.index(as_it_is, content.index(b"tkhd"))
    turned = read_video(content[:at] + clockwise + content[at + 36 :], 3)
    assert turned.shape == (3, 64, 32, 3)
    assert turned[:, :28].min() > 200 and turned[:, 36:].max() < 50
    assert np.array_equal(turned, np.rot90(read_video(content, 3), -1, axes=(1, 2)))


@pytest.mark.parametrize(
    ("a", "b", "c", "d"), [(x, 0, 0, y) for x in (-1, 1) for y in (-1, 1)] + [(0, x, y, 0) for x in (-1, 1) for y in (-1, 1)]
)
def test_display_matrices_turn_and_mirror(a, b, c, d):
    """Against the definition: the pixel (x, y) is shown at (a x + c y, b x + d y), moved into the frame."""
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    matrix = (np.array([a, b, 0, c, d, 0, 0, 0, 1 << 14]) * (1 << 16)).astype(np.int32)
    shown = {}
    for y in range(2):
        for x in range(3):
            shown[a * x + c * y, b * x + d * y] = pixels[y, x]
    left, top = min(x for x, _ in shown), min(y for _, y in shown)
    image = _upright(pixels, matrix)
    assert image.shape[0] * image.shape[1] == 6
    for (x, y), pixel in shown.items():
        assert np.array_equal(image[y - top, x - left], pixel)


def test_what_an_edit_list_cuts_off_is_not_counted():
    buffer = BytesIO()
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(BytesIO(_clip(24, group=12))) as clip, av.open(buffer, "w", format="mp4", options=options) as cut:
        source = clip.streams.video[0]
        stream = cut.add_stream_from_template(source)
        for packet in clip.demux(source):
            if packet.dts is not None:
                shift = round(0.8 / source.time_base)  # eight frames
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                cut.mux(packet)
    with av.open(BytesIO(buffer.getvalue())) as container:
        assert sum(packet.is_discard for packet in container.demux(video=0)) == 8
    assert _numbers(read_video(buffer.getvalue(), 8)) == [9, 11, 13, 15, 17, 19, 21, 23]


def test_a_stream_that_begins_inside_a_group_of_pictures():
    content = _clip(24, "mpegts", "mpeg2video", group=6)
    with av.open(BytesIO(content)) as container:
        packets = [(packet.pos, packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
    start = packets[4][0]
    first = next(number for number, (at, is_key) in enumerate(packets) if is_key and at > start)
    tables = content[: 188 * 3]  # which streams there are
    numbers = _numbers(read_video(tables + content[start:], 24 - first))
    assert numbers == list(range(first, 24))


def _mp3(seconds: float, **options: str) -> bytes:
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp3", options=options) as container:
        track = container.add_stream("libmp3lame", rate=RATE, layout="mono", options={"compression_level": "9"})
        track.codec_context.qscale = True
        track.codec_context.global_quality = 9 * 118
        quiet = np.zeros(round(seconds * RATE / 2), np.float32)
        loud = np.random.default_rng(0).normal(size=len(quiet)).astype(np.float32) / 8
        for frame in _audio_frames(np.concatenate([loud, quiet])[None], RATE):
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return buffer.getvalue()


def test_mp3s_without_a_length_and_joined_ones_are_read_whole():
    plain = _mp3(4.0, write_xing="0", id3v2_version="0")
    assert abs(len(read_audio(plain)) / RATE - 4) < 0.2
    assert abs(audio_seconds(plain) - 4) < 0.2
    joined = _mp3(2.0) + _mp3(3.0)
    assert abs(len(read_audio(joined)) / RATE - 5) < 0.3
    assert abs(audio_seconds(joined) - 5) < 0.3
    assert len(read_audio(plain, seconds=1.0, generator=np.random.default_rng(3))) == RATE


def test_a_cover_is_no_video():
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp3") as container:
        sound = container.add_stream("libmp3lame" if "libmp3lame" in av.codecs_available else "mp3", rate=RATE, layout="mono")
        cover = container.add_stream("png", rate=1, width=16, height=16)
        cover.pix_fmt = "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode(None))
        for frame in _audio_frames(_tone()[None], RATE):
            frame = av.AudioResampler(format="fltp", frame_size=0).resample(frame)[0]
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with pytest.raises(Unreadable, match="no video track"):
        read_video(buffer.getvalue())
    assert _hertz(read_audio(buffer.getvalue())) == pytest.approx(440, abs=2)


def test_an_animated_webp_is_a_video():
    clear = [Image.new("RGBA", (16, 16), (200, 0, 0, 255 - 50 * number)) for number in range(4)]
    options: dict[str, Any] = {"save_all": True, "append_images": clear[1:], "duration": [100, 100, 100, 700], "lossless": True}
    content = _encoded(clear[0], "WEBP", **options)
    video = read_video(content, 10)
    assert video.shape == (10, 16, 16, 3)
    assert np.abs(video[:, 0, 0, 1].astype(int) - [0, 50, 100, *[150] * 7]).max() <= 1  # on white, by time
    with pytest.raises(Unreadable):
        read_video(content[:-40])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "ICO", "AVIF"])
def test_a_still_image_is_no_video(tmp_path, form):
    try:
        content = _encoded(Image.new("RGB", (64, 64)), form)
    except (KeyError, OSError):
        pytest.skip(f"Pillow is built without {form}")
    path = tmp_path / "still.mp4"
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(Unreadable, match="still image"):
            read_video(source)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (WAV, "no video track"),
        (_clip(0, samples=_tone()[None]), "no video track"),
        (CLIP[: len(CLIP) // 2], "cut off"),
        (CLIP[:40], "FFmpeg"),
        (b"no video at all, but a text\n" * 500, "FFmpeg"),
    ],
    ids=["wav", "m4a", "half an mp4", "truncated mp4", "text"],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.txt", "a.avi"])
def test_no_video(tmp_path, content, reason, name):
    path = tmp_path / name
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(Unreadable, match=reason):
            read_video(source)


def test_frames_that_change_size():
    content = _clip(6, "mpegts", "mpeg2video") + _clip(6, "mpegts", "mpeg2video", size=(96, 64))
    with pytest.raises(Unreadable, match="change size"):
        read_video(content, 4)


def test_tracks_that_appear_late():
    late = _clip(0, "mpegts", samples=_tone()[None], mpegts_start_pid="500", mpegts_pmt_start_pid="4000", tables_version="1")
    content = _clip(form="mpegts", codec="mpeg2video") * 4 + late
    for _ in range(5):
        assert _numbers(read_video(content, 4)) == [10, 10, 10, 10]


def test_large_frames_are_refused(monkeypatch):
    monkeypatch.setattr("gramian.data.video.MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(Unreadable, match="64 × 48 pixels"):
        read_video(CLIP)


@pytest.mark.parametrize(
    ("read", "name"), [(read_video, b"V_MPEG4/ISO/ASP"), (read_audio, b"A_PCM/INT/LIT"), (audio_seconds, b"A_PCM/INT/LIT")]
)
def test_codecs_that_ffmpeg_does_not_know(read, name):
    content = _clip(form="matroska", samples=_tone()[None], audio="pcm_s16le")
    assert name in content
    with pytest.raises(Unreadable, match="does not know"):
        read(content.replace(name, name[:2] + b"Z" * (len(name) - 2)))


def test_errors_of_a_decoder():
    good = _clip(form="mov", codec="png")
    start = good.index(b"\x89PNG", len(good) // 2)
    bad = good[:start] + b"\0" * 60 + good[start + 60 :]
    assert _numbers(read_video(good, 4)) == [2, 7, 12, 17]
    with pytest.raises(Unreadable, match="FFmpeg"):
        read_video(bad, 4)


def test_damaged_files_are_read_or_unreadable():
    generator = np.random.default_rng(0)
    contents = [CLIP, TALKING, WAV, _sound(_tone(0.2), form="OGG"), _encoded(Image.new("RGB", (9, 9)), "JPEG")]
    for content in contents:
        for _ in range(10):
            damaged = np.frombuffer(content, np.uint8).copy()
            damaged[generator.integers(0, len(damaged), 20)] = generator.integers(0, 256, 20)
            for read in (read_image, read_audio, audio_seconds, read_video):
                with suppress(Unreadable):
                    read(damaged.tobytes())


@pytest.mark.parametrize("read", [read_image, read_audio, read_video])
def test_the_same_call_gives_the_same_array(read):
    content = _encoded(Image.effect_noise((32, 32), 50), "JPEG") if read is read_image else TALKING
    assert np.array_equal(np.asarray(read(content)), np.asarray(read(content)))


def test_the_number_of_frames():
    with pytest.raises(InputError):
        read_video(CLIP, 0)


def test_postscript_is_not_run():
    with pytest.raises(Unreadable, match="not an image that Pillow knows"):
        read_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")


def test_parts_of_an_archive(tmp_path):
    first, second = BytesIO(), BytesIO()
    Image.new("RGB", (3, 2), "red").save(first, "PNG")
    Image.new("RGB", (5, 4), "blue").save(second, "PNG")
    (tmp_path / "archive").write_bytes(first.getvalue() + second.getvalue())
    start, size = len(first.getvalue()), len(second.getvalue())
    cell = {"path": str(tmp_path / "archive"), "offset": start, "size": size}
    assert read_image(cell).size == (5, 4)
    with pytest.raises(Unreadable, match="its archive is cut off"):
        read_image(cell | {"size": size + 1})
    with pytest.raises(Unreadable, match="no such file"):
        read_image(cell | {"path": str(tmp_path / "nothing")})


def test_the_table_of_media_can_be_relied_on():
    assert set(MEDIA) == set(get_args(Kind))
    for kind, medium in MEDIA.items():
        reader = Media(kind, rate=8000, frames=3)
        blank = medium.blank(Sampling(8000, frames=3))
        assert type(reader.blank()) is type(blank)
        assert type(reader.read(blank)) is type(blank), "what is decoded passes"
        assert medium.example.startswith('["') and medium.processors and medium.endings
    assert MEDIA["video"].blank(Sampling(frames=3)).shape == (3, 64, 64, 3)


def test_a_kind_of_media_is_an_entry_of_the_table(tmp_path, monkeypatch):
    from gramian.data import load
    from gramian.data.batches import Collator
    from gramian.data.checking import check_table

    depth = Medium(
        read=lambda cell, _sampling, folder, _generator: np.asarray(read_image(cell, folder))[..., 0] / np.float32(255),
        blank=lambda _: np.zeros((4, 4), np.float32),
        example='["map.depth"]',
        argument="images",
        processors=("AutoImageProcessor",),
        endings=".depth",
    )
    monkeypatch.setitem(MEDIA, "depth", depth)
    Image.new("L", (4, 4), 51).save(tmp_path / "a.depth", "png")
    (tmp_path / "b.depth").write_bytes(b"")
    table = load(tmp_path, raw=["depth"])
    reader = Media("depth")
    checked = check_table(table, Collator({"depth": reader}), progress=False)
    assert [cell.id for cell in checked.broken] == ["1"]
    assert np.array_equal(reader.read(table.columns["depth"][0], folder=tmp_path), np.full((4, 4), 0.2, np.float32))
    assert reader.blank().shape == (4, 4)


def test_images_that_are_decoded_give_what_their_files_would():
    layer = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    layer.putpixel((1, 0), (0, 0, 255, 255))
    turned = Image.new("RGB", (2, 1), "red")
    turned.getexif()[274] = 6
    deep = Image.fromarray(np.full((2, 2), 30_000, np.uint16))
    for image in (layer, turned, deep):
        content = BytesIO()
        image.save(content, "png", exif=image.getexif())
        assert _pixels_of(read_image(image)) == _pixels_of(read_image(content.getvalue()))
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    for array in (pixels, torch.from_numpy(pixels)):
        assert np.array_equal(np.asarray(Media("image").read(array)), pixels)
    assert _pixels_of(read_image(pixels[..., :1])) == _pixels_of(read_image(pixels[..., 0]))


def _pixels_of(image):
    return np.asarray(image).tolist()


def test_recordings_that_are_decoded_are_resampled_and_cut():
    pytest.importorskip("soxr")
    cell = {"array": np.stack([np.ones(8000, np.float32), np.zeros(8000, np.float32)]), "sampling_rate": np.int64(8000)}
    reader = Media("audio", rate=16_000, seconds=0.5)
    samples = reader.read(cell)
    assert samples.shape == (8000,)
    assert abs(samples[4000] - 0.5) < 1e-3
    assert reader.cut(cell, samples) == "1.0 s cut to 0.5"
    with pytest.raises(Unreadable, match="nor samples with their `sampling_rate`"):
        reader.read({"array": cell["array"]})


def test_a_table_names_no_files_outside_of_its_folder_and_its_roots(tmp_path):
    for name in ("own/a.bin", "own/in/b.bin", "root/c.bin", "own-not/d.bin", "e.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "own" / "link").symlink_to(tmp_path / "e.bin")
    (tmp_path / "own" / "in" / "up").symlink_to(tmp_path / "own" / "a.bin")
    (tmp_path / "own" / "out").symlink_to(tmp_path / "root")
    (tmp_path / "own" / "circle").symlink_to("circle")
    own, wide = Folder.of(tmp_path / "own"), Folder.of(tmp_path / "own", [tmp_path / "root", tmp_path / "e.bin"])
    for name in (
        "a.bin",
        "in/b.bin",
        "in/../a.bin",
        "in/up",
        str(tmp_path / "own" / "a.bin"),
        {"path": "a.bin", "bytes": None},
    ):
        assert isinstance(open_source(name, own), Path)
    for name in (str(tmp_path / "root" / "c.bin"), "out/c.bin", "link", str(tmp_path / "e.bin"), "../root/c.bin"):
        for cell in (name, {"path": name, "bytes": None}, {"path": name, "offset": 0, "size": 1}):
            with pytest.raises(Unreadable, match=f"outside of the table's folder; --media-root {tmp_path}.* allows it"):
                open_source(cell, own)
            assert open_source(cell, wide)
    for name in ("../own-not/d.bin", "/etc/passwd", "in/../../own-not/d.bin"):
        with pytest.raises(Unreadable, match="outside of the table's folder"):
            open_source(name, wide)
    for name, reason in (
        ("circle", "no possible path|no such file"),
        ("a\0b", "no possible path: .*embedded null"),
        ("in", "a folder"),
    ):
        with pytest.raises(Unreadable, match=reason):
            open_source(name, own)
    assert open_source("e.bin", tmp_path) == tmp_path / "e.bin" == open_source(tmp_path / "e.bin", tmp_path / "own")


@pytest.mark.parametrize(
    ("offset", "size"), [(0, "ten"), ("0", 1), (0, None), (-1, 1), (0, -1), (0, True), (0, 5 * 10**10), (1, 3)]
)
@pytest.mark.parametrize("kind", ["file", "pipe", "device"])
def test_parts_of_what_holds_less_are_refused_at_once(tmp_path, offset, size, kind):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"abc")
    path = "/dev/zero" if kind == "device" else str(tmp_path / kind)
    reason = "must be numbers of bytes|its archive is cut off" if kind == "file" else "a pipe or a device"
    with pytest.raises(Unreadable, match=reason):
        open_source({"bytes": None, "path": path, "offset": offset, "size": size})


@pytest.mark.parametrize("layout", ["mono", "5.1", "7.1"])
def test_recordings_of_many_channels(layout):
    buffer, channels = BytesIO(), {"mono": 1, "5.1": 6, "7.1": 8}[layout]
    samples = np.repeat(np.arange(1, channels + 1, dtype=np.float32) / 16, 4096).reshape(channels, -1)
    with av.open(buffer, "w", format="matroska") as container:
        track = container.add_stream("pcm_s16le", rate=RATE, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T.reshape(1, -1)), format="flt", layout=layout)
        frame.sample_rate, frame.pts = RATE, 0
        for each in av.AudioResampler(format="s16", layout=layout, rate=RATE).resample(frame):
            container.mux(track.encode(each))
        container.mux(track.encode(None))
    read = read_audio(buffer.getvalue(), RATE)
    assert len(read) == 4096
    assert np.abs(read - samples.mean(0)).max() < 1e-3


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16, np.int32, np.uint8])
def test_samples_of_every_type_and_door(kind):
    """As 16 bits of a file; bare samples are at the reader's rate."""
    tone = _tone(0.5)
    scale = {np.int16: 2**15, np.int32: 2**31, np.uint8: 2**7}.get(kind, 1)
    array = (tone * scale + (128 if kind is np.uint8 else 0)).astype(kind)
    for source in (
        array,
        torch.from_numpy(array),
        {"array": array, "sampling_rate": RATE},
        {"array": array[None], "sampling_rate": RATE},
    ):
        assert Media("audio").read(source) == pytest.approx(tone, abs=1.01 / 2**7 if kind is np.uint8 else 1e-4)
    reader = Media("audio", seconds=0.25)
    assert np.array_equal(reader.read(array), Media("audio").read(array)[: RATE // 4])
    assert reader.cut(array, reader.read(array)) == "0.5 s cut to 0.25"
    for bad in ([[1.0], [1.0, 2.0]], np.zeros((1, 2, 3)), ["a"]):
        with pytest.raises(Unreadable):
            Media("audio").read({"array": bad, "sampling_rate": RATE})


def test_frames_of_every_type_and_door():
    frames = np.full((3, 4, 5, 4), [200, 100, 0, 51], np.uint8)
    right = np.full((3, 4, 5, 3), [244, 224, 204], np.uint8)
    for array in (frames, frames.astype(np.float32) / 255, torch.from_numpy(frames), frames.astype(np.uint16) * 257):
        assert np.array_equal(Media("video").read(array), right)
    assert Media("video").read(right) is right
    for bad in (frames[0], frames[:0], np.full((1, 2, 2, 3), np.nan)):
        with pytest.raises(Unreadable):
            Media("video").read(bad)
