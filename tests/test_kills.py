"""Faults at a few operations on files, one kind each; `python tests/kills.py --count 200` is the long form."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("pyarrow")


def test_what_is_killed_at_an_operation_on_files_goes_on_to_the_same_bytes():
    jobs = ["features", "embed2", "report"]
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), "--count", "4", "--moments", "0", "--jobs", *jobs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("4 faults, 4 ended in the same bytes") == len(jobs), done.stdout
