"""The first inputs of `tests/fuzz.py`, and those in which it found something."""

from itertools import product

import pytest

pytest.importorskip("pyarrow")
for package in ("PIL", "soundfile", "av"):
    pytest.importorskip(package)

from fuzz import READERS, read, run, samples  # noqa: E402

FOUND = {"json": [1620], "mkv": [1484], "parquet": [1136], "tar": [36, 152, 463], "webm": [847, 3065]}


@pytest.mark.parametrize("name", READERS)
def test_damaged_input_is_read_or_refused(name, tmp_path):
    for sample in samples(name):
        assert read(name, sample, tmp_path) is None
    _, refused, findings = run(iter([*product([name], range(50)), *product([name], FOUND.get(name, []))]), tmp_path)
    assert not findings
    assert refused
