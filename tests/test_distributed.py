"""Several processes and gloo: the same losses and gradients as one process with all items; nothing hangs."""

import subprocess
import sys

import pytest
import torch

import forked
from gramian import Bundle, Gram, distributed, processes
from gramian.data import load
from gramian.distributed import Gathered, Ring, gather, world_size
from gramian.errors import InputError


@pytest.mark.parametrize("count", [2, 4])
def test_losses_of_several_processes_are_those_of_one(count):
    forked.values(forked.together(forked.losses, processes=count))


def test_the_closed_form_of_several_processes_is_that_of_one():
    scores, vectors = forked.solving()
    for others in forked.values(forked.together(forked.solving, processes=2)):
        assert others[0] == pytest.approx(scores)
        torch.testing.assert_close(torch.tensor(others[1]), torch.tensor(vectors), rtol=0, atol=1e-5)


def test_one_process_is_left_as_it_is():
    items = Bundle.from_dict({"text": torch.eye(4), "image": torch.eye(4).roll(1, 0)})
    assert world_size() == 1
    assert gather(items) is items
    expected = Gram()(items).total
    for wrap in (Gathered, Ring):
        torch.testing.assert_close(wrap(Gram())(items).total, expected)
        assert "Gram(" in repr(wrap(Gram()))
        assert wrap(Gram()).sign_blind


def test_shares_of_a_list_are_consecutive_and_of_nearly_one_length(monkeypatch):
    monkeypatch.setattr(processes, "world_size", lambda _: 3)
    for n in range(8):
        shares = []
        for number in range(3):
            monkeypatch.setattr(processes, "rank", lambda _, number=number: number)
            shares.append(distributed.share(list(range(n))))
        assert shares == [part.tolist() for part in torch.tensor_split(torch.arange(n), 3)]


def test_the_first_process_is_known_before_the_group_is(monkeypatch):
    assert distributed.is_main_process() and distributed.rank() == 0
    monkeypatch.setenv("RANK", "1")
    assert not distributed.is_main_process()


def test_devices_and_their_precisions():
    assert distributed.device(cpu=True) == torch.device("cpu")
    assert distributed.device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    distributed.check_precision("bf16", torch.device("cpu"))
    with pytest.raises(InputError, match="`precision` 'fp16' needs an accelerator; on the CPU use 'bf16' or 'no'"):
        distributed.check_precision("fp16", torch.device("cpu"))
    with pytest.raises(InputError, match="`precision` must be one of no, bf16, fp16; got 'fp8'"):
        distributed.check_precision("fp8", torch.device("cpu"))


@pytest.mark.parametrize(("accelerator", "used"), [("cuda", "cuda"), ("xpu", "xpu"), ("mps", "cpu")])
def test_an_accelerator_without_float64_is_left_alone(monkeypatch, accelerator, used):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(accelerator))
    assert distributed.device() == torch.device(used)
    assert distributed.device(cpu=True) == torch.device("cpu")


@pytest.mark.parametrize("victim", [0, 1])
def test_no_process_waits_for_one_that_is_gone(tmp_path, victim):
    folder = tmp_path / "out"
    outcomes = forked.together(forked.embedding, folder, victim, processes=2)
    assert outcomes[victim] == (-9, None)
    assert outcomes[1 - victim][0] == 1
    assert (
        f"InputError: process {victim} of 2 is gone. Start all of them again; finished work is kept." in outcomes[1 - victim][1]
    )
    kept = len(list(folder.glob("part-*.parquet")))
    written, read = zip(*forked.values(forked.together(forked.embedding, folder, -1, processes=2)), strict=True)
    assert [each[:4] for each in written] == [(20, 10, kept, ())] * 2
    assert sum(read) == 20 - 2 * kept  # each cell by one process, and none whose shard was kept
    assert load(folder).ids == tuple(map(str, range(20)))
    assert {path.name for path in folder.iterdir()} == {"manifest.json", *(f"part-{i:05d}.parquet" for i in range(10))}


def run_fit(folder, count, **options):
    folder.mkdir(exist_ok=True)
    if count == 1:
        forked.training(folder, options)
    else:
        forked.values(forked.together(forked.training, folder, options, processes=count))
    return torch.load(folder / "end.pt", weights_only=True) if (folder / "end.pt").exists() else None


def test_the_command_line_under_torchrun(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "gramian", "train"]
    words = ["--data", "stamps", "--columns", "image,text", "--recipe.epochs", "2", "--recipe.micro_batch", "16"]
    words += ["--output", str(tmp_path / "run")]
    done = subprocess.run([*launch, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count("training on") == done.stdout.count("One modality → another") == 1
    assert (tmp_path / "run" / "aligner" / "model.safetensors").exists()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process ends with."""
    return run_fit(tmp_path_factory.mktemp("fit") / "alone", 1)


def same_end(got, wanted):
    assert [record["epoch"] for record in got["records"]] == [record["epoch"] for record in wanted["records"]]
    for record, other in zip(got["records"], wanted["records"], strict=True):
        for name, value in other.items():
            assert record[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name
    for name, value in wanted["weights"].items():
        torch.testing.assert_close(got["weights"][name], value, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("count", "options"),
    [(2, {}), (4, {"ring": True}), (2, {"micro_batch": 4}), (2, {"micro_batch": 5, "ring": True})],
    ids=str,
)
def test_fit_across_processes_ends_as_one_does(alone, tmp_path, count, options):
    """The batch is split over the processes, unevenly: 21 items over 2 and 4."""
    same_end(run_fit(tmp_path, count, **options), alone)


def test_fit_across_processes_with_a_matching_head_and_resumed(tmp_path):
    whole = run_fit(tmp_path / "whole", 2, matching=True, accumulate=2)
    assert run_fit(tmp_path / "parts", 2, matching=True, accumulate=2, stop=2) is None
    same_end(run_fit(tmp_path / "parts", 2, matching=True, accumulate=2, resume=True), whole)
    assert (tmp_path / "parts" / "run" / "metrics.jsonl").read_text().count("\n") == 4
