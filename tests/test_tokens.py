import numpy as np
import pytest
import torch

from gramian import InputError
from gramian.tokens import Tokens, pool

NAN = float("nan")
HOWS = ("mean", "max", "first")


def rows(dtype=torch.float32):
    """Three sequences: of two tokens, of none, of three."""
    return [
        torch.tensor([[1.0, -2.0], [3.0, 4.0]], dtype=dtype),
        None,
        torch.tensor([[0.0, -1.0], [-5.0, -1.0], [2.0, -4.0]], dtype=dtype),
    ]


def padded(fill=NAN):
    """The values and the mask of the same sequences with `fill` before, between and behind their tokens."""
    present = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 1]], dtype=torch.bool)
    values = torch.full((3, 5, 2), fill)
    values[present] = torch.cat([row for row in rows() if row is not None])
    return values, present


def scattered(fill=NAN):
    return Tokens(*padded(fill))


def listed(tokens):
    return [values[there].tolist() for values, there in zip(tokens.values, tokens.present, strict=True)]


# --- construction


@pytest.mark.parametrize(
    "given",
    [
        rows(),
        [[[1.0, -2.0], [3.0, 4.0]], [], [[0.0, -1.0], [-5.0, -1.0], [2.0, -4.0]]],
        [None if row is None else row.numpy() for row in rows()],
        [rows()[0], torch.zeros(0, 2), rows()[2].tolist()],
        [rows()[0].numpy(), np.zeros((0, 2), dtype=np.float32), rows()[2]],
    ],
    ids=["tensors", "lists", "numpy", "mixed", "mixed with numpy"],
)
def test_every_form_of_rows_gives_the_same_tokens(given):
    tokens = Tokens.from_rows(given)
    assert listed(tokens) == [[[1, -2], [3, 4]], [], [[0, -1], [-5, -1], [2, -4]]]
    assert tokens.values.shape == (3, 3, 2) and tokens.values.dtype == torch.float32
    assert tokens.has_any().tolist() == [True, False, True] and len(tokens) == 3
    assert repr(tokens) == "Tokens(3 sequences, at most 3 tokens, 2 dimensions; 5 tokens in all)"


@pytest.mark.parametrize("fill", [NAN, float("inf"), -float("inf"), 1e38])
def test_what_a_masked_token_holds_is_never_read(fill):
    assert torch.equal(scattered(fill).values, scattered(0.0).values)
    for how in HOWS:
        values, present = padded(fill)
        pooled = pool(Tokens(values.requires_grad_(), present), how)
        assert torch.equal(pooled, pool(Tokens.from_rows(rows()), how))
        pooled.square().sum().backward()
        assert values.grad.isfinite().all() and values.grad.any() and not values.grad[~present].any()


def test_rows_keep_their_graph():
    first, second = torch.eye(2, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    pool(Tokens.from_rows([first, None, second])).sum().backward()
    assert torch.equal(first.grad, torch.full((2, 2), 0.5)) and torch.equal(second.grad, torch.ones(1, 2))


# --- pooling


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_pooling_matches_a_loop_over_what_is_there(dtype):
    tokens = scattered().to(dtype=dtype)
    expected = {
        "mean": [[2.0, 1.0], [0.0, 0.0], [-1.0, -2.0]],
        "max": [[3.0, 4.0], [0.0, 0.0], [2.0, -1.0]],
        "first": [[1.0, -2.0], [0.0, 0.0], [0.0, -1.0]],
    }
    for how, vectors in expected.items():
        assert pool(tokens, how).tolist() == vectors and pool(tokens, how).dtype == dtype
    assert torch.equal(pool(tokens), pool(tokens, "mean"))


@pytest.mark.parametrize("how", HOWS)
def test_pooling_of_one_token_is_the_token_and_of_none_is_zero(how):
    vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pool(Tokens(vectors[:, None], torch.ones(4, 1) > 0), how), vectors)
    assert not pool(Tokens(torch.full((4, 2, 3), NAN), torch.zeros(4, 2) > 0), how).any()
    assert torch.equal(pool(Tokens(torch.ones(4, 0, 3), torch.ones(4, 0) > 0), how), torch.zeros(4, 3))
    assert pool(Tokens(torch.ones(0, 2, 3), torch.ones(0, 2) > 0), how).shape == (0, 3)


@pytest.mark.parametrize("how", HOWS)
def test_pooling_does_not_read_the_padding(how):
    tokens = scattered()
    assert torch.equal(pool(tokens.padded(9), how), pool(tokens, how))
    values = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: pool(Tokens(values, tokens.present), how), values)


# --- parts


