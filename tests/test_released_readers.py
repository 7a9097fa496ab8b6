"""The released readers against literal formulas in float64: frames, colours, pixels, filterbanks, resampling, slices."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

import released_tiny as tiny
from gramian import InputError, Table
from gramian.data.audio import read_audio, sinc_resample
from gramian.data.batches import Collator
from gramian.data.cells import Cells
from gramian.data.checking import check_table
from gramian.data.content import Unreadable
from gramian.data.released import (
    DEVIATION,
    ENERGY_DEVIATION,
    ENERGY_MEAN,
    MEAN,
    TASKS,
    FilterbankReader,
    FrameReader,
    Task,
    filterbank,
    middles,
    released_pixels,
    task_settings,
)
from gramian.data.video import read_frames
from gramian.model.encoders.released.towers import _WordReader
from reference import released as literal

soundfile = pytest.importorskip("soundfile")
transformers = pytest.importorskip("transformers")


def test_the_middle_of_each_part_for_any_length():
    for count in range(1, 201):
        for parts in (1, 2, 4, 8, 16, 32):
            numbers = middles(count, parts)
            if count >= parts:
                expected = [part[(len(part) + 1) // 2 - 1] for part in np.array_split(np.arange(count), parts)]
                assert numbers == expected
            assert len(numbers) == parts
            assert numbers == sorted(numbers)
            assert numbers[0] >= 0
            assert numbers[-1] < count


def test_draws_come_from_every_place_of_each_part():
    generator = np.random.default_rng(0)
    draws = [middles(10, 3, generator) for _ in range(200)]
    for numbers, part in zip(zip(*draws, strict=True), np.array_split(np.arange(10), 3), strict=True):
        assert set(numbers) == set(part.tolist())


@pytest.mark.parametrize(("height", "width"), [(5, 9), (40, 33), (16, 16), (31, 8)])
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_pixels_without_antialiasing(height, width, resize):
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    size = 12
    scaled = (size, size)
    if resize == "crop":
        scaled = (size, int(size * width / height)) if height <= width else (int(size * height / width), size)
    expected = np.zeros((2, 3, size, size))
    top, left = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    for i in range(2):
        for channel in range(3):
            whole = literal.bilinear(frames[i, :, :, channel] / 255, *scaled)[top : top + size, left : left + size]
            expected[i, channel] = (whole - MEAN[channel]) / DEVIATION[channel]
    assert np.abs(released_pixels(frames, size, resize).numpy() - expected).max() < 1e-6


def test_a_strip_of_pixels_is_refused_where_it_would_be_scaled():
    strip = np.zeros((1, 2, 1000, 3), np.uint8)
    with pytest.raises(Unreadable, match="at most 32 times the other"):
        released_pixels(strip, resize="crop")
    assert released_pixels(strip, 8).shape == (1, 3, 8, 8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Ten frames of one colour each, brighter and brighter, in BT.709 as the file says."""
    import av

    path = tmp_path_factory.mktemp("clips") / "grey.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        stream.codec_context.colorspace = 1
        for number in range(10):
            frame = av.VideoFrame(16, 16, "yuv420p")
            for plane, value in zip(frame.planes, (60 + 12 * number, 90, 170), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.colorspace = 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("colours", "red", "green_u", "green_v", "blue"),
    [("bt601", 1.402, 0.344136, 0.714136, 1.772), ("file", 1.5748, 0.187324, 0.468124, 1.8556)],
)
def test_frames_by_number_and_colours_by_matrix(clip, colours, red, green_u, green_v, blue):
    frames = read_frames(clip, lambda count: middles(count, 4), colours=colours)
    assert frames.shape == (4, 16, 16, 3)
    for frame, number in zip(frames, (1, 4, 6, 8), strict=True):
        luma, u, v = (60 + 12 * number - 16) / 219, (90 - 128) / 224, (170 - 128) / 224
        expected = 255 * np.array([luma + red * v, luma - green_u * u - green_v * v, luma + blue * u])
        assert np.abs(frame[8, 8] - expected.clip(0, 255)).max() < 2


