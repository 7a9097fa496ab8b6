"""Input from strangers: each attack ends in one line and exit code 2, and has read, written, run and fetched nothing.

An attack is a function of a fresh working folder that puts a stranger's files there and returns the words of the command line.
It runs in this process, where an audit hook sees what Python opens, imports, unpickles, starts and connects to.

    work/       the working folder, and the attacker's: commands may write here
    outside/    the user's other files: none may be read or changed, and none may appear
"""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import tiny
from gramian.cli import main
from gramian.cli.terminal import console_of
from gramian.data import load
from gramian.data.batches import Collator
from gramian.data.checking import check_table
from gramian.data.readers import Media
from gramian.errors import InputError
from gramian.model import Aligner, HuggingFace, SentenceTransformers

sentence_transformers = pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # a warning that becomes an error must not be what stops an attack

SECRET = "the-secret-of-outside"
TRAIN = "train --data u.jsonl --dim 4 --recipe.epochs 2 --recipe.checkpoint_every 1 --recipe.batch_size 8 --output run".split()  # noqa: SIM905
EMBED = "embed --data v.jsonl --model al --output vectors".split()  # noqa: SIM905
SECONDS, MEMORY = 20, 2 << 30
ATTACKS: dict[str, Callable[[Path], list[str]]] = {}

NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.sendto")
CODE = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "pickle.find_class",
    "os.startfile",
)