def test_rows_of_tokens_can_be_taken():
    tokens = scattered()
    for taken, order in (
        (tokens[1:], [1, 2]),
        (tokens[torch.tensor([2, 0, 2])], [2, 0, 2]),
        (tokens[tokens.has_any()], [0, 2]),
    ):
        assert listed(taken) == [listed(tokens)[i] for i in order]


def test_padding_adds_masked_tokens_behind():
    tokens = scattered().padded(7)
    assert tokens.values.shape == (3, 7, 2) and listed(tokens) == listed(scattered())
    assert not tokens.present[:, 5:].any() and not tokens.values[:, 5:].any()


def test_sequences_of_different_lengths_go_below_each_other_and_tokens_behind_each_other():
    short, long = Tokens.from_rows([[[7.0, 8.0]], None, [[9.0, 9.0]]]), scattered()
    below, behind = Tokens.cat([short, long]), Tokens.cat([short, long], dim=1)
    assert below.values.shape == (6, 5, 2) and listed(below) == listed(short) + listed(long)
    assert behind.values.shape == (3, 6, 2)
    assert listed(behind) == [a + b for a, b in zip(listed(short), listed(long), strict=True)]
    assert listed(Tokens.cat([long])) == listed(long)


def test_to_changes_the_type_and_the_device():
    tokens = scattered()
    assert tokens.to(dtype=torch.float16).values.dtype == torch.float16 and tokens.to("cpu").values.dtype == torch.float32
    assert tokens.to("meta").values.device.type == tokens.to("meta").present.device.type == "meta"


# --- errors


@pytest.mark.parametrize(
    ("values", "present", "message"),
    [
        (
            torch.ones(2, 3),
            torch.ones(2) > 0,
            r"`values` must be a .* of shape \(n, t, d\); got torch.float32 of shape \(2, 3\)",
        ),
        (torch.ones(2, 3, 4).long(), torch.ones(2, 3) > 0, r"`values` must be a floating-point tensor .*; got torch.int64"),
        (torch.ones(2, 3, 4), torch.ones(2, 3), r"`present` must be a bool tensor of shape \(2, 3\); got torch.float32"),
        (torch.ones(2, 3, 4), torch.ones(2, 4) > 0, r"of shape \(2, 3\); got torch.bool of shape \(2, 4\)"),
    ],
)
def test_the_constructor_checks_shapes(values, present, message):
    with pytest.raises(InputError, match=message):
        Tokens(values, present)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "`rows` is empty in every row. Leave it out"),
        ([None, []], "`rows` is empty in every row"),
        ([torch.ones(1, 2), torch.ones(1, 3)], r"sequences of vectors of one width; got 2 \(1 rows\), 3 \(1 rows\)"),
        ([[1.0, 2.0]], r"got shape \(2,\) \(1 rows\)"),
        ([torch.ones(1, 2, 3)], r"got shape \(1, 2, 3\) \(1 rows\)"),
    ],
)
def test_bad_rows_are_named(given, message):
    with pytest.raises(InputError, match=message):
        Tokens.from_rows(given)


def test_an_unknown_pooling_is_an_error_with_the_choices():
    with pytest.raises(InputError, match=r"`how` must be one of mean, max, first; got 'maxi'. Did you mean 'max'"):
        pool(scattered(), "maxi")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tokens.from_rows([[[1.0], [1.0, 2.0]]]), "`rows` must hold sequences of vectors of one width"),
        (lambda: Tokens.from_rows([torch.tensor(1.0)]), "`rows` must hold sequences of vectors of one width"),
        (lambda: Tokens.cat([]), "`parts` must hold Tokens of one width.*; got none"),
        (
            lambda: Tokens.cat([Tokens.from_rows([[[1.0]]]), Tokens.from_rows([[[1.0, 2.0]]])]),
            "`parts` must hold Tokens of one",
        ),
        (lambda: Tokens.cat([Tokens.from_rows([[[1.0]]]), Tokens.from_rows([[[1.0]]] * 2)], dim=1), "`parts` must hold Tokens"),
        (
            lambda: Tokens.from_rows([[[1.0]] * 3]).padded(2),
            "`length` must be at least the 3 tokens of the longest sequence; got 2",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_rows_of_several_types_keep_the_widest_and_means_do_not_overflow():
    rows = [torch.ones(1, 2, dtype=torch.bfloat16), torch.full((1, 2), 0.1)]
    assert torch.equal(Tokens.from_rows(rows).values[1], torch.full((1, 2), 0.1))
    assert Tokens.from_rows([[[1, 2]], None]).values.dtype == torch.float32
    many = Tokens(torch.full((1, 1000, 2), 100.0, dtype=torch.float16), torch.ones(1, 1000, dtype=torch.bool))
    assert torch.equal(pool(many), torch.full((1, 2), 100.0, dtype=torch.float16))
