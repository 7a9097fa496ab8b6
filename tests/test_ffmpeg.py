"""Our decoding against FFmpeg's own programs, on files that they make: frames by time, samples, pictures."""

import json
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("soundfile")
pytest.importorskip("PIL")
if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
    pytest.skip("ffmpeg and ffprobe are not installed", allow_module_level=True)

from gramian.data.media import Unreadable, read_audio, read_image, read_video

RATE = 16_000
# 64 × 48 pixels, five frames; the corners and the frames differ.
PICTURE = "testsrc=s=64x48:r=10:d=0.5"
GREY = (
    PICTURE + ",hue=s=0"
)  # of 10 bits and of interlaced fields, ffmpeg places halved chroma otherwise than swscale alone does
CLEAR = "testsrc=s=64x48:r=10:d=0.5,format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='4*X'"
# Of two frequencies, both well below half of the lowest rate.
SOUND = "aevalsrc='0.3*sin(2*PI*(300+800*t)*t)|0.2*sin(2*PI*1000*t)':s=44100:d=0.4"
SIX = "aevalsrc='" + "|".join(f"0.1*sin(2*PI*{hertz}*t)" for hertz in (300, 500, 700, 50, 900, 1100)) + "':c=5.1:s=48000:d=0.3"
STEPS = "-vf", "select='lt(n,4)+eq(n,9)+eq(n,20)'", "-fps_mode", "vfr"  # a variable frame rate


def _run(*arguments: object) -> bytes:
    done = subprocess.run([*map(str, arguments)], capture_output=True, timeout=300, check=False)
    if done.returncode and b"nknown encoder" in done.stderr:
        pytest.skip(f"this ffmpeg lacks {done.stderr.decode().split()[-1]}")
    assert done.returncode == 0, done.stderr.decode()[-500:]
    return done.stdout


def _make(path: Path, *options: object) -> Path:
    _run("ffmpeg", "-v", "error", "-y", *options, path)
    return path


def _lavfi(source: str) -> tuple[str, ...]:
    return "-f", "lavfi", "-i", source


def _probe(path: Path, track: str, entries: str) -> list[dict[str, Any]]:
    out = _run("ffprobe", "-v", "error", "-select_streams", track, "-show_entries", entries, "-of", "json", path)
    return list(next(iter(value for name, value in json.loads(out).items() if name in ("frames", "streams"))))


def _frames(path: Path, *decoder: str) -> tuple[list[float], list[np.ndarray]]:
    """All frames on white, when each appears, and when the last disappears."""
    frames = _probe(path, "v:0", "frame=best_effort_timestamp_time,pkt_duration_time,duration_time")
    times = [float(frame["best_effort_timestamp_time"]) for frame in frames]
    times.append(times[-1] + float(frames[-1].get("duration_time") or frames[-1]["pkt_duration_time"]))
    raw = _run(
        *("ffmpeg", "-v", "error", *decoder, "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough"),
        *("-f", "image2pipe", "-c:v", "pam", "-pix_fmt", "rgba", "-"),
    )
    pictures = []
    while raw:
        header, raw = raw.split(b"ENDHDR\n", 1)
        size = dict(line.split() for line in header.decode().splitlines()[1:])
        height, width = int(size["HEIGHT"]), int(size["WIDTH"])
        layer = np.frombuffer(raw[: height * width * 4], np.uint8).reshape(height, width, 4).astype(float)
        pictures.append(layer[..., :3] * layer[..., 3:] / 255 + 255 - layer[..., 3:])
        raw = raw[height * width * 4 :]
    assert len(pictures) == len(times) - 1
    return times, pictures


