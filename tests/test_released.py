"""The released towers against the authors' own numbers and literal references; loading, saving, training and bad files."""

import copy
import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import released_tiny as tiny
from gramian import Aligner, InputError, load_released
from gramian.data.batches import Batch
from gramian.data.released import TASKS
from gramian.model import ReleasedAudio, ReleasedMatcher, ReleasedText, ReleasedVision
from gramian.model.encoders.released import Checkpoint, beats, checkpoint, open_checkpoint
from gramian.model.encoders.released.keys import current_name, report_of
from gramian.model.specs import build_towers
from gramian.scores import SCORES
from reference import released as literal

STORED = Path(__file__).parent / "released"
FRAMES, SLICES = 3, 2


def relative(got: Tensor, expected: Tensor) -> float:
    """The largest error over the largest value."""
    assert got.shape == expected.shape
    return float((got.double() - expected.double()).abs().max() / expected.double().abs().max())


def text_of(name: str, length: int, row: int, kept: int, words: int | None = None) -> dict[str, Tensor]:
    """Two texts by the formula, of which one is short."""
    ids = (abs(tiny.noise(name, (2, length))) * 5000 + 1000).astype("int64")
    mask = torch.ones(2, length, dtype=torch.long)
    mask[row, kept:] = 0
    return {"input_ids": torch.from_numpy(ids if words is None else ids % words) * mask, "attention_mask": mask}


def batch_of(aligner: Aligner, side: int, words: int | None = None) -> Batch:
    """Two items by the formula."""
    pixels = (2, FRAMES, 3, side, side)
    inputs = {
        "text": text_of("ids", 40, 0, 9, words),
        "video": torch.from_numpy(tiny.noise("pixels", pixels)),
        "audio": torch.from_numpy(0.5 * tiny.noise("fbank", (2, SLICES, 1024, 64))),
        "subtitle": text_of("sub", 70, 1, 2, words),
        "depth": torch.from_numpy(tiny.noise("depth", pixels)),
    }
    present = {name: torch.ones(2, dtype=torch.bool) for name in aligner.modalities}
    return Batch({name: inputs[name] for name in present}, present, ("0", "1"))


NAMES = ("text", "video", "audio", "subtitle", "depth")
TASK = replace(TASKS["msrvtt"], modalities=NAMES, frames=FRAMES, slices=SLICES)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    tiny.write(folder, depth=True)
    return folder


@pytest.fixture(scope="session")
def small(folder):
    return load_released(folder, TASK, vocabulary=folder)


@pytest.fixture(scope="session")
def weights():
    return {name: value.double() for name, value in tiny.tensors(depth=True).items() if value.is_floating_point()}


