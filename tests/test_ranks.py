import pytest
import torch

from gramian import Bundle, InputError
from gramian.evaluation.metrics import ranks
from gramian.kernels import Given
from gramian.kernels.ranks import Candidates, match_ranks, pair_ranks, top_k
from gramian.kernels.rules import Form, Traced
from gramian.scores import SCORES
from test_kernels import Largest


def _bundle(n, m, d=6, *, seed=0, missing=0.3):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(n, m, d, generator=generator, dtype=torch.float64), dim=-1)
    present = torch.rand(n, m, generator=generator) >= missing
    present[torch.arange(n), torch.arange(n) % m] = True
    return Bundle(vectors, present, tuple("abcd"[:m]))


def _candidates(items):
    return Candidates(torch.arange(len(items)), torch.as_tensor(items))


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("block_size", [None, 4])
def test_ranks_of_tiles_are_those_of_the_table(name, block_size):
    """Queries of one vector and of several, items with ids in common and without a match."""
    generator = torch.Generator().manual_seed(1)
    for k, m in ((1, 2), (2, 1)) if name == "triangle" else ((1, 3), (3, 2)):
        queries, items = _bundle(11, k, seed=2), _bundle(17, m, seed=3)
        first, second = torch.randint(0, 8, (11,), generator=generator), torch.randint(0, 8, (17,), generator=generator)
        form = SCORES[name].of(queries, items)
        table, same = SCORES[name](queries, items), first[:, None] == second
        found = match_ranks(form, _candidates(first), _candidates(second), both=True, block_size=block_size)
        for side, scores, relevant in zip(found, (table, table.T), (same, same.T), strict=True):
            matched = relevant.any(1)
            assert side.matched.equal(matched)
            expected = ranks(scores[matched], relevant[matched])
            assert side.better[matched].tolist() == expected.better.tolist()
            assert side.tied[matched].tolist() == expected.tied.tolist()
        (alone,) = match_ranks(form, _candidates(first), _candidates(second), block_size=block_size)
        assert all(torch.equal(*pair) for pair in zip(alone, found[0], strict=True))


@pytest.mark.parametrize("block_size", [None, 2, 3])
def test_candidates_with_the_same_vectors_tie_wherever_their_tiles_are(block_size):
    """Rows 0 to 4 of the form stand for 1, 3, 1, 2 and 1 candidates, on both sides."""
    rows = torch.tensor([0, 1, 1, 1, 2, 3, 3, 4])
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    items = torch.tensor([0, 1, 2, 3, 4, 5, 1, 7]), torch.tensor([4, 1, 7, 3, 2, 5, 0, 1])
    table, same = scores[rows][:, rows], items[0][:, None] == items[1]
    sides = [Candidates(rows, side) for side in items]
    for side, values, relevant in zip(
        match_ranks(Given.form(scores), *sides, both=True, block_size=block_size), (table, table.T), (same, same.T), strict=True
    ):
        expected = ranks(values, relevant)
        assert (side.better.tolist(), side.tied.tolist()) == (expected.better.tolist(), expected.tied.tolist())


def test_scores_that_rounding_takes_out_of_their_range_tie_at_its_end():
    form = SCORES["cosine"].of(torch.eye(2), torch.eye(2))
    beyond = Given.form(torch.tensor([[1.0, 1.0 + 2**-20]]))
    bounded = type(form)(beyond.rule, beyond.queries, beyond.items, -1, 1)
    sides = Candidates(torch.tensor([0]), torch.tensor([0])), _candidates([0, 1])
    for case, expected in ((beyond, (1, 0)), (bounded, (0, 1))):
        (found,) = match_ranks(case, *sides)
        assert (int(found.better), int(found.tied)) == expected


@pytest.mark.parametrize("step", [-1.0, 1.0])
def test_a_match_is_not_counted_against_itself_where_the_passes_differ_in_the_last_bit(step):
    """As the first matrix product of a process and the next may."""
    scores = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))
    calls = []

    def wobbling(queries, items):
        calls.append(None)
        table = queries[0][:, items[0]]
        return table if len(calls) == 1 else torch.nextafter(table, torch.full_like(table, step * torch.inf))

    def form():
        calls.clear()
        return Form(Traced(wobbling), (scores,), (torch.arange(9),))

    expected = ranks(scores, torch.eye(9, dtype=torch.bool))
    for found, wanted in zip(
        match_ranks(form(), _candidates(range(9)), _candidates(range(9)), both=True),
        (expected, ranks(scores.T, torch.eye(9, dtype=torch.bool))),
        strict=True,
    ):
        assert (found.better.tolist(), found.tied.tolist()) == (wanted.better.tolist(), wanted.tied.tolist())
    pairs = pair_ranks(form(), _candidates(range(9)), _candidates(range(9)))
    assert (pairs.better.tolist(), pairs.tied.tolist()) == (expected.better.tolist(), expected.tied.tolist())


@pytest.mark.parametrize("block_size", [None, 3, 1])
@pytest.mark.parametrize("k", [1, 4, 9, 50])
def test_the_best_k_are_those_of_a_stable_sort(block_size, k):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (13, 9), generator=generator).double()  # full of ties
    scores[torch.rand(13, 9, generator=generator) < 0.2] = -torch.inf
    values, index = top_k(Given.form(scores), k, block_size=block_size)
    expected = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(values, expected.values[:, :k]) and torch.equal(index, expected.indices[:, :k])


def test_no_tensor_of_ranks_or_best_k_grows_with_all_pairs():
    n, m, d = 192, 3, 4
    queries, items = _bundle(n, 1, d, missing=0), _bundle(n, m, d)
    for name in ("cosine", "span", "maxsim", "spectral"):
        with Largest() as largest, torch.no_grad():
            form = SCORES[name].of(queries, items)
            match_ranks(form, _candidates(range(n)), _candidates(range(n)), both=True, block_size=16)
            top_k(form, 5, block_size=16)
        assert largest.elements <= 16 * 16 * 64 + 8 * n * m * d < n * n


@pytest.mark.parametrize(("q", "n"), [(0, 3), (3, 0), (0, 0)])
def test_empty_sides(q, n):
    form = SCORES["cosine"].of(torch.ones(q, 4), torch.ones(n, 4))
    first, second = match_ranks(form, _candidates(range(q)), _candidates(range(n)), both=True)
    assert not first.matched.any() and not second.matched.any()
    assert top_k(form, 2)[1].shape == (q, min(2, n))


def test_nan_has_no_rank():
    with pytest.raises(InputError, match="the scores hold NaN, which has no rank"):
        match_ranks(Given.form(torch.tensor([[1.0, torch.nan]])), _candidates([0]), _candidates([0, 1]))
