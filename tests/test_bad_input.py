"""Bad input of every kind, to every command and in Python: one line that names what is wrong, exit code 2, nothing written."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from gramian import Aligner, Bundle, Gram, Pairwise, Recipe, Table, evaluate, fit, load, train
from gramian.benchmark.demo import demo
from gramian.cli import main
from gramian.errors import InputError
from gramian.losses import PMRL, Contrast, HyperGram, Loss, SoftmaxLoss, Sum, Symile
from gramian.model import Tower
from gramian.scores import SCORES, span
from synthetic import world

WIDTHS = {"text": 12, "image": 16, "audio": 10}


def _vectors(width: int, rows: int = 12) -> list[list[float]]:
    return np.random.default_rng(width).normal(size=(rows, width)).tolist()


def _csv(*rows: str) -> bytes:
    return "\n".join(["a,b", *rows, ""]).encode()


FILES: dict[str, bytes] = {
    "zero.csv": b"",
    "header.csv": _csv(),
    "latin.csv": 'id,a,b\né,"[1,2]","[2,1]"\n'.encode("latin-1"),
    "utf16.csv": 'a,b\n"[1,2]","[2,1]"\n'.encode("utf-16"),
    "semicolon.csv": b'a;b\n"[1,2]";"[2,1]"\n',
    "cut.csv": _csv('"[1,2]","[2,1'),
    "nan.csv": _csv('"[1,nan]","[2,1]"'),
    "words.csv": _csv("x,y"),
    "twice.csv": b'a,a\n"[1,2]","[2,1]"\n',
    "longer.csv": _csv('"[1,2]","[2,1]",3'),
    "unnamed.csv": b'id,a\n,"[1,2]"\n1,"[1,2]"\n',
    "deep.csv": _csv('"' + "[" * 100_000 + '","[1,2]"'),
    "broken.jsonl": b'{"a": [1,2], \n',
    "rows.jsonl": b"[1,2]\n",
    "nan.jsonl": b'{"a": [1,NaN], "b": [1,2]}\n',
    "null.jsonl": b'{"a": [1,null], "b": [1,2]}\n',
    "widths.jsonl": b'{"a": [1], "b": [1,2]}\n{"a": [1,2], "b": [1,2]}\n',
    "digits.jsonl": b'{"a": [1' + b"0" * 400 + b'], "b": [1,2]}\n',
    "latin.jsonl": '{"a": "é"}\n'.encode("latin-1"),
    "texts.jsonl": b'{"text": "a", "feat": [1,2]}\n{"text": "b", "feat": [2,1]}\n',
    "junk.parquet": b"PAR1junk",
    "junk.arrow": b"ARROW1junk",
    "junk.tar": b"junk" * 200,
    "junk.safetensors": b"junk" * 10,
    "x.npz": b"PK",
    "noending": b"a,b\n",
    "notes/readme.txt": b"x",
    "mixed/a.csv": _csv('"[1,2]","[2,1]"'),
    "mixed/b.jsonl": b'{"a": [1,2]}\n',
    "cut off/manifest.json": b"[]",
    "cut off/part-00000.parquet": b"PAR1",
    "bert/config.json": json.dumps({"model_type": "bert", "architectures": ["BertModel"]}).encode(),
    "bert/model.safetensors": b"x",
    "pickled/pytorch_model.bin": b"x",
    "empty.yaml": b"",
    "list.yaml": b"- a",
    "word.yaml": b"hello",
    "open.yaml": b"a: [",
    "tab.yaml": b"a:\n\t- b",
    "twice.yaml": b"dim: 1\ndim: 2",
    "latin.yaml": "data: é".encode("latin-1"),
    "binary.yaml": b"\xff\xfe",
    "tag.yaml": b"data: !!python/name:os.system",
    "loop.yaml": b"recipe: &a [*a]",
    "number.yaml": b"dim: " + b"9" * 6000,
    "null.yaml": b'data: ok.parquet\noutput: "a\\0b"',
    "option.yaml": b"dat: stamps",
    "field.yaml": b"data: ok.parquet\noutput: out\nrecipe: {epoch: 3}",
    "records.yaml": b"data: ok.parquet\noutput: out\nrecipe: [1]",
    "text.yaml": b"data: ok.parquet\noutput: out\ncolumns: text",
    "losses.yaml": b"data: ok.parquet\noutput: out\nloss: [1]",
    "score.yaml": b"data: ok.parquet\noutput: out\nloss: {class_path: Gram, init_args: {scor: cone}}",
    "trust.yaml": b"data: ok.parquet\ntrust_code: true",
    "nothing.yaml": b"data:",
    "custom.yaml": b"data: texts.jsonl\ntowers: {text: {class_path: Custom, init_args: {width: 3}}}",
}

TABLES: dict[str, dict[str, list[object]]] = {
    "one": {"a": _vectors(3, 1), "b": _vectors(2, 1)},
    "alone": {"a": _vectors(3)},
    "apart": {"a": [*_vectors(3, 6), *[None] * 6], "b": [*[None] * 6, *_vectors(2, 6)]},
    "repeated": {"id": ["x"] * 12, "a": _vectors(3), "b": _vectors(2)},
    "unnamed": {"id": ["x", *[None] * 11], "a": _vectors(3), "b": _vectors(2)},
    "listed": {"id": [[1.0]] * 12, "a": _vectors(3), "b": _vectors(2)},
    "torn": {"split": ["train", "test", "validation"] * 4, "item": ["z"] * 12, "a": _vectors(3), "b": _vectors(2)},
    "misspelt": {"split": ["tain"] * 12, "a": _vectors(3), "b": _vectors(2)},
    "halved": {"split": [*["train"] * 6, *[None] * 6], "a": _vectors(3), "b": _vectors(2)},
    "nan": {"a": [[float("nan"), 1.0]] * 12, "b": _vectors(2)},
    "infinite": {"a": [[float("inf"), 1.0]] * 12, "b": _vectors(2)},
    "beyond": {"a": [[1e300, 1.0]] * 12, "b": _vectors(2)},
    "ragged": {"a": [*_vectors(3, 6), *_vectors(4, 6)], "b": _vectors(2)},
    "nameless": {"": _vectors(3), "b": _vectors(3)},
    "zeros": {"a": [[0.0, 0.0]] * 12, "b": _vectors(2)},
    "truths": {"a": [[True, False]] * 12, "b": _vectors(2)},
}

CONFIGS: dict[str, dict[str, object]] = {
    "version 99": {"version": 99},
    "format": {"format": "x"},
    "modalities": {"modalities": []},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with everything that is wrong, and ok.parquet, al (an aligner) and run (a folder of a run) that are right."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path_factory.mktemp("place")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    for name, columns in TABLES.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    world(40).save(folder / "ok.parquet")
    (folder / "half.parquet").write_bytes((folder / "ok.parquet").read_bytes()[:2000])
    (folder / "hollow").mkdir()
    tarfile.open(folder / "empty.tar", "w").close()
    Aligner(WIDTHS, 8).save_pretrained(folder / "al")
    Aligner(WIDTHS | {"audio": 11}, 8).save_pretrained(folder / "wider")
    shutil.copytree(folder / "al", folder / "run" / "aligner")
    shutil.copy(folder / "al" / "model.safetensors", folder / "weights.safetensors")
    for name, change in CONFIGS.items():
        shutil.copytree(folder / "al", folder / name)
        path = folder / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for name, file, content in (("short", "model.safetensors", b"x" * 200), ("no json", "config.json", b"{")):
        shutil.copytree(folder / "al", folder / name)
        (folder / name / file).write_bytes(content)
    shutil.copytree(folder / "wider", folder / "swapped")
    shutil.copy(folder / "al" / "model.safetensors", folder / "swapped" / "model.safetensors")
    return folder


def _state(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def _refused(words, message, place, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GRAMIAN_CACHE", str(place / "cache"))
    monkeypatch.chdir(place)
    before = _state(place)
    capsys.readouterr()
    code = main(words)
    out, err = capsys.readouterr()
    assert (code, err.count("\n"), err[:9]) == (2, 1, "gramian: "), err
    assert "Traceback" not in out
    assert re.search(message, err), err
    assert _state(place) == before


TRAIN = "train --data ok.parquet --output out --recipe.epochs 1 --dim 4"
EVALUATE = "evaluate --data ok.parquet --model al"
EMBED = "embed --data ok.parquet --model al --output out"
BENCH = "bench --output out --tasks gram --sizes 4 --modalities 2 --dim 4 --rounds 1"
LOSS = f"{TRAIN} --loss"
SEALED = "/proc" if Path("/proc").is_dir() else "/System"
"""Where not even root makes folders, on Linux and on macOS."""
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")

LINES = [
    # words
    ("tarin", "`COMMAND` must be one of demo, .*; got 'tarin'. Did you mean 'train'"),
    ("''", "`COMMAND` must be one of demo"),
    ("--verson", "`COMMAND` must be one of .* got '--verson'"),
    ("train", "--data and --output must be given. See gramian train --help"),
    ("check", "--data must be given. See gramian check --help"),
    ("train --help --loss Gran", "`loss` must be one of .* Did you mean 'Gram'"),
    ("train --data ok.parquet", "--output must be given"),
    ("train --data ok.parquet --outptu out", "`outptu` is not an option of `gramian train`. Did you mean 'output'"),
    ("train --trust-cod", "Did you mean 'trust_code'"),
    ("train --columns --output out", "--columns needs a value after it; got --output"),
    (f"{TRAIN} --columns", "--columns needs a value after it; got nothing"),
    ("train --data ok.parquet --output --dim 3", "--output needs a value after it; got --dim"),
    (f"{TRAIN} --dim.more 1", "`dim.more` is not an option"),
    (f"{TRAIN} --recipe.epochs.more 1", "`recipe.epochs.more` is not an option"),
    (f"{TRAIN} --recipe.epoch 3", "Did you mean 'recipe.epochs'"),
    (f"{TRAIN} --recipe fast", "`recipe` must be a mapping of names to values; got 'fast'"),
    (f"{TRAIN} --dim 8", "`dim` is given twice. Leave one out"),
    (f"{TRAIN} --recipe.ring yes", "'yes' belongs to no option"),
    (f"{TRAIN} --resume yes", "'yes' belongs to no option"),
    (f"{TRAIN} --resume=perhaps", "`resume` must be true or false; got 'perhaps'"),
    (f"{TRAIN} --no-resume=true", "--no-resume takes no value; got 'true'"),
    ("train --data ok.parquet --output out --no-dim", "`dim` must be an integer.*; got False"),
    (f"{TRAIN} stamps", "'stamps' belongs to no option"),
    ("check stamps", "'stamps' belongs to no option.* A table: --data stamps"),
    ("check -data stamps", "'-data' belongs to no option"),
    ("demo --output out --data x", "`data` is not an option of `gramian demo`"),
    ("benchmark --output out", "--study must be given"),
    ("benchmark objectve --output out", "`study` must be one of .* Did you mean 'objectives'"),
    ("prepare emojis", "`data` must be one of .* Did you mean 'emoji'"),
    ("evaluate --strict ok.parquet", "'ok.parquet' belongs to no option"),
    ("compare", "--runs must be given"),
    ("compare run", "`runs` must be two or more to compare; got run"),
    ("compare nowhere run", "`runs` must be folders that hold ranks.parquet; 'nowhere' does not exist"),
    ("compare run run", "`runs` must be different folders; got run, run"),
    ("compare run nowhere", "`runs` must be folders that hold ranks.parquet; 'run' has none"),
    # empty words
    ("train --data ok.parquet --output ''", "`output` must not be empty"),
    ("train --data ok.parquet --output=", "`output` must not be empty"),
    (f"{TRAIN} --columns ''", "`columns` must not be empty"),
    (f"{TRAIN} --columns text,,image", "`columns` must not be empty; got 'text,,image'"),
    (f"{TRAIN} --loss ''", "`loss` must not be empty"),
    (f"{EVALUATE} --scores ''", "`scores` must not be empty"),
    (f"{EVALUATE} --split ' '", "`split` must not be empty"),
    # YAML files
    ("train nowhere.yaml", "`config` must be an existing YAML file; 'nowhere.yaml' does not exist"),
    ("train --config hollow", r"`config` must be an existing YAML file; 'hollow' cannot be read \(Is a directory\)"),
    ("train list.yaml word.yaml", "`config` must be one YAML file; got list.yaml, word.yaml"),
    ("train --config ok.parquet", "`config` must be a YAML file in UTF-8"),
    ("check empty.yaml", "`config` must map options to values.* holds nothing"),
    ("check list.yaml", "`config` must map options to values.* holds a list"),
    ("check word.yaml", "`config` must map options to values.* holds 'hello'"),
    ("check open.yaml", "`config` must be a YAML file in UTF-8; 'open.yaml' cannot be read .* in line 1"),
    ("check tab.yaml", "`config` must be a YAML file .* in line 2"),
    ("check twice.yaml", "'twice.yaml' cannot be read .*the key 'dim' occurs twice"),
    ("check latin.yaml", "`config` must be a YAML file in UTF-8; 'latin.yaml'"),
    ("check binary.yaml", "`config` must be a YAML file in UTF-8; 'binary.yaml'"),
    ("check tag.yaml", "could not determine a constructor for the tag .*os.system"),
    ("check loop.yaml", "an alias that holds itself"),
    ("check number.yaml", "'number.yaml' cannot be read"),
    ("train null.yaml", r"`output` in a file must lie in the working folder; got 'a\\x00b'"),
    ("train option.yaml", "`dat` is not an option of `gramian train`. Did you mean 'data'"),
    ("train field.yaml", "`recipe.epoch` is not an option of Recipe. Did you mean 'recipe.epochs'"),
    ("check field.yaml", "`recipe.epoch` is not an option of Recipe. Did you mean 'recipe.epochs'"),
    ("train records.yaml", "`recipe` must be a mapping of names to values; got a list"),
    ("train text.yaml", "`columns` must be a list of text or none; got 'text'"),
    ("train losses.yaml", "`loss` must be a name, or have `class_path: NAME`"),
    ("train score.yaml", "`loss.scor` is not an option of Gram. Did you mean 'loss.score'"),
    ("check trust.yaml", "`trust_code` may not be set in a file"),
    ("check nothing.yaml", "`data` must be text; got nothing"),
    ("check custom.yaml", "`towers.text` names 'Custom', which runs code: allow it with --trust-code"),
    # numbers
    (f"{TRAIN[:-8]} --dim 0", r"`dim` must be an integer in \[1, 1048576\]; got 0"),
    (f"{TRAIN[:-8]} --dim 99999999999", r"`dim` must be an integer in \[1, 1048576\]"),
    (f"{TRAIN[:-8]} --dim 1.5", "`dim` must be an integer.*; got 1.5"),
    (f"{TRAIN[:-8]} --dim many", "`dim` must be an integer.*; got 'many'"),
    (f"{TRAIN} --matching -1", "`matching` must be a finite number of at least 0; got -1"),
    (f"{TRAIN} --matching .nan", "`matching` must be a finite number of at least 0; got nan"),
    (f"{TRAIN} --validation_share 0", r"`validation_share` must lie in \(0, 1\); got 0"),
    (f"{TRAIN} --validation_share much", "`validation_share` must be a number; got 'much'"),
    (
        f"{TRAIN} --recipe.batch_size 1",
        "`recipe.batch_size` must be an integer of at least 2, for one item has nothing to contrast with",
    ),
    (f"{TRAIN} --recipe.batch_size 99999999999999999999", "`recipe.batch_size` must be an integer .* below 2⁶³"),
    (f"{TRAIN} --recipe.micro_batch 0", "`recipe.micro_batch` must be an integer of at least 1 or None"),
    (f"{TRAIN} --recipe.accumulate 99999999999999999999", "`recipe.accumulate` must be an integer of at least 1 and below 2⁶³"),
    (f"{TRAIN} --recipe.learning_rate 0", r"`recipe.learning_rate` must lie in \(0, 10\]; got 0"),
    (f"{TRAIN} --recipe.learning_rate .inf", r"`recipe.learning_rate` must lie in \(0, 10\]; got inf"),
    (f"{TRAIN} --recipe.weight_decay .nan", r"`recipe.weight_decay` must lie in \[0, 100\]; got nan"),
    (f"{TRAIN} --recipe.warmup 1", r"`recipe.warmup` must lie in \[0, 1\); got 1"),
    (f"{TRAIN} --recipe.max_gradient_norm 0", "`recipe.max_gradient_norm` must be a finite number above 0; got 0"),
    (f"{TRAIN} --recipe.seed -1", "`recipe.seed` must be an integer in"),
    (f"{TRAIN} --recipe.workers -1", "`recipe.workers` must be an integer in"),
    (f"{TRAIN} --recipe.workers 99999", "`recipe.workers` must be an integer in"),
    (f"{TRAIN} --recipe.patience 0", "`recipe.patience` must be an integer of at least 1 or None"),
    (f"{TRAIN} --recipe.precision fp32", "`recipe.precision` must be one of no, bf16, fp16; got 'fp32'"),
    (f"{TRAIN[:-26]} --recipe.epochs 0", "`recipe.epochs` must be an integer of at least 1; got 0"),
    (f"{TRAIN[:-26]} --recipe.epochs 1.5", "`recipe.epochs` must be an integer; got 1.5"),
    (f"{TRAIN} --head liner", "`head` must be one of .* got 'liner'. Did you mean 'linear'"),
    (f"{TRAIN} --report_to nothing", "`report_to` must be one of .* got 'nothing'"),
    (f"{EVALUATE} --ks 0", "`ks` must be an integer of at least 1; got 0"),
    (f"{EVALUATE} --ks 99999999999999999999", "`ks` must be an integer of at least 1 and below 2⁶³"),
    (f"{EVALUATE} --ks 1,x", "`ks` must be an integer; got 'x'"),
    (f"{EVALUATE} --rerank 0", "`rerank` must be an integer of at least 1; got 0"),
    (f"{EVALUATE} --workers -1", "`workers` must be an integer in"),
    (f"{EVALUATE} --subsets every", "`subsets` must be one of others, all, none; got 'every'"),
    (f"{EVALUATE} --scores spann", "`scores` must be one of span.*; got 'spann'. Did you mean 'span'"),
    (f"{EVALUATE} --scores span,span", "`scores` must not repeat an entry; got span, span"),
    ("evaluate --data misspelt.parquet --model al", "`data` has no rows of split 'test', only of tain. Name one with --split"),
    (f"{EVALUATE} --split tset", "`split` must be one of .*, all; got 'tset'. Did you mean 'test'"),
    (f"{EMBED} --batch_size 0", "`batch_size` must be an integer of at least 1 or None; got 0"),
    (f"{EMBED}.parquet --batch_size -1", "`batch_size` must be an integer of at least 1 or None; got -1"),
    (f"{EMBED} --shard_size 0", "`shard_size` must be an integer of at least 1"),
    (f"{EVALUATE} --corpus nowhere", "`corpus` must be a file, a folder, a hub id or one of"),
    ("benchmark scale --output out --sizes 0", "`sizes` must be an integer of at least 4; got 0"),
    (
        "check --data ok.parquet --task msrvtt --released nowhere.pt",
        "`released` must be a released checkpoint; there is no file",
    ),
    ("evaluate --data ok.parquet --task msrvtt --released hollow", "`released` '.*hollow' holds no checkpoint"),
    (f"{EMBED}.parquet --shard_size 0", "`shard_size` must be an integer of at least 1"),
    (f"{EMBED} --workers -1", "`workers` must be an integer in"),
    (f"{EMBED} --precision fp32", "`precision` must be one of no, bf16, fp16; got 'fp32'"),
    ("demo --output out --seeds 0", "`seeds` must be an integer of at least 1; got 0"),
    ("demo --output out --recipe.epochs x", "`recipe.epochs` must be an integer; got 'x'"),
    ("benchmark objectives --output out --seeds -1", "`seeds` must be an integer of at least 1; got -1"),
    ("benchmark objectives --output out --epochs 0", "`epochs` must be an integer of at least 1"),
    ("benchmark objectives --output out --methods nothing", "`methods` must be one of .* got 'nothing'"),
    (
        "benchmark objectives --output out --page nowhere.md",
        "`page` must be an existing Markdown file; there is no 'nowhere.md'",
    ),
    ("benchmark objectives --output out --page notes/readme.txt", "`page` must have the lines <!-- "),
    (f"{BENCH} --galleries 0", "`galleries` must be an integer in .* got 0"),
    ("bench --output out --sizes 1", "`sizes` must be an integer in .* got 1"),
    ("bench --output out --sizes 99999999999", "`sizes` must be an integer in"),
    ("bench --output out --sizes many", "`sizes` must be an integer; got 'many'"),
    ("bench --output out --modalities 9", r"`modalities` must be an integer in \[2, 8\]; got 9"),
    ("bench --output out --tasks speed", "`tasks` must be one of gram, .*; got 'speed'"),
    ("bench --output out --rounds 0", "`rounds` must be an integer of at least 1; got 0"),
    ("bench --output out --device tpu", "`device` must be one of .*cpu; got 'tpu'"),
    # losses
    (f"{LOSS} Gran", "`loss` must be one of .* got 'Gran'. Did you mean 'Gram'"),
    (f"{LOSS} os.system", "`loss` names 'os.system', which runs code: allow it with --trust-code"),
    (f"{LOSS} '{{class_path: Gram, weight: 1}}'", "`loss` must be one of .* got '{class_path: Gram, weight: 1}'"),
    (f"{LOSS} Matching", "name that one, and add --matching 0.1"),
    (f"{LOSS} Sum --loss.losses []", "`loss.losses` must hold at least one loss; got none"),
    (f"{LOSS} Sum --loss.losses [Gran]", "`loss.losses` must be one of .* Did you mean 'Gram'"),
    (f"{LOSS} Gram --loss.scor cone", "Did you mean 'loss.score'"),
    (f"{LOSS} Gram --loss.score con", "`loss.score` must be one of"),
    (f"{LOSS} Gram --loss.anchor video", "`loss.anchor` must be one of text, image, audio, 'each' or 'random'; got 'video'"),
    (f"{LOSS} Gram --loss.temperature 0", r"`loss.temperature` must lie in \[0.01, 100\]; got 0"),
    (f"{LOSS} Gram --loss.temperature -1", r"`loss.temperature` must lie in \[0.01, 100\]; got -1"),
    (f"{LOSS} Gram --loss.temperature 1e9", r"`loss.temperature` must lie in \[0.01, 100\]; got 1000000000"),
    (f"{LOSS} Gram --loss.temperature .inf", r"`loss.temperature` must lie in \[0.01, 100\]; got inf"),
    (f"{LOSS} Gram --loss.temperature warm", "`loss.temperature` must be a number or .* got 'warm'"),
    (f"{LOSS} Gram --loss.temperature '{{a: 1}}'", "`loss.temperature` must name each of text; got a"),
    (f"{LOSS} Gram --loss.label_smoothing 1", r"`loss.label_smoothing` must lie in \[0, 1\); got 1"),
    (f"{LOSS} Gram --loss.block_size 0", "`loss.block_size` must be an integer of at least 1 or None; got 0"),
    (f"{LOSS} Gram --loss.negatives 0", "`loss.negatives` must be an integer of at least 1 or None; got 0"),
    (f"{LOSS} PMRL --loss.alignment_temperature 0", r"`loss.alignment_temperature` must lie in \(0, 100\]; got 0"),
    (f"{LOSS} PMRL --loss.instance_temperature 1e9", r"`loss.instance_temperature` must lie in \(0, 100\]; got 1000000000"),
    (
        f"{LOSS} PMRL --loss.temperature 1",
        "`loss.temperature` is not an option of PMRL. Did you mean 'loss.instance_temperature'",
    ),
    (f"{LOSS} PMRL --loss.signed maybe", "`loss.signed` must be true or false; got 'maybe'"),
    (f"{LOSS} Symile --loss.negatives 3", "`loss.negatives` must be one of n, n_squared; got 3"),
    (f"{LOSS} HyperGram --loss.alpha 1", r"`loss.alpha` must lie in \(0, 1\), for α = 1 use Gram\(\); got 1"),
    (f"{LOSS} Pairwise --loss.pairs [[text,text]]", r"`loss.pairs` must hold pairs of two modalities"),
    (f"{LOSS} Pairwise --loss.pairs [[text,video]]", "`loss.pairs` must be of the modalities text, image, audio; got video"),
    (f"{TRAIN} --loss.score cone", "`loss.score` needs the name of what it is an option of"),
    (f"{TRAIN} --towers HuggingFace", "`towers` must map columns to encoders"),
    ("check --data texts.jsonl --towers.text Spam", "`towers.text` must be one of .* got 'Spam'"),
    ("check --data texts.jsonl --towers.text.model x", "`towers.text.model` needs the name of what it is an option of"),
    # columns
    (f"{TRAIN} --columns image,sound", "`columns` must be one of .* got 'sound'"),
    (f"{TRAIN} --columns text", "`data` must have two modalities to align; it has text alone"),
    (f"{TRAIN} --columns split", "column `split` must hold lists of floats; it holds string"),
    (f"{EVALUATE} --columns text", "`data` must have at least two modalities to evaluate; got text"),
    (f"{EVALUATE} --columns text,video", "`columns` must be one of .* got 'video'"),
    (f"{EMBED} --columns video", "`columns` must be one of text, image, audio; got 'video'"),
    (f"{EMBED} --columns text,text", "`columns` must not repeat an entry"),
    # models
    *(
        (f"{command} --model {model!r}{rest}", message)
        for command, rest in (("evaluate --data ok.parquet", ""), ("embed --data ok.parquet", " --output out.parquet"))
        for model, message in {
            "nowhere": "`model` must be a folder written by `save_pretrained`, or a hub id; 'nowhere' is no folder here",
            "ok.parquet": "'ok.parquet' is no folder here",
            "hollow": "'hollow' is not a saved Aligner: it has no config.json",
            "bert": "'bert' holds another kind of model",
            "pickled": "'pickled' is not a saved Aligner: it has no config.json",
            "version 99": "'version 99' was written in version 99 of the format; .* Upgrade gramian",
            "format": "'format' holds another kind of model",
            "modalities": "'modalities' is not a whole Aligner",
            "short": "'short' is not a whole Aligner; .*model.safetensors",
            "no json": "'no json' is not a whole Aligner; .*config.json",
            "swapped": "'swapped' is not a whole Aligner; .*of another shape",
            "wider": "column `audio` must have width 11; got 10",
        }.items()
    ),
    # outputs
    *(
        (f"{command} --output {output}", message)
        for command in (
            "train --data ok.parquet",
            EVALUATE,
            "embed --data ok.parquet --model al",
            "demo",
            "benchmark objectives",
        )
        for output, message in {
            "x.npz/deeper": "`output` must be a folder; '.*x.npz' is a file",
            "/dev/null": "`output` must be .*/dev/null",
            f"{SEALED}/nowhere/out": f"{SEALED}/nowhere cannot be used",
            "o" * 300: "File name too long",
        }.items()
    ),
    (f"{EVALUATE} --output run", "`output` 'run' holds a run, and its report. Name another folder"),
    ("train --data ok.parquet --output run", "`output` 'run' holds a run already. Go on with --resume"),
    (f"{EMBED[:-3]}ok.parquet", "`output` must differ from `data`"),
    (f"{EMBED[:-3]}hollow/..", "holds other files"),
    (f"{EMBED}.csv", "`output` must be one of .safetensors, .parquet; got '.csv'"),
    (f"{EMBED}.H5", "`output` must be one of .safetensors, .parquet; got '.h5'"),
    (f"{EMBED}.parquet --streaming", "`output` must be a folder, since `streaming` writes shards"),
    (f"{EMBED} --streaming --split test", "`split` cannot be taken from a stream"),
    ("embed --data ok.parquet --output out", "one of `model` and `towers` must be given"),
    ("embed --data texts.jsonl --model al --output out --streaming", "`data` has nothing in the columns that the model reads"),
    ("embed --data stamps --model al --output out --streaming", "column `image` must have width 16; got 1280"),
    # places
    ("check --data nowhere", "`data` must be a file, a folder, a hub id or one of .*; 'nowhere' does not exist"),
    ("check --data nowhere.csv", "'nowhere.csv' does not exist"),
    ("check --data https://host/x.csv", "'https://host/x.csv' does not exist"),
    ("check --data '*.parquet'", "does not exist"),
    ("check --data a/b", "'a/b' cannot be read as a hub data set"),
    ("check --data emoji", "`data` 'emoji' is not on this machine yet. Make it: gramian prepare emoji"),
    ("check --data nowhere/", "'nowhere/' does not exist"),
    (f"check --data {'x' * 5000}", "x{80}…x{40}.* File name too long"),
    ("check --data al", "'al' holds a model, no table."),
    # what tables hold
    *(
        (f"{command} {name!r}{rest}", message)
        for name, message in {
            "zero.csv": "'zero.csv' is empty: 0 bytes",
            "header.csv": "'header.csv' is empty: no rows",
            "latin.csv": "'latin.csv' is not in UTF-8 .*Save it as UTF-8",
            "utf16.csv": "'utf16.csv' is not in UTF-8 .*Save it as UTF-8",
            "semicolon.csv": "'semicolon.csv' separates its cells by ';'. Save it with commas",
            "cut.csv": "column `b`, row 0: .* is not a list of numbers",
            "nan.csv": "column `a`, row 0: .* is not a list of numbers",
            "words.csv": "'words.csv' has no column that holds lists of floats",
            "twice.csv": "'twice.csv' has several columns 'a'",
            "longer.csv": "'longer.csv' has a row of 3 fields, not 2",
            "unnamed.csv": "column `id` is empty in 1 of 2 rows",
            "deep.csv": "column `a`, row 0: .* is not a list of numbers",
            "broken.jsonl": "'broken.jsonl', line 1: no JSON",
            "rows.jsonl": "'rows.jsonl', row 1: must be an object",
            "nan.jsonl": "column `a` holds NaN or infinite values in 1 of 1 rows",
            "null.jsonl": "column `a`, row 0: .* some values are empty",
            "widths.jsonl": "column `a` must hold vectors of one width",
            "digits.jsonl": "column `a`, row 0: .* is not a list of numbers",
            "latin.jsonl": "'latin.jsonl', line 1: not UTF-8. Save it as UTF-8",
            "junk.parquet": "'junk.parquet' cannot be read as parquet",
            "half.parquet": "'half.parquet' cannot be read as parquet",
            "junk.arrow": "'junk.arrow' cannot be read as Arrow",
            "junk.tar": "'junk.tar' cannot be read as webdataset",
            "empty.tar": "'empty.tar' is empty: no rows",
            "junk.safetensors": "'junk.safetensors' cannot be read as safetensors",
            "weights.safetensors": "'weights.safetensors' must hold a table, or matrices",
            "x.npz": "`data` must be one of .*.safetensors; got '.npz'",
            "noending": "`data` must be one of .*; got ''",
            "hollow": "'hollow' .*holds no table and no media",
            "notes": "'notes' .*holds no table and no media",
            "mixed": "'mixed' holds tables of several formats",
            "cut off": "manifest.json' is damaged",
            "repeated.parquet": "column `id` must all be different; 11 repeat an earlier one",
            "unnamed.parquet": "column `id` is empty in 11 of 12 rows",
            "listed.parquet": "column `id` must hold text or numbers",
            "torn.parquet": "column `item` must each lie in one split",
            "halved.parquet": "column `split` is empty in 6 of 12 rows",
            "nan.parquet": "column `a` holds NaN or infinite values in 12 of 12 rows",
            "infinite.parquet": "column `a` holds NaN or infinite values in 12 of 12 rows",
            "beyond.parquet": "column `a` holds NaN or infinite values in 12 of 12 rows",
            "ragged.parquet": "column `a` must hold vectors of one width; got 3 .*, 4",
        }.items()
        for command, rest in (("check --data", ""), ("embed --model al --output out --streaming --data", ""))
    ),
    ("train --output out --data nowhere.parquet", "'nowhere.parquet' does not exist"),
    ("train --output out --data one.parquet", "must hold at least 4 items, 2 to train on and 2 to validate on; got 1"),
    ("train --output out --data alone.parquet", "`data` must have two modalities to align; it has a alone"),
    ("train --output out --data apart.parquet", "`data` must hold at least two items that share two modalities"),
    ("train --output out --data misspelt.parquet", "column `split` must name train items; it has tain"),
    ("train --output out --data nameless.parquet", "`columns` must be non-empty strings"),
    ("train --output out --data truths.parquet --columns a,b", "column `a` must hold lists of floats; it holds list<.*bool>"),
    ("evaluate --data zeros.parquet", "`columns` has present vectors that are zero"),
    ("evaluate --data ok.parquet --split all", "must share one width d; got text 12, image 16, audio 10"),
]


@pytest.mark.parametrize(("line", "message"), LINES, ids=[line[:90] for line, _ in LINES])
def test_a_command_line_that_cannot_be_run(line, message, place, capsys, monkeypatch):
    _refused(shlex.split(line), message, place, capsys, monkeypatch)


@NO_CUDA
@pytest.mark.parametrize("line", ["bench --output out --device cuda", f"{EMBED} --precision fp16"])
def test_what_needs_a_gpu(line, place, capsys, monkeypatch):
    _refused(
        shlex.split(line), "`device` must be one of cpu; got 'cuda'|`precision` 'fp16' needs an", place, capsys, monkeypatch
    )


EYE = torch.eye(3)
TABLE = world(12)
BUNDLE = Bundle.from_dict({"a": EYE, "b": EYE})

CALLS = {
    "fit a class": (
        lambda: fit(Aligner(WIDTHS, 4), Pairwise, TABLE),
        "`loss` must be a Loss; got the class Pairwise. Make one",
    ),
    "fit no loss": (lambda: fit(Aligner(WIDTHS, 4), None, TABLE), "`loss` must be a Loss; got None"),
    "fit a name": (lambda: fit("al", Pairwise(), TABLE), "`aligner` must be a Aligner; got 'al'"),
    "fit a dict": (lambda: fit(Aligner(WIDTHS, 4), Pairwise(), {"text": EYE}), "`train` must be a Table; got a dict"),
    "fit options": (
        lambda: fit(Aligner(WIDTHS, 4), Pairwise(), TABLE, recipe={"epochs": 1}),
        "`recipe` must be a Recipe or None",
    ),
    "fit nowhere": (
        lambda: fit(Aligner(WIDTHS, 4), Pairwise(), TABLE, output=3),
        "`output` must be a str or a Path or None; got 3",
    ),
    "recipe text": (lambda: Recipe(epochs="3"), "`epochs` must be an integer of at least 1; got '3'"),
    "recipe NaN": (lambda: Recipe(weight_decay=float("nan")), r"`weight_decay` must lie in \[0, 100\]; got nan"),
    "recipe half": (lambda: Recipe(epochs=1.5), "`epochs` must be an integer of at least 1; got 1.5"),
    "recipe precision": (lambda: Recipe(precision="fp32"), "`precision` must be one of no, bf16, fp16; got 'fp32'"),
    "recipe ring": (lambda: Recipe(ring="no"), "`ring` must be True or False; got 'no'"),
    "evaluate a table": (lambda: evaluate(TABLE), "`bundle` must be a Bundle; got a Table. An Aligner embeds a Table"),
    "evaluate a cut-off": (lambda: evaluate(BUNDLE, ks=5), "`ks` must be a list or a tuple; got 5"),
    "evaluate a score": (lambda: evaluate(BUNDLE, scores="span"), "`scores` must be a list or a tuple; got 'span'"),
    "embed a dict": (lambda: Aligner(WIDTHS, 4).embed({"text": EYE}), "`table` must be a Table or a Loader; got a dict"),
    "aligner list": (lambda: Aligner(["text"]), "`modalities` must be a Mapping; got a list. Name each, with its width"),
    "aligner text": (lambda: Aligner({"text": "wide"}), r"`modalities\['text'\]` must be an int or .*; got 'wide'"),
    "aligner half": (lambda: Aligner(WIDTHS, dim=4.0), "`dim` must be an integer in .*; got 4.0"),
    "aligner number": (lambda: Aligner({3: 4}), "`modalities` must be a str; got 3"),
    "aligner tensor": (lambda: Aligner(WIDTHS, 4)(EYE), "`columns` must be .*; got a Tensor"),
    "read from nothing": (
        lambda: Aligner.from_pretrained(None),
        "`pretrained_model_name_or_path` must be a str or a Path; got None",
    ),
    "save to nothing": (lambda: Aligner(WIDTHS, 4).save_pretrained(None), "`save_directory` must be a str or a Path; got None"),
    "load nothing": (
        lambda: load(None),
        "`data` must be a str or a Path; got None. Table.from_columns takes what is in memory",
    ),
    "load a dict": (lambda: load({"a": [1]}), "`data` must be a str or a Path; got a dict"),
    "load a column": (
        lambda: load("stamps", columns="text"),
        r"`columns` must be a list of names; got 'text'. Write \['text'\]",
    ),
    "load a raw column": (lambda: load("stamps", raw="text"), "`raw` must be a list of names; got 'text'"),
    "table of a list": (lambda: Table.from_columns([EYE]), "`columns` must be a Mapping; got a list. Map names to lists"),
    "table of text": (lambda: Table.from_columns({"text": "hello"}), r"must be a list with one cell per item; got 'hello'"),
    "table of holes": (lambda: Table.from_columns({"a": [[1.0, None]]}), "`a`.*row 0"),
    "table of lengths": (lambda: Table.from_columns({"a": EYE, "b": EYE[:2]}), "`columns` must have one length; got a 3, b 2"),
    "table of nothing": (lambda: Table.from_columns({}), "the table is empty"),
    "table of NaN": (
        lambda: Table.from_columns({"a": EYE * float("nan")}),
        "column `a` holds NaN or infinite values in 3 of 3 rows",
    ),
    "column of a table": (lambda: TABLE["image"], r"`rows` must be an index, .* For a column: select\('image'\)"),
    "table in another format": (lambda: TABLE.save("x.npz"), "`path` must be one of .safetensors, .parquet; got '.npz'"),
    "loss of nothing": (lambda: Pairwise()(None), "`columns` must be a Mapping; got None"),
    "loss of a tensor": (lambda: Pairwise()(EYE), "`columns` must be a Mapping; got a Tensor. Name them"),
    "loss of one": (lambda: Pairwise()({"a": EYE}), "two modalities"),
    "loss of one item": (lambda: Pairwise()({"a": EYE[:1], "b": EYE[:1]}), "two items"),
    "loss of NaN": (
        lambda: Pairwise()({"a": EYE * float("nan"), "b": EYE}),
        "`columns` has present vectors that are not finite",
    ),
    "loss of zeros": (lambda: Pairwise()({"a": 0 * EYE, "b": EYE}), "`columns` has present vectors that are zero"),
    "temperature text": (lambda: Gram(temperature="0.1"), r"`temperature` must lie in \[0.01, 100\]; got '0.1'"),
    "anchor": (lambda: Gram(anchor=3), "`anchor` must be a str; got 3"),
    "sign": (lambda: PMRL(signed="no"), "`signed` must be True or False; got 'no'"),
    "learned": (lambda: Gram(learn_temperature="no"), "`learn_temperature` must be True or False; got 'no'"),
    "smoothing": (lambda: Contrast(label_smoothing=1.0), r"`label_smoothing` must lie in \[0, 1\); got 1"),
    "alpha": (lambda: HyperGram(alpha="x"), r"`alpha` must lie in \(0, 1\)"),
    "negatives": (lambda: Symile(negatives="m"), "`negatives` must be one of n, n_squared; got 'm'"),
    "sum of a loss": (lambda: Sum(Pairwise()), "`losses` must be a list or a tuple; got a Pairwise"),
    "sum of classes": (lambda: Sum([Pairwise]), "`losses` must be a Loss; got the class Pairwise"),
    "score of texts": (lambda: span("x", "y"), "`queries` must"),
    "score of widths": (lambda: span(EYE, torch.eye(4)), "`queries` and `items` must share the width d; got 3 and 4"),
    "train a dict": (lambda: train("stamps", "x", recipe={"epochs": 1}), "`recipe` must be a Recipe; got a dict"),
    "train to null": (lambda: train("stamps", "a\0b"), r"`output` must be a path, which holds no null character"),
    "train a frame": (lambda: train({"a": [1]}, "x"), "`data` must be a str or a Path; got a dict. `fit` takes tables"),
    "train nowhere": (lambda: train("stamps", None), "`output` must be a str or a Path; got None"),
    "demo": (lambda: demo("x", columns=("image", "text"), anchor="audio"), "`anchor` must be one of the columns image, text"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_cannot_be_made(name, tmp_path, monkeypatch):
    call, message = CALLS[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_abstract_classes_are_not_made_and_unknown_names_are_refused(tmp_path):
    for make in (Loss, Tower, SoftmaxLoss):
        with pytest.raises(TypeError, match="abstract"):
            make()
    with pytest.raises(TypeError, match="nonsense"):
        Aligner(WIDTHS, 4).save_pretrained(tmp_path, nonsense=1)


@pytest.mark.parametrize("name", SCORES)
def test_no_score_hides_nan(name):
    one, nan = torch.full((1, 4), 0.5), torch.full((1, 4), torch.nan)
    assert SCORES[name].function(nan, one).isnan().all()
    assert SCORES[name].function(one, torch.cat([nan, one])).isnan().tolist() == [[True, False]]