def test_the_whole_agrees_with_the_original_programs(tmp_path):
    words = 9_700  # the formula gives no larger ids
    tensors = {}
    for name, shape in json.loads((STORED / "keys.json").read_text()).items():
        if report_of("", {name: torch.empty(0)}).used or ".layers.1." in name or ".layer.1." in name:
            tensors[name] = tiny.weight(name, tuple(shape), words if "word_embeddings" in name else None)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(str, range(words - 4))]))
    released = load_released(Checkpoint("fixture", tensors), TASK, vocabulary=tmp_path)
    aligner, matcher = released.aligner, released.matcher
    batch = batch_of(aligner, 224)
    with torch.no_grad():
        encodings = aligner.towers(batch)
        vectors = {name: encoded.vectors for name, (encoded, _) in encodings.items()}
        tokens = {name: encoded.tokens.values for name, (encoded, _) in encodings.items()}
        heads = aligner.named_heads()
        features = {name[0]: torch.nn.functional.normalize(heads[name](vectors[name]), dim=1) for name in NAMES}
        outputs = {f"feat_{letter}": value for letter, value in features.items()}
        for letters in ("va", "vs", "vas"):
            outputs[f"feat_{letters}"] = matcher.fused({name: vectors[name] for name in NAMES if name[0] in letters})
        outputs = {name: value[:, ::8] for name, value in outputs.items()}
        outputs["vision_output"] = tokens["video"].unflatten(1, (FRAMES, -1))[:, :, ::64, ::128]
        outputs["audio_output"] = tokens["audio"].unflatten(1, (SLICES, -1))[:, :, ::64, ::128]
        ids = batch.inputs["text"]
        outputs["caption_output"] = matcher.states(ids["input_ids"], ids["attention_mask"])[:, ::8, ::128]
        outputs["context_vas"] = matcher.context(encodings, ("video", "audio", "subtitle")).values[:, ::256, ::128]
        for count in (3, 4, 5):
            items = torch.stack([features[name[0]] for name in NAMES[1:count]], 1)
            outputs[f"volume{count}"] = -SCORES["volume"](features["t"], _bundle(items))
        for names in itertools.accumulate([(name,) for name in NAMES[1:]]):
            key = "match_" + "".join(name[0] for name in names)
            outputs[key] = matcher.pair_logits(ids, matcher.context(encodings, names))
    stored = json.loads((STORED / "outputs.json").read_text())
    assert set(stored) == set(outputs)
    errors = {name: relative(outputs[name], torch.tensor(values).reshape(shape)) for name, (shape, values) in stored.items()}
    assert max(errors.values()) < 1e-5, errors


def _bundle(items: Tensor):
    from gramian import Bundle

    return Bundle.from_dict({str(i): items[:, i] for i in range(items.shape[1])})


# Each tower alone, in small widths, against a literal float64 reference; what a wrong detail costs shows that 1e-5 tells them.


def _vision_error(towers, weights) -> float:
    tower, pixels = towers["video"], torch.from_numpy(tiny.noise("pixels", (1, 1, 3, 28, 28)))
    return relative(tower(pixels).tokens.values[0], literal.eva(weights, pixels[0, 0].double()))


def _audio_error(towers, weights) -> float:
    tower, bank = towers["audio"], torch.from_numpy(0.5 * tiny.noise("fbank", (1, 1, 1024, 64)))
    with torch.no_grad():
        return relative(tower(bank).tokens.values[0], _beats(weights, bank))


def _beats(weights, bank, known=[]):  # noqa: B006 (one slice, computed once)
    known[:] = known or [literal.beats(weights, bank[0, 0].double())]
    return known[0]


def _text_error(towers, weights) -> float:
    inputs = text_of("ids", 40, 0, 9, len(tiny.WORDS))
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    got = towers["text"].states(ids, mask)
    return relative(got, torch.stack([literal.bert(weights, *each) for each in zip(ids, mask, strict=True)]))


ERRORS = {"vision": _vision_error, "audio": _audio_error, "text": _text_error}


@pytest.mark.parametrize("part", ERRORS)
def test_each_tower_agrees_with_its_reference(small, weights, part):
    assert ERRORS[part](small.aligner.towers, weights) < 1e-5


def _no_deep_norm(towers):
    for layer in towers["audio"].model.encoder.layers:
        layer.alpha = 1.0


def _gate_of_states(towers):
    for layer in towers["audio"].model.encoder.layers:
        own, states = layer.self_attn.gate, []
        layer.self_attn.register_forward_pre_hook(lambda _, inputs, states=states: states.append(inputs[0]))
        layer.self_attn.gate = lambda q, own=own, states=states: own(states[-1].unflatten(2, (q.shape[1], -1)).transpose(1, 2))


def _coarse_epsilon(towers):
    for module in towers["video"].model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5


def _quick_gelu(towers):
    from transformers.activations import QuickGELUActivation

    for layer in towers["video"].model.encoder.layers:
        layer.mlp.activation_fn = QuickGELUActivation()


def _causal(towers):
    model = towers["text"].model
    towers["text"].states = lambda ids, mask: model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state