def attack(function: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Add an attack, by its name."""
    ATTACKS[function.__name__] = function
    return function


def attacks(**cases: object) -> Callable[[Callable[..., list[str]]], Callable[..., list[str]]]:
    """Add one attack per case: a function of the folder and the case."""

    def add(function: Callable[..., list[str]]) -> Callable[..., list[str]]:
        for name, case in cases.items():
            ATTACKS[f"{function.__name__}[{name}]"] = partial(function, case=case)
        return function

    return add


class _Watch:
    """Sees and refuses, while it is on, what no attack may do. A hook stays for the life of the process, so there is one."""

    def __init__(self) -> None:
        self.outside: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[object, ...]) -> None:
        if self.outside is None:
            return
        touched = event in NETWORK or event in CODE
        if event in (
            "open",
            "os.mkdir",
            "os.rename",
            "os.remove",
            "os.symlink",
            "os.link",
            "os.listdir",
            "os.scandir",
            "import",
        ):
            names = [os.fspath(each) for each in args[:2] if isinstance(each, str | os.PathLike)]
            link = event not in ("open", "os.listdir", "os.scandir") or (event == "open" and int(args[2]) & os.O_NOFOLLOW)
            paths = [
                os.path.join(os.path.realpath(os.path.dirname(name)), "") if link else os.path.realpath(name) for name in names
            ]
            touched = any(self.outside in path for path in paths)
        if touched:
            self.seen.append(f"{event} {args!r:.200}")
            raise PermissionError(f"refused by the test: {event}")

    @contextmanager
    def on(self, outside: Path) -> Iterator[None]:
        self.outside, self.seen = str(outside), []
        try:
            yield
        finally:
            self.outside = None


WATCH = _Watch()


class TooSlow(BaseException):
    """An attack that keeps the process busy."""


@contextmanager
def limits() -> Iterator[None]:
    """Seconds and bytes that an attack may take."""

    def stop(*_: object) -> None:
        raise TooSlow(f"over {SECONDS} s")

    status = Path("/proc/self/statm")
    used = int(status.read_text().split()[0]) * resource.getpagesize() if status.exists() else 0
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def state(folder: Path) -> dict[str, object]:
    """Every file and link below a folder, with its content."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def rows(path: Path, *records: dict[str, object]) -> str:
    """Write JSON lines, and give the file's name."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path.name


def edit(path: Path, **values: object) -> None:
    """Set values of a JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.fixture(scope="session")
def honest(tmp_path_factory):
    """What the user has: tables, models of each kind and a run, none of them hostile."""
    folder = tmp_path_factory.mktemp("honest")
    texts = ("a red cat", "a blue dog", "two birds", "a green house")
    rows(folder / "t.jsonl", *({"text": text, "feat": [i % 3, 1, 2, i % 5 + 1]} for i, text in enumerate(texts)))
    rows(folder / "u.jsonl", *({"id": f"r{i}", "a": [i % 5, 1.0 + i % 3, 2], "b": [1, i % 7, 1]} for i in range(40)))
    rows(folder / "i.jsonl", *({"image": "a.png", "a": [i, 1]} for i in range(3)))
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    (folder / "clip.yaml").write_text(
        "data: i.jsonl\ntowers: {image: {class_path: HuggingFace, init_args: {model: base/clip, kind: image}}}\n"
    )
    rows(folder / "v.jsonl", *({"a": [i, 1], "b": [1, i + 1]} for i in range(3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        bert = tiny.build("bert", folder / "base")
        tiny.build("clip", folder / "base")
        from sentence_transformers.base.modules import Dense, Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        modules = [Transformer(bert), Pooling(16), Dense(16, 8)]
        sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save_pretrained("base/st")
        Aligner({"a": 2, "b": 2}, 4, matcher={"layers": 1, "width": 8}).save_pretrained("al")
        Aligner({"text": HuggingFace(bert, "text"), "feat": 4}, 8).save_pretrained("al-hf")
        Aligner({"text": HuggingFace(bert, "text", mode="lora", lora={"r": 2}), "feat": 4}, 8).save_pretrained("al-lora")
        Aligner({"text": SentenceTransformers("base/st"), "feat": 4}, 8).save_pretrained("al-st")
        assert main(TRAIN) == main(EMBED) == 0
    return folder


@pytest.fixture
def world(honest, tmp_path, monkeypatch):
    """A working folder with the user's files, beside a folder that nothing may touch."""
    shutil.copytree(honest, tmp_path / "work")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("gramian.data.room._ROOM", 2**27)  # an eighth: bombs are small, too, and made in no time
    monkeypatch.setattr("gramian.data.room._ROWS", 2**21)
    return tmp_path


def run(world: Path, words: list[str], capsys) -> tuple[object, str]:
    """The exit code and what was printed (of a failure, to stderr alone), watched and limited."""
    before = state(world / "outside")
    capsys.readouterr()
    with WATCH.on(world / "outside"), limits():
        code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    printed = out + err
    assert state(world / "outside") == before
    assert WATCH.seen == []
    assert SECRET not in printed
    assert not [char for char in printed if char < " " and char != "\n"], printed
    return code, err if code == 2 else printed


def test_the_watch_sees_and_refuses(world):
    outside = world / "outside"
    with WATCH.on(outside):
        for trial in (
            lambda: (outside / "secret.txt").read_text(),
            lambda: (world / "work" / ".." / "outside" / "new").write_text(""),
            lambda: os.system("true"),
            lambda: __import__("socket").create_connection(("127.0.0.1", 9)),
            lambda: __import__("pickle").loads(b"cos\nsystem\n."),
        ):
            with pytest.raises(PermissionError, match="refused by the test"):
                trial()
    assert len(WATCH.seen) == 5


# A YAML file: what to run, and nothing that runs code, writes elsewhere or fills the memory.

LADDER = "  a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"  a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
ADAPTER = "{{class_path: HuggingFace, init_args: {{model: base/bert, kind: text, mode: lora, lora: {}}}}}"
LORA = f"data: t.jsonl\ntowers: {{{{text: {ADAPTER}}}}}"


@attacks(
    a_function="data: t.jsonl\ntowers: {text: {class_path: os.system, init_args: {command: touch ../outside/x}}}",
    a_builtin="data: t.jsonl\nloss: {class_path: builtins.eval, init_args: {source: '1'}}",
    a_module="data: t.jsonl\nloss: {class_path: evil.Loss}",
    a_module_of_torch="data: t.jsonl\nloss: {class_path: Matching, init_args: {matcher: {class_path: torch.nn.Linear}}}",
    a_relative_name="data: t.jsonl\ntowers: {text: {class_path: ..os.system}}",
    a_name_with_escapes='data: t.jsonl\ntowers: {text: {class_path: "\\e]0;own\\a\\e[2J"}}',
    custom="data: t.jsonl\ntowers: {text: {class_path: Custom, init_args: {module: {class_path: evil.Loss}, width: 2}}}",
    vouching_for_itself="data: t.jsonl\ntrust_code: true\ntowers: {text: {class_path: evil.Tower}}",
    python_tag="data: !!python/object/apply:os.system [touch ../outside/x]",
    python_name="data: !!python/name:os.system",
    binary_tag="data: !!binary aGVsbG8=",
    aliases="data: t.jsonl\ntowers:\n" + LADDER,
    aliases_in_a_record="data: t.jsonl\nrecipe:\n" + LADDER,
    an_alias_of_itself="data: t.jsonl\ntowers: &t\n  text: *t",
    a_merge_key="data: t.jsonl\nx: &x {a: 1}\n<<: *x",
    deep="data: " + "[" * 3000 + "]" * 3000,
    long_number="data: t.jsonl\ndim: " + "9" * 6000,
    wide_space="data: t.jsonl\ndim: 1000000000",
    a_wide_hidden_layer="data: u.jsonl\nhead: mlp\ndim: 1048576",
    many_processes="data: t.jsonl\nrecipe: {workers: 1000000}",
    twice="data: t.jsonl\ndata: u.jsonl",
    nothing_finite="data: u.jsonl\nloss: {class_path: Pairwise, init_args: {temperature: .nan}}",
    output_above="data: u.jsonl\noutput: ../outside/run",
    output_from_the_root="data: u.jsonl\noutput: /nobody/run",
    output_by_a_link="data: u.jsonl\noutput: link/run",
    a_module_by_lora=LORA.format("{megatron_core: evil, megatron_config: {a: 1}}"),
    a_pattern_by_lora=LORA.format("{target_modules: '(([a-z_.0-9]+)+)+!'}"),
    a_pattern_in_a_list=LORA.format("{target_modules: ['(([a-z_.0-9]+)+)+!']}"),
    a_rank_of_lora=LORA.format("{r: 1000000000}"),
    an_adapter_from_elsewhere=LORA.format("{init_lora_weights: ../outside/secret.txt}"),
    a_length=LORA.format("{r: 2}, max_length: 1000000000000"),
    a_path_as_a_hub_id="data: t.jsonl\ntowers: {text: {class_path: HuggingFace, init_args: {model: ../outside/x, kind: text}}}",
    an_address="data: t.jsonl\ntowers: {text: {class_path: HuggingFace, init_args: {model: 'http://127.0.0.1/x', kind: text}}}",
)
def yaml(work, case):
    (work / "evil.py").write_text("open('../outside/x', 'w')\n")
    (work / "link").symlink_to("../outside")
    (work / "y.yaml").write_text(case + "\n")
    return ["train", "y.yaml", *(["--output", "o"] if "output:" not in case else [])]


# An Aligner's folder: data alone, and all of it inside.


@attacks(
    an_absolute_source=lambda work: {"source": str(work / "base" / "bert")},
    a_relative_source=lambda _: {"source": "base/bert"},
    a_source_above=lambda _: {"source": "../outside/bert"},
    a_source_at_home=lambda _: {"source": "~/bert"},
    an_address=lambda _: {"source": "https://example.org/bert"},
    a_source_with_escapes=lambda _: {"source": "/\x1b[2J\x1b]0;own\x07"},
    a_source_that_is_no_text=lambda _: {"source": ["base", "bert"]},
    files_above=lambda _: {"files": "../base/bert"},
    files_from_the_root=lambda work: {"files": str(work / "base" / "bert")},
    files_behind_a_null=lambda _: {"files": "towers/0\0"},
    an_adapter_above=lambda _: {"files": "towers/0", "adapter": "../al-lora/towers/0"},
    another_class=lambda _: {"files": "towers/0", "class": "os.system"},
    a_list_of_classes=lambda _: {"files": "towers/0", "class": ["HuggingFace"]},
    custom=lambda _: {"files": "towers/0", "class": "Custom"},
    remote_code=lambda _: {"files": "towers/0", "options": {"kind": "text", "trust_remote_code": True}},
    a_revision_above=lambda _: {"source": "me/bert", "options": {"kind": "text", "revision": "../../x"}},
    frames=lambda _: {"files": "towers/0", "options": {"kind": "text", "frames": 10**9}},
    a_length=lambda _: {"files": "towers/0", "options": {"kind": "text", "max_length": 10**12}},
    seconds=lambda _: {"files": "towers/0", "options": {"kind": "text", "seconds": "30"}},
    a_rate=lambda _: {"files": "towers/0", "options": {"kind": "text", "learning_rate": "fast"}},
)
def description_of_a_tower(work, case):
    config = json.loads((work / "al-hf" / "config.json").read_text())
    tower = {name: value for name, value in config["towers"]["text"].items() if name != "files"}
    edit(work / "al-hf" / "config.json", towers={"text": tower | case(work)})
    return ["evaluate", "--data", "t.jsonl", "--model", "al-hf"]


@attacks(
    wide_space={"dim": 10**9},
    wide_features={"modalities": {"a": {"width": 10**9, "head": "mlp"}, "b": {"width": 2, "head": "linear"}}},
    many_layers={"matcher": {"layers": 10**9}},
    a_wide_matcher={"matcher": {"width": 2**40, "heads": 1}},
    a_matcher_of_lists={"matcher": {"layers": [2]}},
    options_of_a_matcher={"matcher": {"trust_code": True}},
    modalities_in_a_list={"modalities": ["a"]},
    another_head={"modalities": {"a": {"width": 2, "head": "os.system"}, "b": {"width": 2, "head": "linear"}}},
    a_name_with_escapes={"modalities": {"\x1b[2J\x07": {"width": 2, "head": "\x1b]0;own\x07"}}},
    a_version_with_escapes={"version": "\x1b[2J"},
    a_tower_that_is_itself={"towers": {"a": {"same_as": "a"}}},
    a_tower_in_a_list={"towers": {"a": {"same_as": ["a"]}}},
    tokens={"tokens": 7},
    not_finite={"dim": float("nan")},
    text_for_a_number={"dim": "4"},
)
def config_of_an_aligner(work, case):
    edit(work / "al" / "config.json", **case)
    return ["evaluate", "--data", "v.jsonl", "--model", "al"]


@attacks(
    deep='{"format": "gramian.aligner", "version": ' + "[" * 100_000 + "]" * 100_000 + "}",
    long_number='{"format": "gramian.aligner", "dim": ' + "9" * 5000 + "}",
    twice='{"format": "x", "format": "gramian.aligner", "version": 3}',
    a_list="[]",
    no_text=b"\xff\xfe\x00",
)
def config_that_is_no_json(work, case):
    (work / "al" / "config.json").write_bytes(case if isinstance(case, bytes) else case.encode())
    return ["embed", "--data", "v.jsonl", "--model", "al", "--output", "v.parquet"]


@attacks(
    config="al-hf/config.json",
    weights="al-hf/model.safetensors",
    card="al-hf/README.md",
    tower="al-hf/towers/0",
    towers="al-hf/towers",
    tower_config="al-hf/towers/0/config.json",
    tower_weights="al-hf/towers/0/model.safetensors",
    tokenizer="al-hf/towers/0/tokenizer.json",
    adapter="al-lora/towers/0/adapter_model.safetensors",
    pooling="al-st/towers/0/1_Pooling",
)
def a_link_of_an_aligner(work, case):
    path = work / case
    target = work / "base" / path.name
    path.rename(target)  # what it leads to would do: it is the link that is refused
    path.symlink_to(target)
    return ["evaluate", "--data", "t.jsonl", "--model", case.partition("/")[0]]


# An encoder's folder: safetensors, a tokenizer and JSON.


@attacks(
    remote_code=("config.json", {"auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}}),
    remote_code_of_another=("config.json", {"auto_map": {"AutoModel": "evil/repo--evil.Model"}, "model_type": "new"}),
    remote_tokenizer=("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
    nested_remote_code=("config.json", {"text_config": {"auto_map": {"AutoConfig": "evil.Config"}}}),
    a_kernel=("config.json", {"attn_implementation": "evil/kernel"}),
    a_kernel_for_a_part=("config.json", {"_attn_implementation": {"text_config": "evil/kernel:forward"}}),
    a_backbone=("config.json", {"backbone": "evil/backbone", "use_pretrained_backbone": True}),
    a_quantiser=("config.json", {"quantization_config": {"quant_method": "fp8"}}),
    a_timm_model=("config.json", {"model_type": "timm_wrapper", "architecture": "hf-hub:evil/model"}),
    an_unknown_model=("config.json", {"model_type": "evil"}),
    escapes=("config.json", {"architectures": ["\x1b]0;own\x07"]}),
    escapes_in_a_name=("config.json", {"\x1b[2J": 1}),
    wide_layers=("config.json", {"hidden_size": 2**30, "intermediate_size": 2**30}),
    many_layers=("config.json", {"num_hidden_layers": 10**9}),
    some_thousand_layers=("config.json", {"num_hidden_layers": 4000}),
    many_words=("config.json", {"vocab_size": 10**9}),
    many_positions=("config.json", {"max_position_embeddings": 2**40}),
    numbers_as_text=("config.json", {"hidden_size": "16"}),
    a_tokenizer_outside=("tokenizer_config.json", {"vocab_file": "../../../../outside/secret.txt"}),
    a_fast_tokenizer_outside=("tokenizer_config.json", {"fast_tokenizer_files": ["../../../../outside/secret.txt"]}),
    a_map_outside=("tokenizer_config.json", {"special_tokens_map_file": "../outside/secret.txt"}),
    an_index_outside=(
        "model.safetensors.index.json",
        {"metadata": {}, "weight_map": {"a": "../../../base/bert/model.safetensors"}},
    ),
    an_index_from_the_root=("model.safetensors.index.json", {"metadata": {}, "weight_map": {"a": "/etc/passwd"}}),
    an_index_of_numbers=("model.safetensors.index.json", {"metadata": {}, "weight_map": {"a": 7}}),
    an_adapter=("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "../outside/bert"}),
)
def settings_of_an_encoder(work, case):
    name, values = case
    folder = work / "al-hf" / "towers" / "0"
    (folder / "evil.py").write_text("open('../outside/x', 'w')\n")
    if not (folder / name).exists():
        (folder / name).write_text("{}")
    edit(folder / name, **values)
    return ["evaluate", "--data", "t.jsonl", "--model", "al-hf"]


@attacks(
    a_size={"size": 10**6},
    escapes={"image_processor_type": "\x1b]0;own\x07"},
    a_crop={"crop_size": {"height": 10**6, "width": 10**6}},
    a_side={"size": {"shortest_edge": 10**6}},
    remote_code={"auto_map": {"AutoImageProcessor": "evil.Processor"}},
    another_class={"image_processor_type": "os.system"},
)
def settings_of_a_processor(work, case):
    path = work / "base" / "clip" / "preprocessor_config.json"
    edit(path if path.exists() else path.with_name("processor_config.json"), **case)
    return ["check", "clip.yaml"]


class Payload:
    """Unpickled, it makes a file outside."""

    def __reduce__(self):
        return os.system, ("touch ../outside/x",)


@attacks(
    weights="al-hf/towers/0/model.safetensors pytorch_model.bin evaluate",
    weights_of_sentences="al-st/towers/0/model.safetensors pytorch_model.bin evaluate",
    weights_of_a_module="al-st/towers/0/2_Dense/model.safetensors pytorch_model.bin evaluate",
    weights_of_an_adapter="al-lora/towers/0/adapter_model.safetensors adapter_model.bin evaluate",
    weights_of_an_aligner="al/model.safetensors pytorch_model.bin evaluate",
    weights_named_safe="al-hf/towers/0/model.safetensors model.safetensors evaluate",
    history="run/checkpoints/000002/x custom_checkpoint_0.pkl train",
    optimiser="run/checkpoints/000002/x optimizer.bin train",
    schedule="run/checkpoints/000002/x scheduler.bin train",
    random_states="run/checkpoints/000002/x random_states_0.pkl train",
    best="run/checkpoints/000002/x best.pt train",
    state="run/checkpoints/000002/state.safetensors state.safetensors train",
)
def a_pickle(work, case):
    gone, name, command = case.split()
    path = work / gone
    path.unlink(missing_ok=True)
    torch.save({"x": Payload()}, path.with_name(name))
    data = "v.jsonl" if gone.startswith("al/") else "t.jsonl"
    return [*TRAIN, "--resume"] if command == "train" else [command, "--data", data, "--model", gone.partition("/")[0]]


@attacks(
    code={"contra_temp": Payload()},
    code_below={"model": {"state_dict": Payload()}},
    no_tensors={"contra_temp": 0.07},
    another_model={"encoder.weight": torch.ones(2)},
    a_name_with_escapes={"\x1b[2J\x1b]0;own\x07": torch.ones(2)},
    more_than_it_holds={"contra_temp": torch.ones(1).expand(2**50)},
    without_memory={"contra_temp": torch.ones(2**40, device="meta")},
    nothing={},
)
def released_checkpoint(work, case):
    torch.save(case, work / "released.pt")
    return ["evaluate", "--data", "t.jsonl", "--released", "released.pt", "--task", "msrvtt"]


@attack
def a_released_checkpoint_of_a_yaml_file(work):
    torch.save({"audio_encoder.layer_norm.weight": Payload()}, work / "released.pt")
    tower = "{class_path: ReleasedAudio, init_args: {model: released.pt}}"
    (work / "y.yaml").write_text(f"data: t.jsonl\ntowers: {{text: {tower}}}\n")
    return ["check", "y.yaml"]


@attack
def names_of_weights_with_escapes(work):
    path = work / "al-hf" / "towers" / "0" / "model.safetensors"
    save_file(load_file(path) | {"\x1b]0;own\x07": torch.ones(2)}, path, {"format": "pt"})
    return ["evaluate", "--data", "t.jsonl", "--model", "al-hf"]


# sentence-transformers: modules of a closed list.

ROUTER = "sentence_transformers.base.modules.router.Router"


@attacks(
    router=ROUTER,
    old_router="sentence_transformers.models.Router",
    nested="sentence_transformers.sentence_transformer.model.SentenceTransformer",
    words="sentence_transformers.sentence_transformer.modules.word_embeddings.WordEmbeddings",
    a_file_beside="evil.Evil",
    a_function="os.system",
    a_class_of_torch="torch.nn.Identity",
    escapes="\x1b[2Jsentence_transformers.models.Pooling",
    a_number=7,
)
def type_of_a_module(work, case):
    folder = work / "al-st" / "towers" / "0"
    (folder / "evil.py").write_text("open('../outside/x', 'w')\nclass Evil: pass\n")
    structure = {"query": ["nested"], "document": ["nested"]}
    nested = {"types": {"nested": "sentence_transformers.SentenceTransformer"}, "structure": structure, "parameters": {}}
    (folder / "router_config.json").write_text(json.dumps(nested))
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, {"idx": 9, "name": "9", "path": "", "type": case}]))
    return ["embed", "--data", "t.jsonl", "--model", "al-st", "--output", "v.parquet"]


@attacks(
    path_above=("modules.json", "path", "../../../base/bert"),
    path_from_the_root=("modules.json", "path", "/etc"),
    an_activation_of_torch=("2_Dense/config.json", "activation_function", "torch.hub.load"),
    an_activation_that_compiles=("2_Dense/config.json", "activation_function", "torch.utils.cpp_extension.BuildExtension"),
    a_wide_activation=("2_Dense/config.json", "out_features", 2**30),
    a_tokenizer=("sentence_bert_config.json", "tokenizer_name_or_path", "evil/tokenizer"),
    a_pickle=("sentence_bert_config.json", "model_args", {"weights_only": False, "use_safetensors": False}),
    a_folder=("sentence_bert_config.json", "model_args", {"device_map": {"": "disk"}, "offload_folder": "../outside/made"}),
    a_kernel=("sentence_bert_config.json", "model_kwargs", {"attn_implementation": "evil/kernel"}),
    options_of_the_tokenizer=("sentence_bert_config.json", "processor_kwargs", {"tokenizer_file": "../outside/secret.txt"}),
    options_of_the_config=("sentence_bert_config.json", "config_args", {"auto_map": {"AutoConfig": "evil.Config"}}),
    a_method=("sentence_bert_config.json", "modality_config", {"text": {"method": "push_to_hub", "method_output_name": None}}),
    another_task=("sentence_bert_config.json", "transformer_task", "text-generation"),
    a_length_of_text=("sentence_bert_config.json", "max_seq_length", "long"),
)
def settings_of_a_module(work, case):
    name, key, value = case
    path = work / "al-st" / "towers" / "0" / name
    content = json.loads(path.read_text())
    (content[-1] if isinstance(content, list) else content)[key] = value
    path.write_text(json.dumps(content))
    return ["evaluate", "--data", "t.jsonl", "--model", "al-st"]


@attacks(
    a_module={"megatron_config": {"a": 1}, "megatron_core": "evil"},
    a_pattern={"target_modules": "(([a-z_.0-9]+)+)+!"},
    a_pattern_in_a_list={"target_modules": ["(([a-z_.0-9]+)+)+!"]},
    a_pattern_of_layers={"layers_pattern": "(([a-z_.0-9]+)+)+!", "layers_to_transform": [0]},
    a_pattern_of_ranks={"rank_pattern": {"(([a-z_.0-9]+)+)+!": 2}},
    rank={"r": 10**9},
    another_kind={"peft_type": "PROMPT_TUNING"},
    remote_code={"auto_map": {"AutoModel": "evil.Model"}},
    weights_of_another={"init_lora_weights": "../outside/secret.txt"},
    repeated_layers={"layer_replication": [[0, 10**9]]},
    text={"r": "2"},
)
def settings_of_an_adapter(work, case):
    edit(work / "al-lora" / "towers" / "0" / "adapter_config.json", **case)
    return ["evaluate", "--data", "t.jsonl", "--model", "al-lora"]


# A run's folder.


@attacks(
    history={"history": {"note": 7}},
    records={"history": {"records": ["\x1b[2J"], "best_epoch": 1, "best": None, "looks_since_best": 0, "broken": []}},
    steps={"steps": "9"},
    many_steps={"steps": 10**400},
    rates={"rates": [0.1]},
    scaler={"scaler": {"scale": ["x"]}},
    settings={"run": {"epochs": "\x1b[2J\x1b]0;own\x07"}},
    settings_in_a_list={"run": [1]},
    not_finite={"rates": [float("nan")] * 4},
)
def state_of_a_run(work, case):
    edit(work / "run" / "checkpoints" / "000002" / "run.json", **case)
    return [*TRAIN, "--resume"]


@attack
def a_lock_that_is_a_link(work):
    (work / "run" / ".gramian.lock").symlink_to("../../outside/secret.txt")
    return [*TRAIN, "--resume"]


@attack
def a_partial_folder_that_is_a_link(work):
    host = re.sub(r"[^\w-]", "-", socket.gethostname())[:40]
    (work / "run" / f".aligner.1@{host}.00000000.older").symlink_to("../../outside")
    (work / "run" / "checkpoints" / "000002" / "run.json").write_text("[]")
    return [*TRAIN, "--resume"]


@attacks(
    missing=lambda tensors: {name: value for name, value in tensors.items() if name != "model/aligner.heads.0.linear.weight"},
    more=lambda tensors: tensors | {"model/aligner.evil": torch.ones(2)},
    another_part=lambda tensors: tensors | {"evil/x": torch.ones(2)},
    another_shape=lambda tensors: tensors | {"model/aligner.heads.0.linear.weight": torch.ones(2, 2)},
    another_parameter=lambda tensors: tensors | {"optimizer/99/step": torch.ones(())},
    a_number_below=lambda tensors: tensors | {"optimizer/-1/step": torch.ones(())},
    another_moment=lambda tensors: tensors | {"optimizer/0/evil": torch.ones(())},
    a_moment_of_another_shape=lambda tensors: tensors | {"optimizer/0/exp_avg": torch.ones(9)},
)
def tensors_of_a_run(work, case):
    path = work / "run" / "checkpoints" / "000002" / "state.safetensors"
    save_file(case(load_file(path)), path)
    return [*TRAIN, "--resume"]


@attacks(
    checkpoints="run/checkpoints",
    checkpoint="run/checkpoints/000002",
    state="run/checkpoints/000002/state.safetensors",
    settings="run/checkpoints/000002/run.json",
    aligner="run/aligner",
)
def a_link_of_a_run(work, case):
    path = work / case
    target = work / "base" / path.name
    path.rename(target)
    path.symlink_to(target)
    return [*TRAIN, "--resume"]


@attacks(
    a_list="[]",
    deep="[" * 100_000 + "]" * 100_000,
    nothing="{}",
    counts={"rows": "three"},
    shards={"shards": 7},
    cells={"broken": [["\x1b[2J"]]},
    half={"complete": "\x1b[2J"},
    another={"source": "\x1b]0;own\x07" * 1000},
)
def manifest_of_an_embedding(work, case):
    path = work / "vectors" / "manifest.json"
    edit(path, **case) if isinstance(case, dict) else path.write_text(case)
    return EMBED


@attacks(
    a_list="[]", deep="[" * 100_000 + "]" * 100_000, cells='{"rows": 3, "broken": [7]}', counts='{"rows": "3", "broken": []}'
)
def note_of_a_shard(work, case):
    edit(work / "vectors" / "manifest.json", complete=False)
    (work / "vectors" / "part-00000.json").write_text(case)
    return EMBED


@attack
def the_manifest_of_an_embedding_is_a_link(work):
    path = work / "vectors" / "manifest.json"
    path.rename(work / "base" / "manifest.json")
    path.symlink_to("../base/manifest.json")
    return EMBED


@pytest.mark.parametrize(
    ("data", "model"), [("v.jsonl", "al"), ("t.jsonl", "al-hf"), ("t.jsonl", "al-st"), ("t.jsonl", "al-lora")]
)
def test_what_is_honest_passes(world, data, model, capsys):
    assert run(world, ["evaluate", "--data", data, "--model", model], capsys)[0] == 0


def test_an_honest_file_passes(world, capsys):
    assert run(world, ["check", "clip.yaml"], capsys)[0] == 0


def test_an_honest_run_goes_on(world, capsys):
    weights = world / "work" / "run" / "aligner" / "model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    assert run(world, [*TRAIN, "--resume"], capsys)[0] == 0
    assert weights.read_bytes() == before


def test_the_cache_of_the_hub_is_made_of_links(world):
    """Into the blobs of one repository, and into nothing else."""
    repository = world / "work" / "models--me--al"
    snapshot = repository / "snapshots" / "0123"
    shutil.copytree(world / "work" / "al-hf", snapshot)
    (repository / "blobs").mkdir()
    for i, path in enumerate([path for path in sorted(snapshot.rglob("*")) if path.is_file()]):
        path.rename(repository / "blobs" / str(i))
        path.symlink_to(os.path.relpath(repository / "blobs" / str(i), path.parent))
    Aligner.from_pretrained(snapshot)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../../al-hf/config.json")
    with pytest.raises(InputError, match="points to files outside of itself"):
        Aligner.from_pretrained(snapshot)


# Tables and archives: what they unpack to, where they lead, and what they say.

DEEP = "[" * 100_000 + "]" * 100_000


def evaluated(path: Path, content: bytes | str) -> list[str]:
    """Write a file, and evaluate it as a table."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ["evaluate", "--data", path.name]


@attacks(
    deep='{"a": ' + "[" * 300_000 + "]" * 300_000 + "}\n",
    huge_number='{"a": [1' + "0" * 400 + "]}\n",
    endless_number='{"a": ' + "9" * 6000 + "}\n",
    key_twice='{"a": [1], "a": [2]}\n',
    half_a_surrogate_as_a_name='{"\\ud800": [1]}\n',
    half_a_surrogate_as_an_id='{"id": "\\udcff", "a": [1]}\n{"id": "b", "a": [1]}\n',
    escapes_in_a_name='{"\\u001b[2J\\u001b]0;x\\u0007": "text"}\n',
    escapes_in_an_id='{"id": "\\u001b[31m", "a": [1]}\n{"id": "\\u001b[31m", "a": [1]}\n',
    lines_in_a_name='{"a\\nb\\u2028c\\u202ed": [1, "x"]}\n',
    names_without_rows=lambda: json.dumps({f"c{i}": [1] for i in range(9000)}) + "\n" + "{}\n" * 10_000,
    names_without_end=lambda: "".join(json.dumps({f"c{i}": [1]}) + "\n" for i in range(20_000)),
    one_vector_for_a_million_rows=lambda: json.dumps({"a": [1] * 30_000}) + "\n" + '{"b": 1}\n' * 30_000,
    deep_json_list='[{"a": ' + DEEP + "}]",
)
def json_lines(work, case):
    return evaluated(work / "x.jsonl", case() if callable(case) else case)


@attacks(
    deep='a,b\n"' + "[" * 100_000 + '","[1,2]"\n',
    a_million_columns=lambda: ",".join(f"c{i}" for i in range(1_000_000)) + "\n",
    a_header_without_end=lambda: '"' + "x" * 20_000_000,
    a_quote_without_end=lambda: 'a,b\n1,"' + "x" * 20_000_000,
    null_bytes="a\0b,c\n1,2\n",
    formula='=cmd|"/c calc"!A1,b\n1,2\n',
    utf_16="a,b\n[1],[2]\n".encode("utf-16"),
)
def csv_file(work, case):
    return evaluated(work / "x.csv", case() if callable(case) else case)


def _arrow(name, columns, compression=None):
    import pyarrow as pa

    table = pa.table(columns)
    with pa.ipc.new_file(name, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)


@attacks(
    dictionary=lambda pa: pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_000_000, np.int8)), ["x" * 1_000_000]),
    dictionary_in_a_list=lambda pa: pa.ListArray.from_arrays(
        [0, 1_000_000], pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int8)), ["x" * 1_000_000])
    ),
    runs=lambda pa: pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), pa.array(["x" * 1000])),
    views=lambda pa: pa.Array.from_buffers(
        pa.string_view(),
        500_000,
        [None, pa.py_buffer(struct.pack("<i4sii", 1_000_000, b"xxxx", 0, 0) * 500_000), pa.py_buffer(b"x" * 1_000_000)],
    ),
    list_views=lambda pa: pa.ListViewArray.from_arrays(
        pa.array(np.zeros(100_000, np.int32)), pa.array(np.full(100_000, 100_000, np.int32)), pa.array(np.zeros(100_000))
    ),
    nulls=lambda pa: pa.Array.from_buffers(pa.null(), 2**31 - 1, [None]),
    compressed=lambda pa: pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2**28, np.int8)), 2**27),
)
def arrow_bomb(work, case):
    pa = pytest.importorskip("pyarrow")
    column = case(pa)
    _arrow(str(work / "x.arrow"), {"a": column}, "zstd" if pa.types.is_fixed_size_list(column.type) else None)
    assert (work / "x.arrow").stat().st_size < 20_000_000
    return ["evaluate", "--data", "x.arrow", "--columns", "a"]


@attacks(
    dictionary=lambda pa: pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_000_000, np.int8)), ["x" * 1_000_000]),
    dictionary_in_one_row=lambda pa: pa.ListArray.from_arrays(
        [0, 1_000_000], pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int8)), ["x" * 1_000_000])
    ),
    zeros=lambda pa: pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(17 * 2**20)), 2**20),
    nulls=lambda pa: pa.nulls(2**22, pa.list_(pa.float32())),
)
def parquet_bomb(work, case):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": case(pa)}), work / "x.parquet", compression="zstd")
    assert (work / "x.parquet").stat().st_size < 1_000_000
    return ["evaluate", "--data", "x.parquet"]


def _member(name, size=0, kind=tarfile.REGTYPE, content=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size, member.type = size or len(content), kind
    for field, value in fields.items():
        setattr(member, field, value)
    return member.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def _npy(shape, kind="'<f4'", content=b""):
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


@attacks(
    symbolic_link=_member("a.txt", kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
    hard_link=_member("a.txt", kind=tarfile.LNKTYPE, linkname="../outside/secret.txt"),
    device=_member("a.txt", kind=tarfile.CHRTYPE),
    pipe=_member("a.txt", kind=tarfile.FIFOTYPE),
    out_of_it=_member("../outside/a.txt", content=b"x"),
    absolute=_member("/a.txt", content=b"x"),
    more_than_it_holds=_member("a.png", size=2**40),
    backwards=_member("b.png", content=b"x") + _member("a.png", size=-1024),
    a_name_of_a_terabyte=_member("././@LongLink", size=2**40, kind=tarfile.GNUTYPE_LONGNAME),
    a_thousand_headers=_member("x", content=b"8 a=b\n\n", kind=tarfile.XHDTYPE) * 5000 + _member("a.txt", content=b"x"),
    numbers_that_are_not_there=_member("r.npy", content=_npy("(100000000000,)")),
    records=_member("r.npy", content=_npy("(2,)", "[('x', '<f4'), ('y', '<f4')]", bytes(16))),
    objects=_member("r.npy", content=_npy("(1,)", "'|O'", b"cos\nsystem\n(S'touch ../outside/x'\ntR.")),
    header_that_is_no_header=_member("r.npy", content=_npy("(((((((((", "{" * 50)),
    archive_as_numbers=_member("r.npy", content=b"PK\x03\x04" + bytes(50)),
    deep=_member("r.json", content=b'{"a":' + DEEP.encode() + b"}"),
    gzip=gzip.compress(_member("a.txt", content=b"x")),
    escapes_in_a_name=_member("\x1b[2J.npy", content=_npy("(3,)")),
)
def archive(work, case):
    return evaluated(work / "x.tar", case + bytes(1024))


@attacks(
    claims={"a": {"dtype": "F32", "shape": [2**40, 2], "data_offsets": [0, 8]}},
    overlap={name: {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]} for name in "ab"},
    float8={"a": {"dtype": "F8_E4M3", "shape": [4, 2], "data_offsets": [0, 8]}},
    one_dimension={"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
    header={"__metadata__": {"gramian.table.v1": DEEP}, "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}},
    ids={"__metadata__": {"gramian.table.v1": '{"columns": [], "ids": 5, "split": 3, "metadata": []}'}},
    columns={"__metadata__": {"gramian.table.v1": '{"columns": 7, "ids": ["a"], "split": null, "metadata": {}}'}},
)
def safetensors_file(work, case):
    header = json.dumps(case).encode()
    return evaluated(work / "x.safetensors", struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1, 2))


@attacks(
    pipe=lambda folder: os.mkfifo(folder / "x.csv"),
    device=lambda folder: (folder / "x.csv").symlink_to("/dev/zero"),
    outside=lambda folder: (folder / "x.csv").symlink_to("../../outside/secret.txt"),
    archive_outside=lambda folder: (folder / "x.tar").symlink_to("../../outside/secret.txt"),
    nothing=lambda folder: (folder / "x.csv").symlink_to("nothing"),
    circle=lambda folder: (folder / "x.csv").symlink_to("x.csv"),
    manifest=lambda folder: [os.mkfifo(folder / "manifest.json"), (folder / "part-00000.parquet").write_bytes(b"PAR1")],
    manifest_outside=lambda folder: [
        (folder / "manifest.json").symlink_to("../../outside/secret.txt"),
        (folder / "part-00000.parquet").write_bytes(b"PAR1"),
    ],
    deep_manifest=lambda folder: [
        (folder / "manifest.json").write_text(DEEP),
        (folder / "part-00000.parquet").write_bytes(b"PAR1"),
    ],
    state=lambda folder: (folder / "state.json").write_text('{"_data_files": [{"filename": "../../outside/secret.txt"}]}'),
    deep_state=lambda folder: (folder / "state.json").write_text(DEEP),
    numbers_for_names=lambda folder: (folder / "state.json").write_text('{"_data_files": [7]}'),
    splits=lambda folder: (folder / "dataset_dict.json").write_text('{"splits": ["../../outside"]}'),
    number_of_splits=lambda folder: (folder / "dataset_dict.json").write_text('{"splits": [7]}'),
    readme=lambda folder: [
        (folder / "README.md").write_text(
            "---\nconfigs:\n- config_name: default\n  data_files: ../../outside/secret.txt\n---\n"
        ),
        (folder / "x.csv").write_text("a,b\n"),
    ],
    metadata=lambda folder: [
        (folder / "a.png").write_bytes(b"x"),
        (folder / "metadata.jsonl").symlink_to("../../outside/secret.txt"),
    ],
    escapes=lambda folder: (folder / "\x1b[2J\n.csv").write_text("a,b\n"),
)
def folder_of_data(work, case):
    (work / "d").mkdir()
    case(work / "d")
    return ["evaluate", "--data", "d"]


@attacks(
    device="/dev/zero", pipe="pipe", url="https://127.0.0.1:9/x.csv", bucket="s3://bucket/x.parquet", file="file:///etc/passwd"
)
def data_that_is_no_file(work, case):
    os.mkfifo(work / "pipe")
    return ["evaluate", "--data", case]


@attack
def yaml_widens_its_own_roots(work):
    (work / "y.yaml").write_text("data: t.jsonl\nmedia_root: /\n")
    return ["check", "y.yaml"]


@pytest.mark.parametrize("name", list(ATTACKS))
def test_an_attack_fails_closed(world, name, capsys):
    words = ATTACKS[name](world / "work")
    code, printed = run(world, words, capsys)
    assert code == 2, printed
    assert printed.startswith("gramian: "), printed
    assert printed.count("\n") == 1, printed


# Single cells: they are reported, and the rest of the table is read.

OUTSIDE = "outside of the table's folder"
URL = "a URL; download the file"
CELLS: dict[str, tuple[object, str]] = {
    "parent": ("../outside/secret.png", OUTSIDE),
    "parent_within": ("in/../../outside/secret.png", OUTSIDE),
    "absolute": ("/etc/passwd", OUTSIDE),
    "device": ("/dev/zero", OUTSIDE),
    "terminal": ("/dev/stdin", OUTSIDE),
    "process": ("/proc/self/environ", OUTSIDE),
    "link": ("link.png", OUTSIDE),
    "linked_folder": ("folder/secret.png", OUTSIDE),
    "linked_device": ("zero.png", OUTSIDE),
    "circle": ("circle.png", "no possible path|no such file"),
    "pipe": ("pipe.png", "a pipe or a device"),
    "datasets_cell": ({"bytes": None, "path": "../outside/secret.png"}, OUTSIDE),
    "path_as_bytes": ({"bytes": "../outside/secret.png", "path": None}, OUTSIDE),
    "part_of_a_file_outside": ({"path": "../outside/secret.png", "offset": 0, "size": 4}, OUTSIDE),
    "part_of_a_device": ({"path": "/dev/zero", "offset": 0, "size": 5 * 10**10}, OUTSIDE),
    "part_of_a_pipe": ({"path": "pipe.png", "offset": 0, "size": 4}, "a pipe or a device"),
    "part_beyond_the_end": ({"path": "good.png", "offset": 0, "size": 5 * 10**10}, "its archive is cut off"),
    "part_before_the_start": ({"path": "good.png", "offset": -4, "size": 4}, "must be numbers of bytes"),
    "part_of_text": ({"path": "good.png", "offset": 0, "size": "ten"}, "must be numbers of bytes"),
    "part_of_nothing": ({"path": "good.png", "offset": 0}, "must be numbers of bytes"),
    "url": ("http://127.0.0.1:9/x.png", URL),
    "file_url": ("file:///etc/passwd", URL),
    "chained_url": ("zip://x::https://127.0.0.1:9/x.zip", URL),
    "data_url": ("data:image/png;base64,AAAA", "no such file"),
    "protocol_of_ffmpeg": ("subfile,,start,0,end,0,,:../outside/secret.png", "no such file|outside of the table"),
    "concat_of_ffmpeg": ("concat:/etc/passwd|/etc/passwd", "no such file|outside of the table"),
    "null_byte": ("good.png\0.txt", "null"),
    "long_name": ("x" * 100_000, "too long"),
    "escapes": ("\x1b[2J\x1b]0;x\x07.png", "no such file"),
    "playlist": ("list.m3u8", "."),
    "concat_list": ("list.ffconcat", "."),
    "session": ("list.sdp", "."),
    "drawing": ("list.svg", "."),
    "archive": ("archive.png", "."),
}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_a_cell_leads_nowhere(world, name, kind, capsys):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("av")
    work, (cell, reason) = world / "work", CELLS[name]
    image.new("RGB", (8, 8)).save(work / "good.png")
    shutil.copy(work / "good.png", world / "outside" / "secret.png")
    os.mkfifo(work / "pipe.png")
    for link, target in (("link", "secret.png"), ("folder", ""), ("circle", "../work/circle.png"), ("zero", "/dev/zero")):
        suffix = "" if link == "folder" else ".png"
        (work / f"{link}{suffix}").symlink_to(target if target.startswith("/") else Path("../outside") / target)
    (work / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\n../outside/secret.png\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    (work / "list.ffconcat").write_text("ffconcat version 1.0\nfile '../outside/secret.png'\n")
    (work / "list.sdp").write_text(
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )
    (work / "list.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><image href="../outside/secret.png"/></svg>')
    (work / "archive.png").write_bytes(gzip.compress((work / "good.png").read_bytes()))
    rows(work / "c.jsonl", {"id": "bad", kind: cell}, {"id": "good", kind: "good.png"})
    before = state(world / "outside")
    with WATCH.on(world / "outside"), limits():
        table = load(work / "c.jsonl", raw=[kind])
        table.digest()
        checked = check_table(table, Collator({kind: Media(kind)}), progress=False)
        for sheet in checked.sheets():
            console_of().print(sheet.rich())
    assert WATCH.seen == []
    assert state(world / "outside") == before
    reasons = {row: why for row, _, why in checked.broken}
    assert re.search(reason, reasons["bad"])
    assert "good" in reasons or kind == "image"
    assert "good" not in reasons or kind != "image"
    printed = capsys.readouterr().out
    assert SECRET not in printed
    assert not [char for char in printed if char < " " and char != "\n"]


def test_a_card_shows_what_a_terminal_would_obey(tmp_path):
    Aligner({"\x1b]0;own\x07": 2, "b": 2}, 4).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "\x1b" not in card
    assert r"\x1b]0;own\x07" in card
