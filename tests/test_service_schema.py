"""The service keeps to its own OpenAPI, whatever is sent: no error inside, no answer that the schema does not know."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

pytest.importorskip("schemathesis")
pytest.importorskip("fastapi")

import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

from gramian.index import FlatIndex
from gramian.index.service import service
from gramian.model import Aligner
from test_index import D, items


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("schema") / "i"
    FlatIndex.create(path, dim=D).add(items(20), [f"i{i}" for i in range(20)], {"n": list(range(20))})
    torch.manual_seed(0)
    index = FlatIndex.open(path, model=Aligner({"features": 3}, dim=D).eval())
    return schemathesis.openapi.from_asgi("/openapi.json", service(index))


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
def test_the_service_keeps_to_its_schema(served, mode):
    operations = [found.ok() for found in served.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/search", "/embed", "/items/{name}", "/health", "/metrics"}
    for operation in operations:
        if mode == schemathesis.GenerationMode.NEGATIVE and operation.method != "post":
            continue  # nothing can be said wrongly: every text is a path

        @settings(max_examples=10, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def keeps(case):
            # Which modalities and fields there are is the index's matter, not the schema's.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        keeps()
