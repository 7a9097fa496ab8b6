import json
import multiprocessing
import os
import subprocess
import sys
import unittest.mock

import pytest
import torch
from torch import nn

from gramian.bundle import Bundle
from gramian.data import Cells, Reading, Table, batches
from gramian.data.batches import Loader
from gramian.embedding import encode_table
from gramian.errors import InputError
from gramian.model import HEADS, Aligner, Custom, Features, Modality, Tower, Towers, build_head
from gramian.model.encoders import Encoder
from gramian.model.towers import evaluating, seeded
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
    table = Table.from_columns({"text.en": torch.randn(9, 5), "音": torch.randn(9, 5)})
    aligner = Aligner.for_table(table, dim=5, head=head).eval()
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
        ("config.json", b'{"format": "gramian.aligner", "version": 99}', "version 99 of the format.* Upgrade gramian"),
        ("config.json", b'{"format": "gramian.aligner", "version": 2}', "version 2 of the format.* save it again"),
        ("config.json", b'{"format": "gramian.aligner", "version": 3}', "is not a whole Aligner.*modalities"),
    ],
)
def test_damaged_models_say_what_is_wrong(aligner, tmp_path, name, content, message):
    aligner.save_pretrained(tmp_path)
    _damage(tmp_path, name, content)
    with pytest.raises(InputError, match=message):
        Aligner.from_pretrained(tmp_path)


def test_a_folder_that_is_not_there_is_no_hub_id(tmp_path):
    with pytest.raises(InputError, match=r"or a hub id; .*nowhere' is neither: no such folder"):
        Aligner.from_pretrained(tmp_path / "nowhere", local_files_only=True)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"video": torch.zeros(2, 3)}, "`columns` has unknown modalities video; the model knows text, image, audio"),
        ({"text": torch.zeros(2, 3)}, "column `text` must have width 12; got 3"),
        ({"text": [None] * 2}, "`columns` must hold a filled cell of text, image, audio; got none"),
        ({"text": [None, [0.0] * 12]}, "1 of 2 items with no modality present"),
        ({"text": torch.full((2, 12), torch.nan)}, "NaN or infinite values in 2 of 2"),
        ({"text": None}, "`columns` must hold a filled cell of text, image, audio; got none"),
    ],
)
def test_bad_columns_are_refused(aligner, columns, message):
    with pytest.raises(InputError, match=message):
        aligner(columns)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Aligner({}, dim=4), "`modalities` must name at least one"),
        (lambda: Aligner({"a": 3}, dim=0), "`dim` must be an integer in"),
        (lambda: Aligner({"a": Modality(3, "identity")}, dim=4), "`head` 'identity' needs width 4"),
        (lambda: Aligner({"a": Modality(3, "liner")}, dim=4), "`head` must be one of .* Did you mean 'linear'"),
        (lambda: Features(0), "`width` must be an integer of at least 1"),
        (lambda: build_head("linaer", 3, 4), "Did you mean 'linear'"),
        (lambda: Features(3)(torch.zeros(2, 2)), r"features must have shape \(n, 3\)"),
    ],
)
def test_bad_models_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_weights_of_another_aligner_are_not_taken(aligner, tmp_path):
    aligner.save_pretrained(tmp_path / "a")
    for other, message in (
        (Aligner.for_table(world(), dim=9), "of another shape heads"),
        (Aligner({"text": 12}, dim=8), "missing .*heads.1"),
        (Aligner.for_table(world(), dim=8, matcher={"width": 16, "heads": 2}), "unknown matcher"),
    ):
        other.save_pretrained(tmp_path / "b")
        (tmp_path / "b" / "config.json").write_bytes((tmp_path / "a" / "config.json").read_bytes())
        with pytest.raises(InputError, match=message):
            Aligner.from_pretrained(tmp_path / "b")