CONTROLS = {
    "a causal mask": ("text", _causal, 1e-2),
    "no DeepNorm": ("audio", _no_deep_norm, 1e-2),
    "a wrong bucket distance": ("audio", None, 1e-4),
    "a gate of the states": ("audio", _gate_of_states, 1e-3),
    "a coarse epsilon": ("vision", _coarse_epsilon, 1e-4),
    "a quick GELU": ("vision", _quick_gelu, 1e-4),
}


@pytest.mark.parametrize("fault", CONTROLS)
def test_a_wrong_detail_shows(small, weights, fault, monkeypatch):
    part, damage, least = CONTROLS[fault]
    towers = copy.deepcopy(small.aligner.towers)
    if damage is None:
        monkeypatch.setattr(beats, "MAX_DISTANCE", 1280)
    else:
        damage(towers)
    assert ERRORS[part](towers, weights) > least


def test_contexts_and_logits_agree_with_their_reference(small, weights):
    aligner, matcher = small.aligner, small.matcher
    batch = batch_of(aligner, 28, len(tiny.WORDS))
    with torch.no_grad():
        encodings = aligner.towers(batch)
        context = matcher.context(encodings)
        logits = matcher.pair_logits(batch.inputs["text"], context)
    expected, pairs = [], []
    for item in range(2):
        parts = []
        for name, count in (("video", FRAMES), ("audio", SLICES), ("subtitle", 1), ("depth", FRAMES)):
            tokens = encodings[name][0].tokens.values[item].double().unflatten(0, (count, -1))
            kind = {"video": "vision", "depth": "vision"}.get(name, name)
            parts.append(literal.context(weights, kind, tokens))
        expected.append(torch.cat(parts))
        ids = batch.inputs["text"]["input_ids"][item], batch.inputs["text"]["attention_mask"][item]
        pairs.append(literal.answer(weights, literal.bert(weights, *ids, expected[-1])[0]))
    assert relative(context.values, torch.stack(expected)) < 1e-5
    assert relative(logits, torch.stack(pairs)) < 1e-5
    scores = matcher(batch.inputs["text"], context)
    assert torch.allclose(scores.sigmoid(), logits.softmax(1)[:, 1])


def test_a_missing_modality_is_masked_in_the_context(small):
    batch = batch_of(small.aligner, 28, len(tiny.WORDS))
    with torch.no_grad():
        encodings = small.aligner.towers(batch)
        alone = small.matcher(batch.inputs["text"], small.matcher.context(encodings, ("video",)))
        encoded = encodings["audio"][0]
        partly = type(encoded)(encoded.vectors[:1], encoded.tokens[:1])
        context = small.matcher.context({"video": encodings["video"], "audio": (partly, torch.tensor([True, False]))})
        logits = small.matcher(batch.inputs["text"], context)
    assert context.present.all(1).tolist() == [True, False]
    assert torch.allclose(logits[1], alone[1], atol=1e-5)
    assert not torch.allclose(logits[0], alone[0], atol=1e-5)


# Files


def test_the_keys_of_a_full_release_are_all_known():
    names = json.loads((STORED / "keys.json").read_text())
    full = {}
    for name, shape in names.items():
        for prefix, depth in (
            ("vision_encoder.visual.blocks.", 40),
            ("audio_encoder.encoder.layers.", 12),
            ("vision_encoder.text.transformer.resblocks.", 12),
            ("multimodal_encoder.bert.encoder.layer.", 12),
        ):
            if name.startswith(prefix):
                rest = name.removeprefix(prefix).partition(".")[2]
                full |= {f"{prefix}{layer}.{rest}": shape for layer in range(depth)}
                break
        else:
            full[name] = shape
    empty = {name: torch.empty(shape, device="meta") for name, shape in full.items()}
    report = report_of("full", empty)
    assert (len(full), len(report.used), len(report.ignored)) == (1288, 1128, 160)
    assert not report.missing
    assert not report.unexpected
    assert report.layers == {"vision": 40, "audio": 12, "text": 12}


