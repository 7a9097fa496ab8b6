"""Several processes by torchrun and gloo: the same losses and gradients as one process with all items; nothing hangs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gramian import Bundle, Gram
from gramian.distributed import Gathered, Ring, gather, world_size

WORKER = Path(__file__).with_name("distributed_worker.py")
FIT = Path(__file__).with_name("fit_worker.py")


def python(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


def torchrun(script, processes, *arguments):
    return python("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", script, *arguments)


@pytest.mark.parametrize("processes", [2, 4])
def test_losses_of_several_processes_are_those_of_one(processes):
    done = torchrun(WORKER, processes)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"all agree on {processes}" in done.stdout


def test_one_process_is_left_as_it_is():
    items = Bundle.from_dict({"text": torch.eye(4), "image": torch.eye(4).roll(1, 0)})
    assert world_size() == 1
    assert gather(items) is items
    expected = Gram()(items).total
    for wrap in (Gathered, Ring):
        torch.testing.assert_close(wrap(Gram())(items).total, expected)
        assert "Gram(" in repr(wrap(Gram()))
        assert wrap(Gram()).sign_blind


def run_fit(folder, processes, **options):
    folder.mkdir(exist_ok=True)
    given = (folder, json.dumps(options))
    done = python(FIT, *given) if processes == 1 else torchrun(FIT, processes, *given)
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(folder / "end.pt", weights_only=True) if (folder / "end.pt").exists() else None


def test_the_command_line_under_torchrun(tmp_path):
    words = ["-m", "gramian", "train", "--data", "stamps", "--columns", "image,text", "--recipe.epochs", "2"]
    done = torchrun(words[0], 2, *words[1:], "--recipe.micro_batch", "16", "--output", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("training on") == done.stdout.count("One modality → another") == 1
    assert len(list((tmp_path / "run").glob("checkpoints/*/random_states_*.pkl"))) == 2  # of two processes in one run
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
    ("processes", "options"),
    [(2, {}), (4, {"ring": True}), (2, {"micro_batch": 4}), (2, {"micro_batch": 5, "ring": True})],
    ids=str,
)
def test_fit_across_processes_ends_as_one_does(alone, tmp_path, processes, options):
    """The batch is split over the processes, unevenly: 21 items over 2 and 4."""
    same_end(run_fit(tmp_path, processes, **options), alone)


def test_fit_across_processes_with_a_matching_head_and_resumed(tmp_path):
    whole = run_fit(tmp_path / "whole", 2, matching=True, accumulate=2)
    assert run_fit(tmp_path / "parts", 2, matching=True, accumulate=2, stop=2) is None
    same_end(run_fit(tmp_path / "parts", 2, matching=True, accumulate=2, resume=True), whole)
    assert (tmp_path / "parts" / "run" / "metrics.jsonl").read_text().count("\n") == 4