H264 = "-c:v", "libx264", "-qp", "1"
VIDEOS: dict[str, tuple[Any, ...]] = {
    "b-frames.mp4": (*_lavfi(PICTURE), *H264, "-bf", 2, "-g", 3),
    "odd.mp4": (*_lavfi("testsrc=s=63x47:r=10:d=0.5"), *H264, "-pix_fmt", "yuv444p"),
    "ten.mkv": (*_lavfi(GREY), *H264, "-pix_fmt", "yuv420p10le"),
    "interlaced.mpg": (*_lavfi(GREY), "-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-q:v", 1),
    "negative.ts": (*_lavfi(PICTURE), "-c:v", "mpeg2video", "-q:v", 1, "-output_ts_offset", -5),
    "variable.mp4": (*_lavfi("testsrc=s=64x48:r=20:d=1.2"), *STEPS, *H264, "-pix_fmt", "yuv420p"),
    "variable.mkv": (*_lavfi("testsrc=s=64x48:r=20:d=1.2"), *STEPS, *H264, "-pix_fmt", "yuv420p"),
    "variable.gif": (*_lavfi("testsrc=s=64x48:r=20:d=1.2"), *STEPS),
    "clear.mov": (*_lavfi(CLEAR), "-c:v", "prores_ks", "-pix_fmt", "yuva444p10le"),
    "clear.png.mov": (*_lavfi(CLEAR), "-c:v", "png"),
    "clear.webm": (*_lavfi(CLEAR), "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-crf", 0, "-b:v", 0),
    "clear.apng": (*_lavfi(CLEAR), "-plays", 0),
    "second.mkv": (
        *(*_lavfi(PICTURE), *_lavfi("color=red:s=64x48:r=10:d=0.5"), "-map", 1, "-map", 0, *H264),
        *("-disposition:v:0", "default", "-disposition:v:1", "0"),
    ),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_videos(tmp_path, name):
    path = _make(tmp_path / name, *VIDEOS[name])
    decoder = ("-c:v", "libvpx-vp9") if name == "clear.webm" else ()
    (*times, end), pictures = _frames(path, *decoder)
    for count in (3, 8):
        for part, picture in enumerate(read_video(path, count)):
            moment = times[0] + (part + 0.5) * (end - times[0]) / count
            right = pictures[max(number for number, time in enumerate(times) if time <= moment + 1e-6)]
            assert np.abs(picture - right).max() <= 4


SOUNDS: dict[str, tuple[Any, ...]] = {
    **{
        f"{codec}.wav": (*_lavfi(SOUND), "-c:a", codec)
        for codec in ("pcm_u8", "pcm_s24le", "pcm_f64le", "pcm_alaw", "adpcm_ms")
    },
    "six.wav": _lavfi(SIX),
    "8000.wav": (*_lavfi(SOUND), "-ar", 8000),
    "192000.flac": (*_lavfi(SOUND), "-ar", 192_000),
    "a.mp3": (*_lavfi(SOUND), "-b:a", "128k"),
    "a.opus": (*_lavfi(SOUND), "-c:a", "libopus"),
    "a.m4a": (*_lavfi(SOUND), "-c:a", "aac"),
    "a.aac": (*_lavfi(SOUND), "-c:a", "aac"),
    "a.mka": (*_lavfi(SOUND), "-c:a", "ac3"),
    "late.mkv": (*_lavfi(PICTURE), "-itsoffset", 0.3, *_lavfi(SOUND), "-c:a", "flac"),
}


def _samples(path: Path, *options: object, track: int = 0) -> np.ndarray:
    raw = _run("ffmpeg", "-v", "error", "-i", path, "-map", f"0:a:{track}", *options, "-c:a", "pcm_f32le", "-f", "wav", "-")
    header, _, samples = raw.partition(b"data")
    channels = int.from_bytes(header[22:24], "little")
    return np.frombuffer(samples[4:], np.float32).reshape(-1, channels).mean(1)


@pytest.mark.parametrize("name", SOUNDS)
def test_recordings(tmp_path, name):
    path = _make(tmp_path / name, *SOUNDS[name])
    rate = int(_probe(path, "a:0", "stream=sample_rate")[0]["sample_rate"])
    np.testing.assert_allclose(read_audio(path, rate), _samples(path), rtol=0, atol=1e-4)
    ours, theirs = read_audio(path, RATE), _samples(path, "-ar", RATE)
    assert abs(len(ours) - len(theirs)) <= 1
    # Resamplers differ at the ends, by the length of their filters, and beyond 6.4 kHz, where this sound has nothing.
    inside = slice(160, len(theirs) - 160)
    np.testing.assert_allclose(ours[inside], theirs[inside], rtol=0, atol=2e-3)


def test_recordings_cut_without_encoding(tmp_path):
    for ending, source in (("m4a", "a.m4a"), ("mp3", "a.mp3"), ("flac", "192000.flac")):
        whole = _make(tmp_path / f"whole.{ending}", *SOUNDS[source])
        cut = _make(tmp_path / f"cut.{ending}", "-ss", 0.2, "-i", whole, "-c", "copy")
        rate = int(_probe(cut, "a:0", "stream=sample_rate")[0]["sample_rate"])
        np.testing.assert_allclose(read_audio(cut, rate), _samples(cut), rtol=0, atol=1e-4)


def test_chained_recordings(tmp_path):
    for ending in ("opus", "ogg"):
        first = _make(tmp_path / f"first.{ending}", *_lavfi(SOUND), "-c:a", "libopus" if ending == "opus" else "flac")
        second = _make(tmp_path / f"second.{ending}", *_lavfi(SIX), "-c:a", "libopus" if ending == "opus" else "flac")
        chained = first.read_bytes() + second.read_bytes()
        right = np.concatenate([_samples(path, "-ar", 48_000) for path in (first, second)])
        samples = read_audio(chained, 48_000)
        assert abs(len(samples) - len(right)) <= 2
        np.testing.assert_allclose(samples[2000:16_000], right[2000:16_000], rtol=0, atol=2e-3)
        np.testing.assert_allclose(samples[-9000:-2000], right[-9000:-2000], rtol=0, atol=2e-3)
        with pytest.raises(Unreadable, match="cut off"):
            read_audio(chained[:-100])


def test_covers_and_tracks(tmp_path):
    art = _make(tmp_path / "art.png", *_lavfi("testsrc=s=800x600"), "-frames:v", 1, "-compression_level", 0)
    assert art.stat().st_size > 1_000_000
    for ending in ("mp3", "m4a", "flac"):
        options = (*_lavfi(SOUND), "-i", art, "-map", 0, "-map", 1, "-c:v", "copy", "-disposition:v", "attached_pic")
        path = _make(tmp_path / f"art.{ending}", *options)
        np.testing.assert_allclose(read_audio(path, 44_100), _samples(path), rtol=0, atol=1e-4)
        with pytest.raises(Unreadable, match="no video track"):
            read_video(path)
    tracks = (*_lavfi(SOUND), *_lavfi(SOUND + ",volume=0.3"), "-map", 0, "-map", 1)
    for ending, default in (("mp4", 1), ("mkv", 1), ("mka", 0)):
        marks = [part for i in (0, 1) for part in (f"-disposition:a:{i}", "default" if i == default else "0")]
        path = _make(tmp_path / f"tracks.{ending}", *tracks, *marks)
        np.testing.assert_allclose(read_audio(path, 44_100), _samples(path, track=default), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["b-frames.mp4", "variable.mkv"])
def test_videos_that_are_cut_off(tmp_path, name):
    path = _make(tmp_path / name, *VIDEOS[name], "-movflags", "faststart")
    content, whole = path.read_bytes(), read_video(path)
    for part in (0.4, 0.7, 0.95, 0.999):
        with suppress(Unreadable):  # what is cut may be an index
            assert np.array_equal(read_video(content[: int(part * len(content))]), whole)
            assert part > 0.9


PICTURES: dict[str, tuple[object, ...]] = {
    "rgb48be.png": ("-pix_fmt", "rgb48be"),
    "gray16be.png": ("-pix_fmt", "gray16be"),
    "ya16be.png": ("-pix_fmt", "ya16be"),
    "rgba64be.png": ("-pix_fmt", "rgba64be"),
    "rgba.tiff": ("-pix_fmt", "rgba"),
    "gray16le.tiff": ("-pix_fmt", "gray16le"),
    "rgb48be.ppm": ("-pix_fmt", "rgb48be"),
    "pal8.gif": (),
    "clear.webp": ("-lossless", 1, "-pix_fmt", "bgra"),
    "odd.jpg": ("-vf", "crop=63:47,hue=s=0", "-q:v", 1),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(tmp_path, name):
    path = _make(tmp_path / name, *_lavfi(CLEAR.replace("d=0.5", "d=0.1")), *PICTURES[name])
    ours = np.asarray(read_image(path)).astype(float)
    raw = _run("ffmpeg", "-v", "error", "-i", path, "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "rgba64le", "-")
    layer = np.frombuffer(raw, "<u2").reshape(*ours.shape[:2], 4) / 65535
    right = 255 * (layer[..., :3] * layer[..., 3:] + 1 - layer[..., 3:])
    assert np.abs(ours - right).max() <= 2  # 16 bits are cut to 8 before they are laid on white
