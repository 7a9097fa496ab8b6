"""The public sets as tables: each format of annotations, and which file belongs to which item."""

import json
import wave
from typing import get_args

import numpy as np
import pytest
import torch

from gramian.cli import main
from gramian.cli.prepare import DataName
from gramian.data import load
from gramian.data.sets import SETS
from gramian.data.sets.annotated import read_annotations
from gramian.data.sets.corpora import CORPORA, collect, whole
from gramian.data.table import Table
from gramian.errors import InputError


def write(folder, name, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def touch(folder, *names):
    for name in names:
        write(folder, name, "x")
    return folder


def table_of(name, files, media, tmp_path, **options):
    return collect(name, files, [media], tmp_path / "table.parquet", **options)


def rows(made, *names):
    return list(zip(*(made.columns[name] for name in names), strict=True))


def test_the_command_offers_every_set():
    assert set(get_args(DataName)) == {*SETS, *CORPORA}


def entries(name, *sources):
    return [(one.id, one.texts, one.split) for source in sources for one in read_annotations(source, CORPORA[name].formats)]


CASES = {
    "msrvtt test": ("msrvtt", "MSRVTT_JSFUSION_test.csv", "key,vid_key,video_id,sentence\nret0,msr1,video1,a cat\n",
                    [("video1", ("a cat",), "test")]),
    "msrvtt with semicolons": ("msrvtt", "MSRVTT_JSFUSION_test.csv",
                               "key;vid_key;video_id;sentence\nret0;msr1;video1;a cat, or two\n",
                               [("video1", ("a cat, or two",), "test")]),
    "a caption of several lines": ("msrvtt", "test.csv",
                                   'key,vid_key,video_id,sentence\r\nr,m,v1,"a\nb"\r\nr,m,v2,c\u2028d\r\n',
                                   [("v1", ("a\nb",), "test"), ("v2", ("c\u2028d",), "test")]),
    "msrvtt train": ("msrvtt", "MSRVTT_train.9k.csv", "video_id\nvideo0\n", [("video0", (), "train")]),
    "msrvtt all": ("msrvtt", "MSRVTT_data.json",
                   {"videos": [{"video_id": "video0", "split": "validate"},
                               {"video_id": "video1", "split": "train"}],
                    "sentences": [{"video_id": v, "caption": c} for v, c in 
                                  [("video1", "b"), ("video0", "a"), ("video1", "c")]]},
                   [("video0", ("a",), "validation"), ("video1", ("b", "c"), "train")]),
    "didemo": ("didemo", "test_data.json",
               [{"video": "1@N0_a.mov", "description": " then ", "times": [[1, 1], [5, 5], [1, 1]]},
                {"video": "2@N0_b.", "description": "alone", "times": [[0, 0]]},
                {"video": "1@N0_a.mov", "description": "first", "times": [[0, 0], [0, 0], [4, 5]]}],
               [("1@N0_a", ("first then",), "test"), ("2@N0_b", ("alone",), "test")]),
    "activitynet": ("activitynet", "val_1.json",
                    {"v_1": {"duration": 9.0, "timestamps": [[0, 1], [1, 2]], "sentences": ["A dog.", " It runs."]}},
                    [("v_1", ("A dog.  It runs.",), "validation")]),
    "vatex": ("vatex", "vatex_public_test_english_v1.1.json", [{"videoID": "x_000001_000011", "enCap": ["a", "b"]}],
              [("x_000001_000011", ("a", "b"), "test")]),
    "audiocaps": ("audiocaps", "val.csv", "audiocap_id,youtube_id,start_time,caption\n1,abcdefghij_,30,\"a, b\"\n",
                  [("abcdefghij__30.000_40.000", ("a, b",), "validation")]),
    "vggsound": ("vggsound", "vggsound.csv", '-a,30,"people, many",train\nb_,7,rain,test\n',
                 [("-a_000030", ("people, many",), "train"), ("b__000007", ("rain",), "test")]),
    "vggsound test": ("vggsound", "test.csv", "-a_000030.mp4,rain\n", [("-a_000030", ("rain",), "test")]),
    "youcook2": ("youcook2", "youcookii_annotations_trainval.json",
                 {"database": {"ab": {"subset": "training", "annotations": [{"segment": [3, 9], "sentence": "cut"}]},
                               "cd": {"subset": "testing"}}},
                 [("ab_3_9", ("cut",), "train")]),
    "clotho": ("clotho", "clotho_captions_development.csv",
               "file_name,caption_1,caption_2\nA. b.wav,one,two\n", [("A. b", ("one", "two"), "train")]),
    "the authors' list": ("vatex", "descs_ret_test.json",
                          [{"video_id": "x", "desc": ["a", "b"], "subtitle": ""}, {"clip_id": "y", "caption": "c"}],
                          [("x", ("a", "b"), "test"), ("y", ("c",), "test")]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_format_says_what_its_items_are(case, tmp_path):
    name, file, content, expected = CASES[case]
    assert entries(name, write(tmp_path, file, content)) == expected


@pytest.mark.parametrize("name", CORPORA)
def test_the_authors_list_is_read_for_every_set(name, tmp_path):
    records = [{"video_id": "x", "desc": ["a", "b"], "subtitle": "s"}, {"clip_id": "y", "vast_cap": "c", "subtitle": ""}]
    (x, y) = read_annotations(write(tmp_path, "descs_ret_test.json", records), CORPORA[name].formats)
    assert (x.id, x.texts, x.subtitle, x.split) == ("x", ("a", "b"), "s", "test")
    assert (y.id, y.texts, y.subtitle, y.split) == ("y", ("c",), "", "test")


def test_a_file_that_does_not_say_its_split_is_told_it(tmp_path):
    path = write(tmp_path, "list.json", [{"id": "x", "caption": "a"}])
    assert entries("vatex", f"validation={path}") == [("x", ("a",), "validation")]
    with pytest.raises(InputError, match=r"does not say which split it is\. Write test="):
        entries("vatex", path)
    both = write(tmp_path, "train_test.json", [{"id": "x", "caption": "a"}])
    with pytest.raises(InputError, match="does not say which split"):
        entries("vatex", both)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("test.json", "{", "cannot be read: test.json is no JSON"),
        ("test.json", {"a": 1}, "in none of the formats of this set: an object with a"),
        ("test.json", [], "in none of the formats"),
        ("test.json", [{"name": "x"}], "in none of the formats of this set: it begins with"),
        ("test.csv", "a,b\n1,2\n", "in none of the formats"),
        ("test.csv", "", "in none of the formats"),
        ("test.json", [1, 2], "in none of the formats"),
        ("test.json", [{"id": {"a": 1}, "caption": 3}], "in none of the formats"),
        ("test.json", [{"id": "x", "caption": "\ud800"}], "holds half of a surrogate"),
        ("test.pkl", "x", "must be .json or .csv files"),
    ],
)
def test_other_annotations_are_refused(tmp_path, file, content, message):
    with pytest.raises(InputError, match=message):
        entries("msrvtt", write(tmp_path, file, content))


def test_annotations_must_exist_and_be_utf8(tmp_path):
    with pytest.raises(InputError, match=r"`annotations` must be files; .* does not exist"):
        entries("msrvtt", str(tmp_path / "test.csv"))
    (tmp_path / "test.csv").write_bytes(b"video_id\nvid\xe9o\n")
    with pytest.raises(InputError, match="is not in UTF-8"):
        entries("msrvtt", str(tmp_path / "test.csv"))


def test_a_clip_is_found_by_its_exact_name(tmp_path):
    csv = write(tmp_path, "test.csv", "key,vid_key,video_id,sentence\na,b,video1,one\na,b,video10,ten\na,b,video100,hundred\n")
    media = touch(tmp_path / "media", "videos/video10.mp4", "audios/video100.mp3", "videos/.video1.mp4")
    touch(tmp_path / "media", "audios/video10.mp3", "videos/video1")
    made = table_of("msrvtt", [csv], media, tmp_path)
    assert rows(made, "id", "video", "audio") == [
        ("video1", "media/videos/video1", None),  # a file without an ending is a video
        ("video10", "media/videos/video10.mp4", "media/audios/video10.mp3"),
        ("video100", None, "media/audios/video100.mp3"),
    ]
    assert made.counts["test"] == {"items": 3, "captions": 3, "video": 2, "audio": 2, "silent": 1}


def test_names_of_didemo_end_at_their_first_dot(tmp_path):
    data = [
        {"video": f"{n}@N0{ending}", "description": "a", "times": [[0, 0]]} for n, ending in enumerate([".mov", ".", ".3g2"])
    ]
    media = touch(tmp_path / "m", "0@N0.mov.mp4", "1@N0.", "2@N0.3g2", "0@N0.mp3", "1@N0.mp3", "2@N0.wav", "12@N0.mp4")
    made = table_of("didemo", [write(tmp_path, "test_data.json", data)], media, tmp_path)
    assert made.columns["video"] == ["m/0@N0.mov.mp4", "m/1@N0.", "m/2@N0.3g2"]


def test_ids_of_audiocaps_hold_dots(tmp_path):
    head = "audiocap_id,youtube_id,start_time,caption\n"
    names = ["aaaaaaaaaaa", "bbbbb_30_bb", "ccccccccccc", "ddddddddddd"]
    starts = [(names[0], 100), (names[0], 5), (names[1], 30), (names[1], 30), (names[2], 0), (names[3], 0), (names[3], 9)]
    csv = write(tmp_path, "test.csv", head + "".join(f"1,{name},{start},text {n}\n" for n, (name, start) in enumerate(starts)))
    media = touch(
        tmp_path / "m", f"{names[0]}_100.000_110.000.wav", f"{names[0]}_5.mp3", f"{names[1]}.flac", f"{names[2]}_0.mp3"
    )
    touch(media, f"{names[3]}.mp3", f"{names[2]}_0.000_1.000.wav")
    made = table_of("audiocaps", [csv], media, tmp_path)
    assert made.columns["audio"] == [
        f"m/{names[0]}_100.000_110.000.wav",
        f"m/{names[0]}_5.mp3",
        f"m/{names[1]}.flac",
        f"m/{names[2]}_0.mp3",
        None,  # the name of the video alone could be of either part of it
        None,
    ]
    assert made.columns["text"][2] == ["text 2", "text 3"]


def test_a_list_says_what_is_in_a_split_and_the_whole_set_adds_captions(tmp_path):
    everything = {
        "videos": [{"video_id": f"video{n}", "split": "test"} for n in range(4)],
        "sentences": [{"video_id": f"video{n}", "caption": f"{n}{k}"} for n in range(4) for k in "ab"],
    }
    files = [
        write(tmp_path, "MSRVTT_data.json", everything),
        write(tmp_path, "MSRVTT_train.9k.csv", "video_id\nvideo2\nvideo0\n"),
        write(tmp_path, "MSRVTT_JSFUSION_test.csv", "key,vid_key,video_id,sentence\nr,m,video1,chosen\n"),
        write(tmp_path, "descs_ret_test.json", [{"clip_id": "video1", "desc": "ours", "subtitle": " said "}]),
    ]
    media = touch(tmp_path / "m", "video0.mp3", "video1.mp3")
    made = table_of("msrvtt", files, media, tmp_path)
    assert rows(made, "id", "text", "split", "subtitle") == [
        ("video2", ["2a", "2b"], "train", None),
        ("video0", ["0a", "0b"], "train", None),
        ("video1", ["chosen"], "test", "said"),
    ]
    assert "1 items that no list names are left out." in made.notes
    assert made.counts["train"]["without media"] == 1
    every = table_of("msrvtt", files, media, tmp_path, captions="all")
    assert rows(every, "id", "item", "text")[:3] == [
        ("video2#0", "video2", "2a"), ("video2#1", "video2", "2b"), ("video0#0", "video0", "0a")
    ]  # fmt: skip
    assert every.columns["id"][-1] == "video1"
    alone = table_of("msrvtt", files[:1], media, tmp_path)
    assert alone.columns["id"] == [f"video{n}" for n in range(4)]


def test_splits_are_those_of_retrieval(tmp_path):
    part = {"v_1": {"sentences": ["a"]}}
    file = write(tmp_path, "val_1.json", part)
    made = table_of("activitynet", [file], touch(tmp_path / "m", "v_1.mp3"), tmp_path)
    assert made.columns["split"] == ["test"]
    with pytest.raises(InputError, match=r"put 1 items into two splits \(v_1\)"):
        table_of("activitynet", [file, write(tmp_path, "train.json", part)], tmp_path / "m", tmp_path)


def sound(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes(b"\1\0" * 800)
    return path


def test_the_sound_of_a_video_is_its_audio_and_a_silent_one_is_outside_the_released_gallery(tmp_path, capsys):
    av = pytest.importorskip("av")
    media = tmp_path / "elsewhere"
    media.mkdir()
    for name in ("loud", "mute"):
        with av.open(str(media / f"{name}.mp4"), "w") as container:
            video = container.add_stream("mpeg4", rate=4)
            video.width = video.height = 32
            audio = container.add_stream("aac", rate=16_000, layout="mono") if name == "loud" else None
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
            container.mux(video.encode())
            if audio is not None:
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate = 16_000
                container.mux(audio.encode(frame))
                container.mux(audio.encode())
    sound(media / "other.wav")
    file = write(tmp_path, "descs_test.json", [{"id": name, "caption": name} for name in ("loud", "mute", "other", "gone")])
    output = tmp_path / "tables" / "table.parquet"
    words = ["prepare", "msrvtt", "--annotations", file, "--media", str(media), "--output", str(output)]
    assert main([*words, "--gallery", "released"]) == 0
    shown = capsys.readouterr().out
    assert "Gallery: 2 of 4 test items (the papers' gallery: 884)." in shown and f"--media-root {media}" in shown
    raw = ("text", "video", "audio", "subtitle")
    table = load(output, raw=raw, media_root=media)
    assert table.split == ("test", "test-left-out", "test", "test-left-out")
    assert list(table.columns["audio"]) == [str(media / "loud.mp4"), None, str(media / "other.wav"), None]
    assert list(table.columns["video"])[:2] == [str(media / "loud.mp4"), str(media / "mute.mp4")]
    assert table.counts()["subtitle"] == 0
    assert main(words) == 0
    assert "Gallery: 4 of 4" in capsys.readouterr().out


def test_media_must_belong_to_items(tmp_path):
    file = write(tmp_path, "test.csv", "key,vid_key,video_id,sentence\na,b,video1,one\n")
    for media, message in ((touch(tmp_path / "m", "video10.mp4"), "expected 'video1' with an ending; the first file"),
                           (touch(tmp_path / "n", "a.txt"), "there are no media files"),
                           (tmp_path / "none", "must be existing folders")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            table_of("msrvtt", [file], media, tmp_path)
    with pytest.raises(InputError, match="hold no captions"):
        table_of("msrvtt", [write(tmp_path, "train.csv", "video_id\nvideo1\n")], touch(tmp_path / "m"), tmp_path)


def test_several_files_of_one_name_are_counted(tmp_path):
    file = write(tmp_path, "test.csv", "key,vid_key,video_id,sentence\na,b,video1,one\n")
    made = table_of("msrvtt", [file], touch(tmp_path / "m", "b/video1.mp3", "a/video1.wav"), tmp_path)
    assert made.columns["audio"] == ["m/a/video1.wav"]
    assert "1 names have several files of one kind (video1): the first is taken." in made.notes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "msrvtt"], "`output` must name the table of msrvtt"),
        (["prepare", "msrvtt", "--output", "x.csv"], "`output` must end in .parquet"),
        (["prepare", "msrvtt", "--output", "x.parquet"], "`annotations` must name the files of msrvtt"),
        (["prepare", "msrvtt", "--output", "x.parquet", "--annotations", "a.csv"], "`media` must name the folders"),
        (["prepare", "msrvtt", "--output", "x.parquet", "--again"], "`again` is for digits, emoji and furniture"),
        (["prepare", "digits", "--media", "m"], "`media` is for a set of your own files"),
        (["prepare", "digits", "--captions", "all"], "`captions` is for a set of your own files"),
        (["prepare", "msrvt"], "Did you mean 'msrvtt'"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_what_is_left_out_of_a_gallery_is_counted_beside_every_figure(tmp_path, capsys):
    vectors = {"text": torch.eye(6), "video": torch.eye(6)}
    split = ["test"] * 4 + ["test-left-out", "train"]
    Table.from_columns(vectors, split=split).save(tmp_path / "table.safetensors")
    words = ["evaluate", "--data", str(tmp_path / "table.safetensors"), "--output", str(tmp_path / "report")]
    assert main(words) == 0
    assert capsys.readouterr().out.count(" 4 of 5 ") == 3  # both ways, and the mean
    assert json.loads((tmp_path / "report" / "report.json").read_text())["whole"] == 5
    assert whole(load(tmp_path / "table.safetensors"), "all") == 6
    assert main([*words[:3], "--split", "all"]) == 0
    assert " of " not in capsys.readouterr().out.split("One modality")[1].split("items; missing")[0]