def test_a_video_is_read_as_its_decoded_frames(clip):
    reader = FrameReader(4, size=8, colours="file")
    everything = read_frames(clip, range)
    assert len(everything) == 10
    assert torch.equal(reader.read(clip), reader.read(everything))
    assert reader.read(everything[:2]).shape == (4, 3, 8, 8)
    assert FrameReader(4, train_frames=2, size=8).read(clip, generator=np.random.default_rng(0)).shape == (2, 3, 8, 8)
    drawn = {reader.read(clip, generator=np.random.default_rng(seed)).sum().item() for seed in range(5)}
    assert len(drawn) > 1
    assert reader.collate([reader.read(clip), reader.blank()]).shape == (2, 4, 3, 8, 8)


def test_media_of_another_kind_are_unreadable(tmp_path, clip):
    sound, words = tmp_path / "sound.wav", tmp_path / "words.mp4"
    soundfile.write(sound, np.zeros(16_000), 16_000)
    words.write_text("no video at all")
    for reader, path in (
        (FrameReader(), sound),
        (FrameReader(), words),
        (FilterbankReader(), clip),
        (FilterbankReader(), words),
    ):
        with pytest.raises(Unreadable):
            reader.read(path)
    with pytest.raises(Unreadable, match="neither a path nor bytes: int"):
        FrameReader().read(3)


def test_kaldis_filterbank():
    time = np.arange(4800) / 16_000
    samples = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.01 * np.random.default_rng(0).normal(size=4800) + 0.05
    samples[1600:2100] = 0.02  # a quiet frame, constant
    got, expected = filterbank(samples), literal.filterbank(samples * 2**15)
    assert got.shape == expected.shape == (1 + (4800 - 400) // 160, 64)
    assert np.abs(got - expected).max() < 1e-4
    assert np.abs(got - expected).mean() < 2e-6


@pytest.mark.parametrize(
    ("own", "rate"), [(44_100, 16_000), (8_000, 16_000), (48_000, 16_000), (11_111, 16_000), (16_000, 11_111)]
)
def test_the_windowed_sinc(own, rate):
    samples = np.random.default_rng(0).normal(size=90).astype(np.float32)
    expected = literal.resample(samples.astype(np.float64), own, rate)
    got = sinc_resample(samples, own, rate)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 2e-6
    whole = sinc_resample(np.tile(samples, 3), own, rate)
    assert np.abs(whole[: len(got) // 2] - got[: len(got) // 2]).max() < 2e-6


def test_the_left_channel_and_the_mean(tmp_path):
    left, right = np.random.default_rng(0).normal(size=(2, 8000)).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], 1), 16_000, "FLOAT")
    stereo = {"array": np.stack([left, right]), "sampling_rate": 16_000}
    for cell in (tmp_path / "stereo.wav", stereo):
        assert np.allclose(read_audio(cell, channels="left"), left)
        assert np.allclose(read_audio(cell), (left + right) / 2)
    assert np.allclose(read_audio(stereo, 8000, channels="left", resampler="sinc"), sinc_resample(left, 16_000, 8000))