def test_options_that_nobody_reads_are_refused(aligner, tmp_path):
    for options in ({"nonsense": 1}, {"commit_mesage": "typo"}, {"push_to_hub": True}):
        with pytest.raises(TypeError, match=next(iter(options))):
            aligner.save_pretrained(tmp_path, **options)
    with pytest.raises(InputError, match="`towers` must be one of auto, reference, value; got 'both'"):
        aligner.save_pretrained(tmp_path, towers="both")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="`save_directory` must be a folder"):
        aligner.save_pretrained(tmp_path / "file")


def test_a_folder_is_replaced_whole_and_keeps_what_is_not_the_aligners(aligner, tmp_path, monkeypatch):
    folder = tmp_path / "aligner"
    aligner.save_pretrained(folder)
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("mine", encoding="utf-8")
    (folder / "towers").mkdir()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    from gramian.model import saving

    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_file", full)
        with pytest.raises(OSError, match="no space left"):
            Aligner.for_table(world(), dim=3).save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    Aligner.for_table(world(), dim=3).save_pretrained(folder)
    assert Aligner.from_pretrained(folder).dim == 3
    assert (folder / "notes" / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert not (folder / "towers").exists()  # of the Aligner that was there before
    assert [path.name for path in tmp_path.iterdir()] == ["aligner"]


def test_names_of_any_script_are_read_under_any_locale(tmp_path):
    Aligner({"bild é": 3, "音": 2}, dim=4).save_pretrained(tmp_path)
    script = (
        "import sys; from gramian.model import Aligner; print(ascii(list(Aligner.from_pretrained(sys.argv[1]).modalities)))"
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONWARNDEFAULTENCODING": "1"}
    done = subprocess.run([sys.executable, "-c", script, tmp_path], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == ascii(["bild é", "音"]), done.stderr


@pytest.mark.parametrize("abstract", [Tower, Encoder])
def test_what_is_abstract_cannot_be_made(abstract):
    with pytest.raises(TypeError, match="abstract"):
        abstract()
    half = type("Half", (abstract,), {})
    with pytest.raises(TypeError, match="abstract"):
        half()


def test_evaluation_puts_back_the_mode_of_each_part():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    model[1].eval()
    modes = [part.training for part in model.modules()]
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == modes


def test_seeds_of_first_weights_leave_the_generator_alone():
    state = torch.random.get_rng_state()
    draws = []
    for seed in (1, 1, 2):
        with seeded(seed):
            draws.append(torch.randn(3))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_table_without_rows_gives_a_bundle_without_items(aligner):
    empty = world()[:0]
    assert aligner.embed(empty).vectors.shape == (0, 3, 8)
    for model, width in ((aligner, 8), (aligner.towers, 12)):
        vectors, mask = encode_table(model, empty)["text"]
        assert vectors.shape == (0, width) and mask.shape == (0,)


def _sensors(read):
    tower = Custom(nn.Linear(1, 2), 2, read=read)
    return Aligner({"sensor": tower, "text": 2}, dim=2), Table.from_columns({"sensor": Cells([1.0, 2.0]), "text": torch.eye(2)})


def test_cells_that_cannot_be_read_are_reported_by_a_direct_call(caplog):
    def read(cell):
        if cell > 1:
            raise ValueError("too hot")
        return torch.tensor([cell])

    aligner, table = _sensors(read)
    message = "1 cells cannot be read and count as missing: sensor of 1: too hot"
    for call in (aligner, aligner.embed):
        caplog.clear()
        assert call(table).has("sensor").tolist() == [True, False]
        assert message in caplog.text
    caplog.clear()
    broken = []
    aligner.embed(table, broken=broken)
    aligner(aligner.collator()(table))  # a Batch lists them itself
    assert broken == [("1", "sensor", "too hot")] and not caplog.text
    for call in (lambda: aligner(table, strict=True), lambda: aligner.embed(table, reading=Reading(strict=True))):
        with pytest.raises(InputError, match="column `sensor`, id '1' cannot be read: too hot"):
            call()


def _value_of(cell):
    return cell["value"]


def _own_pid(_):
    return torch.tensor([float(os.getpid())], dtype=torch.float64)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_ones_own_reader_is_no_broken_cell(workers):
    aligner, table = _sensors(_value_of)
    before = set(multiprocessing.active_children())
    with pytest.raises(TypeError, match="not subscriptable") as caught:
        aligner.embed(table, reading=Reading(workers))
    loader = Loader(table, aligner.collator(), Reading(workers))
    for _ in range(2):  # it can be asked again
        with pytest.raises(TypeError, match="not subscriptable"):
            list(loader.in_order())
    assert set(multiprocessing.active_children()) <= before  # though the errors are at hand
    notes = "\n".join([*getattr(caught.value, "__notes__", []), str(caught.value)])
    assert "column `sensor`, id '0'" in notes


def test_a_bug_in_ones_own_collation_is_told_as_what_it_is():
    collate = unittest.mock.Mock(side_effect=RuntimeError("CUDA out of memory"))
    aligner = Aligner({"sensor": Custom(nn.Linear(1, 2), 2, collate=collate)}, dim=2)
    with pytest.raises(RuntimeError, match="CUDA out of memory") as caught:
        aligner({"sensor": [[1.0], [2.0]]})
    assert caught.value.__notes__ == ["column `sensor`, ids 0, 1"]


@pytest.mark.parametrize("workers", [-1, 1.5, True, "2"])
def test_numbers_of_processes_that_are_none(workers):
    with pytest.raises(InputError, match="`workers` must be an integer in"):
        Reading(workers)


def test_processes_of_a_loader_serve_every_pass():
    tower = Custom(nn.Linear(1, 2), 2, read=_own_pid)
    towers = Towers({"sensor": tower})
    loader = Loader(Table.from_columns({"sensor": Cells(["a", "b", "c", "d"])}), towers.collator(), Reading(workers=2))
    passes = [{int(pid) for batch in loader.in_order(1) for pid in batch.inputs["sensor"]} for _ in range(2)]
    assert passes[0] == passes[1] and os.getpid() not in passes[0] and len(passes[0]) == 2
    partial = loader([[0], [1], [2], [3]], seed=1)
    next(partial)  # what is left of a pass does not come with the next one
    assert [batch.ids for batch in loader.in_order(3, range(1, 4))] == [("1", "2", "3")]


def test_readers_that_new_processes_cannot_be_given(monkeypatch):
    monkeypatch.setattr(batches, "START", "spawn")  # as on macOS
    aligner, table = _sensors(lambda cell: cell["value"])
    with pytest.raises(InputError, match=r"`workers` must be 0 here, .*<lambda>.*\. Functions defined at the top of a module"):
        aligner.embed(table, reading=Reading(1))


def test_one_tower_of_features_for_two_modalities(tmp_path):
    shared = Features(3)
    shared.adapt(torch.randn(5, 3))
    aligner = Aligner({"a": Modality(tower=shared), "b": Modality(tower=shared)}, dim=2).eval()
    aligner.save_pretrained(tmp_path)
    columns = {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}
    assert torch.equal(Aligner.from_pretrained(tmp_path)(columns).vectors, aligner(columns).vectors)


def test_towers_go_by_the_names_of_their_modalities():
    towers = Towers({"text.en": Features(3), "音": Features(2)})
    assert list(towers) == ["text.en", "音"] and len(towers) == 2 and "音" in towers
    assert towers["音"].width == 2
    with pytest.raises(InputError, match=r"`modality` must be one of text\.en, 音; got 'text'"):
        towers["text"]
    with pytest.raises(InputError, match="`towers` must name at least one"):
        Towers({})
    table = Table.from_columns({"text.en": torch.randn(2, 3), "other": torch.randn(2, 1)})
    assert towers.known(table).modalities == ("text.en",)
    with pytest.raises(InputError, match=r"`columns` must be one of text\.en, 音; got 'other'"):
        towers.known(table, ["other"])
    with pytest.raises(InputError, match="none of the columns that the model reads"):
        towers.known(table.select("other"))
