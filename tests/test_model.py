import json

import pytest
import torch

from gramian.bundle import Bundle
from gramian.data import Table
from gramian.errors import InputError
from gramian.model import HEADS, Aligner, Features, Modality, build_head
from synthetic import world


@pytest.fixture
def aligner():
    return Aligner.for_table(world(missing=0.3), dim=8)


def test_dict_in_bundle_out(aligner):
    table = world(missing=0.3)
    bundle = aligner.embed(table)
    assert isinstance(bundle, Bundle)
    assert bundle.modalities == ("text", "image", "audio")
    assert torch.equal(bundle.present, table.mask())
    lengths = bundle.vectors.norm(dim=-1)
    assert torch.allclose(lengths, bundle.present.float(), atol=1e-6)


def test_a_missing_row_does_not_change_the_others(aligner):
    table = world()
    whole = aligner.embed(table)
    mask = torch.rand(len(table), generator=torch.Generator().manual_seed(1)) < 0.5
    present = {"image": mask}
    part = aligner({**table.columns, "image": table.columns["image"].masked_fill(~mask[:, None], torch.nan)}, present=present)
    assert torch.allclose(part.column("text"), whole.column("text"), atol=1e-6)
    assert torch.allclose(part.column("image")[mask], whole.column("image")[mask], atol=1e-6)
    assert part.column("image")[~mask].abs().sum() == 0


def test_a_batch_in_which_nobody_has_a_modality(aligner):
    bundle = aligner({"text": torch.randn(3, 12), "audio": [None] * 3, "image": None})
    assert bundle.counts() == {"text": 3, "image": 0, "audio": 0}


def test_gradients_are_finite_with_missing_rows(aligner):
    aligner(world(missing=0.5)).vectors.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in aligner.parameters())


def test_embedding_in_small_batches_is_the_same_and_keeps_the_mode(aligner):
    aligner.train()
    table = world(missing=0.3)
    assert torch.allclose(aligner.embed(table, batch_size=7).vectors, aligner.embed(table).vectors, atol=1e-6)
    assert aligner.training


def test_features_are_standardised_by_present_training_rows():
    table = Table.from_columns({"a": [[1.0, 5.0], [3.0, 5.0], None], "b": torch.ones(3, 1)})
    tower = Aligner.for_table(table, dim=2).towers["a"]
    assert torch.equal(tower(table.columns["a"][:2]), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))


def test_one_seed_gives_one_model_and_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    one, same, other = (Aligner.for_table(world(), dim=4, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("head", HEADS)
def test_saved_and_loaded_models_agree_exactly(tmp_path, head):
    aligner = Aligner({"text.en": Modality(5, head), "音": Modality(5, head)}, dim=5).eval()
    aligner.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    read = Aligner.from_pretrained(tmp_path)
    columns = {"text.en": torch.randn(3, 5), "音": torch.randn(3, 5)}
    assert torch.equal(read(columns).vectors, aligner(columns).vectors)
    assert not read.training


def _damage(folder, name, content):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "is not a saved Aligner: it has no config.json"),
        ("model.safetensors", None, "is not a saved Aligner: it has no model.safetensors"),
        ("config.json", b"{", "is not a whole Aligner"),
        ("config.json", b"\xff\xfe", "is not a whole Aligner"),
        ("config.json", json.dumps({"model_type": "bert"}).encode(), "holds another kind of model"),
        ("config.json", b"[1]", "holds another kind of model"),
        ("model.safetensors", b"junk", "is not a whole Aligner"),
        ("model.safetensors", b"", "is not a whole Aligner"),
    ],
)
def test_damaged_models_say_what_is_wrong(aligner, tmp_path, name, content, message):
    aligner.save_pretrained(tmp_path)
    _damage(tmp_path, name, content)
    with pytest.raises(InputError, match=message):
        Aligner.from_pretrained(tmp_path)


def test_a_folder_that_is_not_there_is_no_hub_id(tmp_path):
    with pytest.raises(InputError, match="is no folder here and cannot be fetched"):
        Aligner.from_pretrained(tmp_path / "nowhere", local_files_only=True)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"video": torch.zeros(2, 3)}, "`columns` has unknown modalities video; the model knows text, image, audio"),
        ({"text": torch.zeros(2, 3)}, "column `text` must have width 12; got 3"),
        ({"text": [None] * 2}, "`columns` must hold at least one vector"),
        ({"text": [None, [0.0] * 12]}, "1 of 2 items with no modality present"),
        ({"text": torch.full((2, 12), torch.nan)}, "NaN or infinite values in 2 of 2"),
        ({"text": None}, "`columns` must hold at least one vector"),
    ],
)
def test_bad_columns_are_refused(aligner, columns, message):
    with pytest.raises(InputError, match=message):
        aligner(columns)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Aligner({}, dim=4), "`modalities` must name at least one"),
        (lambda: Aligner({"a": 3}, dim=0), "`dim` must lie in"),
        (lambda: Aligner({"a": Modality(3, "identity")}, dim=4), "`head` 'identity' needs width 4"),
        (lambda: Aligner({"a": Modality(3, "liner")}, dim=4), "`head` must be one of .* Did you mean 'linear'"),
        (lambda: Features(0), "`width` must be at least 1"),
        (lambda: build_head("linaer", 3, 4), "Did you mean 'linear'"),
        (lambda: Features(3)(torch.zeros(2, 2)), r"features must have shape \(n, 3\)"),
    ],
)
def test_bad_models_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