@pytest.mark.parametrize("seconds", [0.025, 0.5, 10.3, 20.495, 35.0])
@pytest.mark.parametrize("slices", [1, 2, 3])
def test_the_middle_slices(seconds, slices, monkeypatch):
    def loud(samples):  # one number per frame, which says where it begins; the spectrum itself is tested above
        return np.repeat(samples[: len(samples) - 399 : 160, None], 64, 1)

    monkeypatch.setattr("gramian.data.released.filterbank", loud)
    samples = np.arange(1, 1 + round(seconds * 16_000), dtype=np.float32)
    frames = 1 + (len(samples) - 400) // 160
    energies = (loud(samples).astype(np.float64) - ENERGY_MEAN) / (2 * ENERGY_DEVIATION)
    padding = max(1024 * slices - frames, 1024 - frames % 1024)
    padded = np.concatenate([energies, np.zeros((padding, 64))])
    parts = np.array_split(np.arange(len(padded) // 1024), slices)
    expected = np.stack([padded[1024 * i : 1024 * (i + 1)] for i in (part[(len(part) + 1) // 2 - 1] for part in parts)])
    got = FilterbankReader(slices).read(samples)
    assert got.shape == (slices, 1024, 64)
    assert np.allclose(got.numpy(), expected, rtol=1e-6)


def test_empty_cells_that_count_and_those_that_do_not(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.full(16_000, 0.1), 16_000)
    (tmp_path / "broken.wav").write_text("no sound")
    cells = [str(tmp_path / "short.wav"), None, str(tmp_path / "broken.wav")]
    columns = {"audio": cells, "subtitle": ["a", "", None]}
    table = Table.from_columns({name: Cells(column) for name, column in columns.items()})
    subtitle = subtitle_reader()
    batch = Collator({"audio": FilterbankReader(missing="zeros"), "subtitle": subtitle})(table)
    assert batch.present["audio"].tolist() == [True, True, False]
    assert [cell.reason for cell in batch.broken] != []
    assert batch.inputs["audio"].shape == (2, 1, 1024, 64)
    assert not batch.inputs["audio"][1].any()
    assert batch.inputs["audio"][0].any()
    assert batch.present["subtitle"].tolist() == [True, True, True]
    assert batch.inputs["subtitle"]["attention_mask"].sum(1).tolist() == [3, 2, 2]
    missing = Collator({"audio": FilterbankReader(), "subtitle": subtitle})(table)
    assert missing.present["audio"].tolist() == [True, False, False]
    checked = check_table(table, Collator({"audio": FilterbankReader(), "subtitle": subtitle}), progress=False)
    assert checked.empty == 0


def subtitle_reader():
    """That of a subtitle tower, without its tower."""
    return _WordReader(transformers.BertTokenizer(vocab={word: i for i, word in enumerate(tiny.WORDS)}), 70, True)


def test_what_is_cut_off_is_said():
    reader = FilterbankReader(2)
    assert reader.cut(np.zeros(16_000 * 25, np.float32), None) == "25.0 s cut to 20.48"
    assert reader.cut(np.zeros(16_000 * 20, np.float32), None) is None
    assert reader.cut(None, None) is None
    words = subtitle_reader()
    assert words.cut("", " ".join(["cat"] * 80)) == "82 tokens cut to 70"
    assert words.cut("", "cat") is None


@pytest.mark.parametrize(
    ("name", "frames", "train", "slices", "resize", "caption", "letters", "pmrl"),
    [
        ("msrvtt", 8, 4, 1, "crop", 40, "tvas", (8, 40)),
        ("didemo", 8, 8, 2, "squash", 70, "tva", (8, 40)),
        ("activitynet", 8, 8, 2, "squash", 70, "tva", (8, 40)),
        ("vatex", 8, 8, 1, "squash", 40, "tvas", (16, 40)),
        ("audiocaps", 8, 8, 1, "squash", 40, "tva", (8, 40)),
        ("youcook2", 8, 8, 1, "squash", 40, "tvas", (8, 40)),
        ("clotho", 8, 8, 3, "squash", 40, "ta", (8, 40)),
    ],
)
def test_the_settings_of_each_data_set(name, frames, train, slices, resize, caption, letters, pmrl):
    task = task_settings(name)
    assert (task.frames, task.train_frames, task.slices, task.resize, task.caption_tokens) == (
        frames,
        train,
        slices,
        resize,
        caption,
    )
    assert "".join(modality[0] for modality in task.modalities) == letters
    assert (task.subtitle_tokens, task.rerank, task.colours, task.channels, task.stage) == (70, 50, "bt601", "mean", "volume")
    other = task_settings(name, "pmrl")
    assert (other.frames, other.caption_tokens) == pmrl
    assert (other.colours, other.channels) == ("file", "left")


def test_a_task_of_ones_own():
    task = replace(TASKS["msrvtt"], frames=16)
    assert task_settings(task, "pmrl") is task
    for options, message in (
        ({"frames": 0}, "`frames` must be an integer"),
        ({"resize": "pad"}, "`resize` must be one of squash, crop"),
        ({"modalities": ("video", "text")}, "must begin with text"),
    ):
        with pytest.raises(InputError, match=message):
            replace(task, **options)
    with pytest.raises(InputError, match="`slices` must be an integer"):
        FilterbankReader(0)
    with pytest.raises(InputError, match="`colours` must be one of file, bt601"):
        FrameReader(colours="rgb")
    assert isinstance(task, Task)
    assert math.isclose(2 * ENERGY_DEVIATION, 13.11164)
