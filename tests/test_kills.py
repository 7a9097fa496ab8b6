"""Faults at a few operations on files, one kind each; `python tests/kills.py --count 200` is the long form."""

from pathlib import Path

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("pyarrow")

import forked


def test_what_is_killed_at_an_operation_on_files_goes_on_to_the_same_bytes():
    jobs = ["features", "embed2", "report"]
    words = ["--count", "4", "--moments", "0", "--jobs", *jobs]
    code, printed, error = forked.alone(forked.printed, words, Path(__file__).with_name("kills.py"))
    assert code == 0, printed + error
    assert printed.count("4 faults, 4 ended in the same bytes") == len(jobs), printed