def _under_ddp(tensors):
    return {f"module.{name}": value for name, value in tensors.items()}


def _of_vast(tensors):
    renamed = {"vision_encoder.logit_scale": "vision_encoder.text.logit_scale"}
    return {renamed.get(name, name): value for name, value in tensors.items()}


def _older(tensors):
    return {
        name.replace("vision_encoder.", "evaclip_model.").replace("vision_", "video_"): value for name, value in tensors.items()
    }


def _clip(tensors):
    return {name.replace("vision_encoder.", "clip_model."): value for name, value in tensors.items()}


@pytest.mark.parametrize("rename", [_under_ddp, _of_vast, _older, _clip, lambda t: {"model": t}, lambda t: {"state_dict": t}])
def test_other_names_of_the_same_keys(tmp_path, rename):
    tensors = tiny.tensors()
    torch.save(rename(tensors), tmp_path / "other.pt")
    opened = open_checkpoint(tmp_path / "other.pt")
    report = report_of("other", opened.tensors)
    assert not report.missing
    assert not report.unexpected
    assert {current_name(name) for name in tensors} >= set(report.used)
    name = "hidden_trans_vision_multimodal.0.weight"
    assert torch.equal(opened.tensors[name], tensors[name])


def test_folders_as_the_programs_write_them(tmp_path):
    tensors = tiny.tensors()
    halves = [dict(list(tensors.items())[start::2]) for start in (0, 1)]
    trainer = tmp_path / "trainer" / "checkpoint-20"
    trainer.mkdir(parents=True)
    (tmp_path / "trainer" / "checkpoint-3").mkdir()
    torch.save({}, tmp_path / "trainer" / "checkpoint-3" / "pytorch_model.bin")
    for i, half in enumerate(halves):
        torch.save(half, trainer / f"pytorch_model-0000{i + 1}-of-00002.bin")
    own = tmp_path / "own" / "ckpt"
    own.mkdir(parents=True)
    for step in (9, 10):
        torch.save(tensors | {"contra_temp": torch.tensor(float(step))}, own / f"model_step_{step}.pt")
        torch.save({}, own / f"optimizer_step_{step}.pt")
    assert open_checkpoint(tmp_path / "trainer").tensors.keys() == tensors.keys()
    assert float(open_checkpoint(tmp_path / "own").tensors["contra_temp"]) == 10
    assert float(open_checkpoint(tmp_path / "own", filename="ckpt/model_step_9.pt").tensors["contra_temp"]) == 9
    (trainer / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(InputError, match="holds 1 of 2 shards"):
        open_checkpoint(tmp_path / "trainer")
    several = tmp_path / "several"
    several.mkdir()
    for name in ("a.pt", "b.pt"):
        torch.save(tensors, several / name)
    with pytest.raises(InputError, match=r"several checkpoints: a.pt, b.pt. Name the file itself"):
        open_checkpoint(several)
    with pytest.raises(InputError, match=r"`filename` 'c.pt' is not in"):
        open_checkpoint(several, filename="c.pt")


def test_a_file_that_is_not_there_is_no_hub_id_and_a_hub_out_of_reach_is_one_line(monkeypatch):
    def unreachable(*_, **__):
        raise UnreachableError

    class UnreachableError(Exception):  # as those of the hub's HTTP library, which are no OSError
        pass

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(checkpoint.HfApi, "list_repo_files", unreachable)
    with pytest.raises(InputError, match=r"there is no file 'nowhere/gram\.pt'"):
        open_checkpoint("nowhere/gram.pt")
    with pytest.raises(InputError, match=r"'nowhere/gram' is no folder here and cannot be fetched"):
        open_checkpoint("nowhere/gram")


def test_several_checkpoints_on_the_hub_are_refused_before_they_are_fetched(tmp_path, monkeypatch):
    names = ["README.md", "model_ckpts/base.pt", "model_ckpts/optimizer_step_1.pt", "log/hps.json"]
    monkeypatch.setattr(checkpoint.HfApi, "list_repo_files", lambda *_, **__: names)
    asked = []

    def fetched(model, _, patterns, **options):
        asked.append((model, patterns))
        assert "*optimizer*" in options["ignore_patterns"]
        return Path(tiny.write(tmp_path / "hub").parent)

    monkeypatch.setattr(checkpoint, "fetch", fetched)
    assert open_checkpoint("owner/name").source == "owner/name"
    names.append("vast.pt")
    with pytest.raises(InputError, match=r"holds several checkpoints: model_ckpts/base.pt, vast.pt. Name the file itself"):
        open_checkpoint("owner/name")
    open_checkpoint("owner/name", filename="model_step_7.pt")
    assert [patterns for _, patterns in asked] == [("*.pt", "*.pth", "*.bin", "*.safetensors"), ("model_step_7.pt",)]


class Runs:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_files_that_are_no_release(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = folder / "model_step_7.pt"
    cut = tmp_path / "cut.pt"
    for size in (10, 60_000, whole.stat().st_size - 100):
        cut.write_bytes(whole.read_bytes()[:size])
        with pytest.raises(InputError, match="it is cut off; fetch it again"):
            load_released(cut, vocabulary=folder)
    content = bytearray(whole.read_bytes())
    content[-200:-150] = b"\0" * 50  # in the directory at the end
    cut.write_bytes(content)
    with pytest.raises(InputError, match="is not read: it is damaged; fetch it again"):
        load_released(cut, vocabulary=folder)
    torch.save({"a": Runs()}, tmp_path / "code.pt")
    with pytest.raises(InputError, match="which may run code"):
        load_released(tmp_path / "code.pt", vocabulary=folder)
    assert not (tmp_path / "pwned").exists()
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(InputError, match=r"it is no file of torch.save"):
        load_released(tmp_path / "text.pt", vocabulary=folder)
    torch.save({"encoder.weight": torch.ones(2, 2)}, tmp_path / "foreign.pt")
    with pytest.raises(InputError, match=r"is no checkpoint of GRAM, PMRL or VAST: of \d+ keys it lacks"):
        load_released(tmp_path / "foreign.pt", vocabulary=folder)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="must hold a dict of tensors"):
        load_released(tmp_path / "list.pt", vocabulary=folder)
    torch.save({"a": torch.ones(1).expand(2**40)}, tmp_path / "bomb.pt")
    with pytest.raises(InputError, match="is larger than what the file holds"):
        load_released(tmp_path / "bomb.pt", vocabulary=folder)
    torch.save(tiny.tensors() | {"\x1b[2J": torch.ones(1)}, tmp_path / "escapes.pt")
    with pytest.raises(InputError, match="holds control characters"):
        load_released(tmp_path / "escapes.pt", vocabulary=folder)
    tensors = tiny.tensors()
    del tensors["itm_head.linear2.bias"]
    torch.save(tensors, tmp_path / "lacking.pt")
    with pytest.raises(InputError, match=r"lacks 1 of \d+ keys: itm_head.linear2.bias"):
        load_released(tmp_path / "lacking.pt", vocabulary=folder)
    torch.save(tiny.tensors() | {"itm_head.linear2.bias": torch.ones(3)}, tmp_path / "shape.pt")
    with pytest.raises(InputError, match=r"weights that do not fit in name or shape: answers.3.bias"):
        load_released(tmp_path / "shape.pt", vocabulary=folder)
    with pytest.raises(InputError, match="is no folder here and cannot be fetched"):
        load_released("owner/nothing", vocabulary=folder, local_files_only=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no checkpoint"):
        load_released(tmp_path / "empty", vocabulary=folder)


def test_unexpected_keys_are_reported(tmp_path, folder, caplog):
    torch.save(tiny.tensors() | {"depth_encoder.weight": torch.ones(1)}, tmp_path / "more.pt")
    released = load_released(tmp_path / "more.pt", "didemo", vocabulary=folder)
    assert released.report.unexpected == ("depth_encoder.weight",)
    assert "1 keys of the checkpoint are unknown and left out: depth_encoder.weight" in caplog.text
    assert "unexpected" in released.report.sheet().markdown()
    assert tuple(released.aligner.modalities) == ("text", "video", "audio")
    with pytest.raises(InputError, match=r"names depth, which .* has no head for"):
        load_released(tmp_path / "more.pt", modalities=("text", "depth"), vocabulary=folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "msrvt"}, "`task` must be one of .* Did you mean 'msrvtt'"),
        ({"release": "vasst"}, "`release` must be one of gram, pmrl, vast"),
        ({"modalities": ("text",)}, "must hold text and at least one more"),
        ({"modalities": ("text", "image")}, "`modalities` must be one of text, video"),
        ({"mode": "frozen"}, "`mode` must be one of freeze, lora, train"),
        ({"mode": {"text": "lora", "subtitle": "train"}}, "must be the same for text and subtitle"),
        ({"vocabulary": "nowhere/vocab"}, "`vocabulary` must be a vocab.txt, a folder that holds it, or a hub id"),
        ({"vocabulary": "{tmp}"}, r"`vocabulary` .*vocab.txt' cannot be read"),
        ({"vocabulary": "{tmp}/few.txt"}, r"must hold the 21 words of the BERT; .* holds 5 words"),
    ],
)
def test_options_that_cannot_be(folder, tmp_path, options, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "few.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    filled = {name: value.format(tmp=tmp_path) if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises(InputError, match=message):
        load_released(folder, **({"vocabulary": folder} | filled))


# Aligners


def test_settings_of_data_sets_and_releases(folder):
    didemo = load_released(folder, "didemo", vocabulary=folder, release="gram").aligner.towers
    assert didemo["text"].reader.length == 70
    assert didemo["audio"].reader.slices == 2
    assert didemo["video"].reader.resize == "squash"
    pmrl = load_released(folder, "didemo", vocabulary=folder, release="pmrl")
    assert pmrl.aligner.towers["text"].reader.length == 40
    assert pmrl.aligner.towers["video"].reader.colours == "file"
    assert pmrl.aligner.towers["audio"].reader.channels == "left"
    assert pmrl.task.stage == "fused"


def test_an_aligner_survives_saving(small, tmp_path):
    small.aligner.save_pretrained(tmp_path / "aligner")
    again = Aligner.from_pretrained(tmp_path / "aligner")
    batch = batch_of(small.aligner, 28, len(tiny.WORDS))
    with torch.no_grad():
        assert torch.equal(again(batch).vectors, small.aligner(batch).vectors)
        context = again.matcher.context(again.towers(batch))
        expected = small.matcher.context(small.aligner.towers(batch))
        assert torch.equal(again.matcher(batch.inputs["text"], context), small.matcher(batch.inputs["text"], expected))
    assert isinstance(again.matcher, ReleasedMatcher)
    assert again.towers["text"].model is again.towers["subtitle"].model is again.matcher.bert
    assert again.towers["video"] is again.towers["depth"]
    assert again.towers["subtitle"].reader.collate([again.towers["subtitle"].reader.read(None)])["input_ids"].shape == (1, 70)
    assert len(list((tmp_path / "aligner" / "towers").glob("*/model.safetensors"))) == 3
    with pytest.raises(InputError, match="cannot name a checkpoint of several towers"):
        small.aligner.save_pretrained(tmp_path / "other", towers="reference")


def test_a_saved_aligner_from_a_stranger(small, tmp_path):
    whole = tmp_path / "whole"
    small.aligner.save_pretrained(whole)
    config = json.loads((whole / "config.json").read_text())

    def damaged(change) -> Path:
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        own = json.loads(json.dumps(config))
        change(own, folder)
        (folder / "config.json").write_text(json.dumps(own))
        return folder

    def empty(_, folder):
        path = folder / "towers" / "0" / "model.safetensors"
        weights = load_file(path)
        weights["embeddings.position_embeddings.weight"] = torch.zeros(2**40, 0)
        save_file(weights, path)

    for change, message in (
        (lambda own, _: own["towers"]["text"].pop("files"), "names an encoder outside of itself"),
        (lambda own, _: own["towers"]["subtitle"].update(twin_of="audio"), "has no twins|option"),
        (lambda own, _: own["towers"]["subtitle"].update(twin_of="nobody"), "names no tower that 'subtitle' could share"),
        (lambda own, _: own["towers"]["subtitle"]["options"].update(vocabulary="/etc/hosts"), "`option` must be one of"),
        (lambda own, _: own["matcher"].update(vision=65_536), "of another shape"),
        (lambda own, _: own["matcher"].update({"class": "Other"}), "`matcher.class` must be one of"),
        (empty, "do not fit"),
        (lambda _, folder: (folder / "towers" / "0" / "vocab.txt").unlink(), "`vocabulary` must be a vocab.txt"),
        (lambda _, folder: (folder / "towers" / "1" / "model.safetensors").write_bytes(b"x" * 99), "damaged"),
    ):
        with pytest.raises(InputError, match=message):
            Aligner.from_pretrained(damaged(change))


@pytest.mark.parametrize("mode", ["train", "lora"])
def test_gradients_are_finite_and_weights_come_back(folder, tmp_path, mode):
    released = load_released(folder, TASK, vocabulary=folder, mode=mode, gradient_checkpointing=mode == "train")
    aligner = released.aligner.train()
    batch = batch_of(aligner, 28, len(tiny.WORDS))
    context = released.matcher.context(aligner.towers(batch))
    loss = aligner(batch).vectors.sum() + released.matcher(batch.inputs["text"], context).sum()
    loss.backward()
    trained = {name: p.grad for name, p in aligner.named_parameters() if p.requires_grad and p.grad is not None}
    assert all(bool(gradient.isfinite().all()) for gradient in trained.values())
    for part in ("towers.0.", "towers.1.", "towers.2.", "heads.", "matcher."):
        assert any(name.startswith(part) and bool(gradient.any()) for name, gradient in trained.items()), part
    with torch.no_grad():
        for parameter in aligner.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    aligner.eval().save_pretrained(tmp_path / mode)
    again = Aligner.from_pretrained(tmp_path / mode)
    with torch.no_grad():
        assert torch.allclose(again(batch).vectors, aligner(batch).vectors, atol=1e-6)


def test_a_frozen_bert_passes_gradients_to_the_context(small):
    matcher = small.matcher
    batch = batch_of(small.aligner, 28, len(tiny.WORDS))
    with torch.no_grad():
        encodings = small.aligner.towers(batch)
    weight = matcher.projections["vision"][0].weight
    (gradient,) = torch.autograd.grad(matcher(batch.inputs["text"], matcher.context(encodings)).sum(), [weight])
    assert bool(gradient.any())


def test_the_gradient_scale_of_beats(folder):
    bank = torch.from_numpy(0.5 * tiny.noise("fbank", (1, 1, 1024, 64)))
    gradients, outputs = [], []
    for scale in (1.0, 0.6):
        tower = ReleasedAudio(str(folder), mode="train", gradient_scale=scale)
        vectors = tower(bank).vectors
        vectors[0, 0].backward()
        outputs.append(vectors.detach())
        gradients.append([layer.fc1.weight.grad for layer in tower.model.encoder.layers])
    assert torch.equal(*outputs)
    assert torch.allclose(gradients[1][1], gradients[0][1])
    assert torch.allclose(gradients[1][0], 0.6 * gradients[0][0], rtol=1e-4, atol=1e-9)


def test_stochastic_depth(folder):
    """In training the branches of the last layer are left out for some frames, and as much larger for the others."""
    tower = ReleasedVision(str(folder), mode="train", drop_path=0.4).train()
    last = tower.model.encoder.layers[-1]
    states = torch.from_numpy(tiny.noise("states", (400, 3, tiny.VISION)))
    with torch.no_grad():
        whole = last.mlp.fc2(last.mlp.activation_fn(last.mlp.fc1(states)))
        dropped = last.mlp(states)
        zero = (dropped == 0).flatten(1).all(1)
        assert 0.3 < zero.float().mean() < 0.5
        assert torch.allclose(dropped[~zero], whole[~zero] / 0.6, atol=1e-5)
        first = tower.model.encoder.layers[0]
        assert not (first.mlp(states) == 0).flatten(1).all(1).any()
        assert not torch.equal(last.self_attn(hidden_states=states)[0], last.self_attn(hidden_states=states)[0])
        tower.eval()
        assert torch.equal(last.mlp(states), whole)
        assert torch.equal(last.self_attn(hidden_states=states)[0], last.self_attn(hidden_states=states)[0])


def test_a_tower_on_its_own(folder):
    tower = ReleasedVision(str(folder / "model_step_7.pt"), frames=2, mode="lora", lora={"r": 2})
    assert tower(torch.zeros(1, 2, 3, 28, 28)).vectors.shape == (1, tiny.VISION)
    assert "ReleasedVision" in tower.summary
    text = ReleasedText(str(folder), vocabulary=str(folder))
    with pytest.raises(InputError, match="`option` must be one of max_length, subtitle"):
        text.twin(frames=3)
    with pytest.raises(InputError, match=r"`max_length` must be an integer in \[2, 80\]"):
        ReleasedText(str(folder), vocabulary=str(folder), max_length=81)


def test_towers_of_a_yaml_file(folder):
    where = {"model": str(folder), "vocabulary": str(folder)}
    specs = {"text": {"class_path": "ReleasedText", "init_args": where | {"mode": "train"}}}
    towers = build_towers(specs | {"subtitle": {"twin_of": "text", "init_args": {"subtitle": True}}})
    assert towers["subtitle"].model is towers["text"].model
    assert (towers["text"].reader.length, towers["subtitle"].reader.length) == (40, 70)
    for twin, message in (
        ({"twin_of": "audio"}, "`towers.subtitle.twin_of` must be one of text"),
        ({"twin_of": "text", "subtitle": True}, "must have `twin_of: COLUMN` and `init_args` alone"),
        ({"twin_of": "text", "init_args": {"subtitle": 3}}, "`subtitle` must be true or false"),
    ):
        with pytest.raises(InputError, match=message):
            build_towers(specs | {"subtitle": twin})
    audio = {"audio": {"class_path": "ReleasedAudio", "init_args": {"model": str(folder), "gradient_scale": 0}}}
    with pytest.raises(InputError, match=r"`towers.audio.gradient_scale` must lie in \(0, 1\]"):
        build_towers(audio)


def test_an_aligner_in_half_precision(folder):
    aligner = load_released(folder, TASK, vocabulary=folder).aligner
    batch = batch_of(aligner, 28, len(tiny.WORDS))
    with torch.no_grad():
        expected = aligner(batch).vectors
        aligner.bfloat16()
        similar = torch.nn.functional.cosine_similarity(aligner(batch).vectors.float(), expected, dim=-1)
        context = aligner.matcher.context(aligner.towers(batch))
        assert aligner.matcher(batch.inputs["text"], context).dtype == torch.bfloat16
    assert float(similar.min()) > 0.999


def test_half_precision_files_become_float32(folder, tmp_path):
    torch.save(
        {name: value.half() if value.is_floating_point() else value for name, value in tiny.tensors().items()},
        tmp_path / "h.pt",
    )
    shutil.copy(folder / "vocab.txt", tmp_path)
    aligner = load_released(tmp_path / "h.pt", vocabulary=tmp_path).aligner
    assert {value.dtype for value in aligner.state_dict().values() if value.is_floating_point()} == {torch.float32}
