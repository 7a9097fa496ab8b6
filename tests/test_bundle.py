import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gramian import Bundle, InputError
from gramian.tokens import Tokens, pool

NAN = float("nan")


def three(dtype=torch.float32):
    """Three items of text, image (the second missing) and audio (the last alone)."""
    return Bundle.from_dict(
        {
            "text": torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0], [1.0, 1.0, 1.0]], dtype=dtype),
            "image": [torch.tensor([0.0, 5.0, 0.0], dtype=dtype), None, torch.tensor([-1.0, 0.0, 0.0], dtype=dtype)],
            "audio": [None, None, torch.tensor([0.0, 3.0, 4.0], dtype=dtype)],
        }
    )


def known(dtype=torch.float32):
    """Four rows of three items, with ids and with the tokens of text and audio; video has neither."""
    text = [[[3.0, 0.0], [0.0, 4.0]], [[0.0, 2.0]], None, [[1.0, 1.0], [2.0, 0.0], [0.0, 5.0]]]
    audio = [None, [[1.0, 0.0], [4.0, 3.0]], [[0.0, 7.0]], [[6.0, 8.0]]]
    columns = {"text": Tokens.from_rows(text).to(dtype=dtype), "audio": Tokens.from_rows(audio).to(dtype=dtype)}
    columns["video"] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], dtype=dtype)
    return Bundle.from_dict(columns, item_ids=[7, -1, 7, 2**40])


def same(a, b):
    def equal(a, b):
        return a is b is None or (a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b))

    return (
        a.modalities == b.modalities
        and equal(a.present, b.present)
        and equal(a.vectors, b.vectors)
        and equal(a.item_ids, b.item_ids)
        and a.tokens.keys() == b.tokens.keys()
        and all(equal(a.tokens[name].values, b.tokens[name].values) for name in a.tokens)
        and all(equal(a.tokens[name].present, b.tokens[name].present) for name in a.tokens)
    )


def sequences(bundle, modality):
    tokens = bundle.tokens[modality]
    return [values[there].tolist() for values, there in zip(tokens.values, tokens.present, strict=True)]


# --- construction


@pytest.mark.parametrize(
    "column",
    [
        torch.tensor([[3.0, 4.0], [0.0, 0.5]]),
        np.array([[3.0, 4.0], [0.0, 0.5]], dtype=np.float32),
        torch.tensor([[6, 8], [0, 1]]),
        [[3.0, 4.0], [0.0, 0.5]],
        [[3, 4], [0, 2]],
        [torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.5])],
        [np.array([3.0, 4.0]), (0.0, 0.5)],
    ],
    ids=["tensor", "numpy", "integers", "lists", "integer lists", "tensors", "mixed"],
)
def test_every_form_of_a_column_gives_the_same_unit_rows(column):
    bundle = Bundle.from_dict({"a": column})
    torch.testing.assert_close(bundle.column("a"), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert bundle.present.all() and len(bundle) == 2 and bundle.dim == 2 and bundle.modalities == ("a",)


def test_none_marks_a_missing_vector_and_a_missing_modality():
    bundle = Bundle.from_dict({"a": [None, [0.0, 2.0]], "b": torch.ones(2, 2), "c": None})
    assert bundle.present.tolist() == [[False, True, False], [True, True, False]]
    assert bundle.counts() == {"a": 1, "b": 2, "c": 0}
    assert not bundle.vectors[~bundle.present].any()


def test_a_mask_and_none_both_take_a_vector_away():
    mask = {"a": [True, True, False], "b": np.array([False, True, True])}
    bundle = Bundle.from_dict({"a": [None, [1.0, 0.0], [1.0, 0.0]], "b": torch.ones(3, 2), "c": torch.ones(3, 2)}, present=mask)
    assert bundle.present.tolist() == [[False, False, True], [True, True, True], [False, True, True]]


@pytest.mark.parametrize("garbage", [NAN, float("inf"), 0.0, 1e38])
def test_what_a_masked_row_holds_is_never_read(garbage):
    def build(fill):
        a = torch.tensor([[1.0, 2.0], [fill, fill]], requires_grad=True)
        b = torch.tensor([[2.0, 1.0], [1.0, 3.0]], requires_grad=True)
        bundle = Bundle.from_dict({"a": a, "b": b}, present={"a": torch.tensor([True, False])})
        (bundle.vectors * torch.arange(8.0).reshape(2, 2, 2)).sum().backward()
        return bundle, a.grad, b.grad

    (dirty, da, db), (clean, ca, cb) = build(garbage), build(1.0)
    assert same(dirty, clean)
    assert torch.equal(da, ca) and torch.equal(db, cb) and ca[0].any() and not ca[1].any()


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1.0, 1e20, 1e30, 1e37])
def test_rows_of_any_length_become_unit_vectors(scale):
    raw = torch.tensor([[1.0, -2.0, 2.0], [0.0, 3.0, 4.0]]) * scale
    expected = torch.tensor([[1 / 3, -2 / 3, 2 / 3], [0.0, 0.6, 0.8]])
    torch.testing.assert_close(Bundle.from_dict({"a": raw}).column("a"), expected, rtol=0, atol=2e-7)


def test_normalisation_has_the_gradient_of_x_over_its_length():
    x = torch.tensor([[3.0, -1.0, 2.0], [0.1, 0.2, -0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Bundle.from_dict({"a": x}).vectors, x)


def test_columns_of_different_types_meet_in_the_wider_one():
    bundle = Bundle.from_dict({"a": torch.ones(1, 2, dtype=torch.float16), "b": torch.ones(1, 2, dtype=torch.float64)})
    assert bundle.vectors.dtype == torch.float64
    assert three(torch.bfloat16).vectors.dtype == torch.bfloat16


@pytest.mark.parametrize("pooling", ["mean", "max", "first"])
def test_tokens_are_pooled_as_they_come_and_kept_at_unit_length(pooling):
    tokens = Tokens.from_rows([[[3.0, 0.0], [0.0, 4.0]], None, [[6.0, 8.0]]])
    bundle = Bundle.from_dict({"a": tokens, "b": torch.eye(2)[[0, 1, 0]].double()}, pooling=pooling)
    expected = torch.nn.functional.normalize(pool(tokens, pooling).double(), dim=-1)
    torch.testing.assert_close(bundle.column("a"), expected)
    assert bundle.present.tolist() == [[True, True], [False, True], [True, True]]
    assert list(bundle.tokens) == ["a"] and bundle.tokens["a"].values.dtype == torch.float64
    torch.testing.assert_close(sequences(bundle, "a"), [[[1.0, 0.0], [0.0, 1.0]], [], [[0.6, 0.8]]])


def test_a_mask_takes_the_tokens_of_a_row_away_and_they_are_never_read():
    def build(fill):
        values = torch.tensor([[[1.0, 2.0], [fill, fill]], [[fill, fill], [fill, fill]]]).requires_grad_()
        present = torch.tensor([[True, False], [True, True]])
        columns = {"a": Tokens(values, present), "b": torch.eye(2)}
        bundle = Bundle.from_dict(columns, present={"a": [True, False]})
        (bundle.vectors.sum() + bundle.tokens["a"].values.square().sum()).backward()
        return bundle, values.grad

    (dirty, slope), (clean, expected) = build(1e38), build(1.0)
    assert same(dirty, clean) and dirty.tokens["a"].present.tolist() == [[True, False], [False, False]]
    assert torch.equal(slope, expected) and not slope[1].any()


# --- ids


@pytest.mark.parametrize(
    "ids",
    [[5, -3, 5], (5, -3, 5), np.array([5, -3, 5]), torch.tensor([5, -3, 5]), torch.tensor([5, -3, 5], dtype=torch.int16)],
    ids=["list", "tuple", "numpy", "tensor", "short integers"],
)
def test_every_form_of_whole_numbers_gives_the_same_ids(ids):
    assert Bundle.from_dict({"a": torch.eye(3)}, item_ids=ids).item_ids.tolist() == [5, -3, 5]


@pytest.mark.parametrize("ids", [["film", "Film", "film"], np.array(["film", "Film", "film"])], ids=["list", "numpy"])
def test_names_become_the_same_numbers_everywhere(ids):
    bundle = Bundle.from_dict({"a": torch.eye(3)}, item_ids=ids)
    # The first eight bytes of BLAKE2b: files written on one machine are read on another.
    assert bundle.item_ids.tolist() == [4630546855648701531, 5975739203630841045, 4630546855648701531]
    assert bundle.distinct() == 2


def test_same_tells_rows_of_one_item_within_a_bundle_and_across_two():
    bundle = known()
    assert bundle.same().tolist() == [[i == j or {i, j} == {0, 2} for j in range(4)] for i in range(4)]
    assert bundle.same(bundle[[2, 1]]).tolist() == [[True, False], [False, True], [True, False], [False, False]]
    assert bundle.same(bundle[:0]).shape == (4, 0) and bundle[:0].same().shape == (0, 0)
    assert torch.equal(three().same(), torch.eye(3) > 0)


def test_distinct_counts_items_not_rows():
    assert [known().distinct(), known()[[0, 2]].distinct(), known()[:0].distinct(), three().distinct()] == [3, 1, 0, 3]


def test_check_false_leaves_the_values_alone_but_not_the_shapes():
    columns = {"a": torch.tensor([[NAN, 1.0], [0.0, 0.0]]), "b": [[1.0, 1.0], None]}
    assert len(Bundle.from_dict(columns, check=False)) == 2
    with pytest.raises(InputError, match="width d"):
        Bundle.from_dict({"a": torch.ones(2, 2), "b": torch.ones(2, 3)}, check=False)


# --- reading


def test_repr_shows_the_size_and_the_counts():
    assert repr(three()) == "Bundle(3 items, 3 dimensions, torch.float32; text 3, image 2, audio 1)"


def test_has_asks_for_any_of_the_modalities_named():
    bundle = Bundle.from_dict({"a": [[1.0], None, [1.0]], "b": [[1.0], [1.0], None], "c": [None, None, [1.0]]})
    assert bundle.has().tolist() == [True, True, True]
    assert bundle.has("a").tolist() == [True, False, True]
    assert bundle.has("b", "c").tolist() == [True, True, True]
    assert bundle.has("c").tolist() == [False, False, True]


def test_select_keeps_the_order_given_and_all_items():
    chosen = three().select("audio", "text")
    assert chosen.modalities == ("audio", "text") and len(chosen) == 3
    assert torch.equal(chosen.column("audio"), three().column("audio"))
    assert chosen.present.tolist() == [[False, True], [False, True], [True, True]]
    assert three().select("audio").has().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1, [1]),
        (-1, [2]),
        (slice(0, 2), [0, 1]),
        (slice(None, None, 2), [0, 2]),
        ([2, 0, 2], [2, 0, 2]),
        ([True, False, True], [0, 2]),
        ([], []),
        (np.array([2, 1]), [2, 1]),
        (np.int64(2), [2]),
        (np.array([False, False, True]), [2]),
        (torch.tensor([1, 1]), [1, 1]),
        (torch.tensor([False, True, False]), [1]),
    ],
    ids=repr,
)
def test_indexing_takes_rows_and_always_gives_a_bundle(rows, expected):
    bundle = three()
    taken = bundle[rows]
    assert isinstance(taken, Bundle) and taken.modalities == bundle.modalities
    assert torch.equal(taken.vectors, torch.stack([bundle.vectors[i] for i in expected]) if expected else torch.zeros(0, 3, 3))
    assert taken.present.tolist() == [bundle.present[i].tolist() for i in expected]


def test_iteration_yields_bundles_of_one_item_and_ends():
    items = [bundle for bundle, _ in zip(iter(three()), range(10), strict=False)]
    assert [len(item) for item in items] == [1, 1, 1]


def test_cat_undoes_a_split_and_follows_the_first_order():
    bundle = three()
    assert same(Bundle.cat([bundle[:1], bundle[1:].select("audio", "image", "text")]), bundle)
    assert same(Bundle.cat(bundle[i] for i in range(3)), bundle)


def test_to_changes_type_and_detach_drops_the_graph():
    bundle = Bundle.from_dict({"a": torch.ones(2, 2, requires_grad=True)})
    assert bundle.to(dtype=torch.float64).vectors.dtype == torch.float64
    assert bundle.to("cpu").vectors.requires_grad and bundle.to("meta").present.device.type == "meta"
    assert bundle.vectors.requires_grad and not bundle.detach().vectors.requires_grad


def test_ids_and_tokens_follow_the_rows_and_the_modalities():
    bundle = known()
    for rows, order in (
        (slice(1, None, 2), [1, 3]),
        ([3, 0, 3], [3, 0, 3]),
        (2, [2]),
        (torch.tensor([1, 0, 0, 1]) > 0, [0, 3]),
    ):
        taken = bundle[rows]
        assert taken.item_ids.tolist() == [bundle.item_ids[i] for i in order]
        assert sequences(taken, "audio") == [sequences(bundle, "audio")[i] for i in order]
    chosen = bundle.select("video", "audio")
    assert list(chosen.tokens) == ["audio"] and chosen.tokens["audio"] is bundle.tokens["audio"]
    assert torch.equal(chosen.item_ids, bundle.item_ids) and not bundle.select("video").tokens


def test_cat_undoes_a_split_of_ids_and_of_tokens_of_different_lengths():
    bundle = known()
    parts = []
    for part in (bundle[:1], bundle[1:].select("video", "audio", "text")):
        longest = {name: max(1, int(tokens.present.sum(1).max())) for name, tokens in part.tokens.items()}
        cut = {name: Tokens(t.values[:, : longest[name]], t.present[:, : longest[name]]) for name, t in part.tokens.items()}
        parts.append(Bundle(part.vectors, part.present, part.modalities, part.item_ids, cut))
    assert len({part.tokens["text"].values.shape[1] for part in parts}) == 2
    assert same(Bundle.cat(parts), bundle)


def test_cat_keeps_the_tokens_that_all_have():
    bundle = known()
    without = Bundle(bundle.vectors, bundle.present, bundle.modalities, bundle.item_ids, {"audio": bundle.tokens["audio"]})
    assert list(Bundle.cat([bundle, without]).tokens) == ["audio"]


def test_to_and_detach_reach_ids_and_tokens():
    values = torch.ones(2, 3, 4, requires_grad=True)
    bundle = Bundle.from_dict({"a": Tokens(values, torch.ones(2, 3) > 0)}, item_ids=[1, 2])
    moved = bundle.to("meta", dtype=torch.float64)
    assert moved.tokens["a"].values.dtype == torch.float64 and moved.item_ids.dtype == torch.int64
    assert {moved.item_ids.device.type, moved.tokens["a"].values.device.type, moved.tokens["a"].present.device.type} == {"meta"}
    assert bundle.tokens["a"].values.requires_grad and not bundle.detach().tokens["a"].values.requires_grad
    assert same(bundle.detach(), bundle)


# --- files


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_save_and_load_lose_nothing(tmp_path, dtype):
    for bundle in (three(dtype), known(dtype), known(dtype).select("video", "audio")[::2]):
        bundle.save(tmp_path / "b.safetensors")
        loaded = Bundle.load(str(tmp_path / "b.safetensors"))
        assert same(loaded, bundle) and loaded.vectors.dtype == dtype
    assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]


@pytest.mark.parametrize("names", [("image.left", "音"), ("a b", 'quo"te'), ("vectors", "present"), ("[1]", "é\n")])
def test_names_survive_a_file(tmp_path, names):
    bundle = Bundle.from_dict(dict.fromkeys(names, torch.eye(2)))
    bundle.save(tmp_path / "b")
    assert Bundle.load(tmp_path / "b").modalities == names


def test_views_graphs_and_empty_bundles_can_be_saved(tmp_path):
    graph = Bundle.from_dict({"a": torch.eye(3, requires_grad=True), "b": torch.eye(3)})
    for name, bundle in {"view": three().select("audio", "text")[::2], "graph": graph, "empty": three()[:0]}.items():
        bundle.save(tmp_path / name)
        assert same(Bundle.load(tmp_path / name), bundle)


@pytest.mark.parametrize("size", [0, 4, 40, -1])
def test_a_truncated_file_is_an_input_error(tmp_path, size):
    path = tmp_path / "b.safetensors"
    three().save(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"b\.safetensors' cannot be read as safetensors \("):
        Bundle.load(path)


def test_a_foreign_or_absent_file_is_an_input_error(tmp_path):
    save_file({"vectors": torch.ones(1, 1, 1)}, tmp_path / "foreign")
    with pytest.raises(InputError, match=r"written by `Bundle.save`; .*foreign' is another safetensors file"):
        Bundle.load(tmp_path / "foreign")
    (tmp_path / "text").write_text("not a tensor in sight")
    with pytest.raises(InputError, match="cannot be read"):
        Bundle.load(tmp_path / "text")
    with pytest.raises(InputError, match=r"nowhere' does not exist"):
        Bundle.load(tmp_path / "nowhere")


# --- errors: what was expected, what came, how many, what to do

EYE = torch.eye(3)


@pytest.mark.parametrize(
    ("columns", "present", "message"),
    [
        ({}, None, "`columns` must hold at least one modality; got none"),
        ({"a": None, "b": None}, None, "got only None"),
        ({"": EYE}, None, "`modalities` must be non-empty strings"),
        ({1: EYE}, None, "`modalities` must be non-empty strings; got \\(1,\\)"),
        ({"a": EYE, "b": EYE[:2]}, None, "share one length n; got a 3, b 2. Mark missing rows with `None`"),
        ({"a": EYE, "b": EYE[:, :2]}, None, "share one width d; got a 3, b 2. Project them to one space first"),
        (
            {"a": EYE, "b": torch.ones(3)},
            None,
            r"`columns\['b'\]` must have shape \(n, d\) and hold real numbers; got \(3,\), torch.float32",
        ),
        (
            {"a": EYE[None]},
            None,
            r"`columns\['a'\]` must have shape \(n, d\) and hold real numbers; got \(1, 3, 3\), torch.float32",
        ),
        (
            {"a": [[1.0, 2.0], None, [1.0]]},
            None,
            r"`columns\['a'\]` must hold vectors of one width; got 1 \(1 rows\), 2 \(1 rows\)",
        ),
        ({"a": [1.0, 2.0]}, None, r"must hold vectors of one width; got shape \(\) \(2 rows\)"),
        ({"a": [[1.0], "b"]}, None, r"`columns\['a'\]` must hold vectors of one width; row 1 is not one: "),
        ({"a": []}, None, r"`columns\['a'\]` is empty in every row. Leave it out"),
        ({"a": EYE}, {"b": [True] * 3, "c": [True] * 3}, "`present` has unknown modalities b, c; the columns are a"),
        ({"a": EYE}, {"a": [True] * 2}, r"`present\['a'\]` must be bool of shape \(3,\); got torch.bool of shape \(2,\)"),
        ({"a": EYE}, {"a": [1, 0, 1]}, r"`present\['a'\]` must be bool of shape \(3,\); got torch.int64"),
        (
            {"a": [[NAN, 1.0], [1.0, 1.0], [1.0, float("inf")]], "b": [[1.0, NAN], None, [1.0, 1.0]]},
            None,
            r"not finite: a 2, b 1 \(rows 0, 2\)\. Correct them, or mark them missing with `None` or `present`",
        ),
        ({"a": EYE * 0, "b": EYE}, None, r"zero and so have no direction: a 3 \(rows 0, 1, 2\)"),
        ({"a": torch.full((9, 2), NAN)}, None, r"a 9 \(rows 0, 1, 2, 3, 4 and 4 more\)"),
        (
            {"a": [[1.0], None, None], "b": [None, [1.0], None]},
            None,
            r"1 of 3 items with no modality present \(rows 2\)\. Leave them out",
        ),
        ({"a": EYE}, {"a": [True, False, False]}, r"2 of 3 items with no modality present \(rows 1, 2\)"),
    ],
)
def test_bad_columns_are_counted(columns, present, message):
    with pytest.raises(InputError, match=message):
        Bundle.from_dict(columns, present=present)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2], r"`item_ids` must be 3 whole numbers or 3 names; got torch.int64 of shape \(2,\)"),
        ([1.0, 2.0, 3.0], "`item_ids` must be 3 whole numbers or 3 names; got 1.0, 2.0, 3.0"),
        ([True, False, True], "3 names; got True, False, True"),
        (["a", None, "b"], "3 names; got 'a', None, 'b'"),
        (torch.ones(3), r"3 names; got torch.float32 of shape \(3,\)"),
        (torch.ones(3) > 0, r"3 names; got torch.bool of shape \(3,\)"),
        (torch.ones(3, 1).long(), r"3 names; got torch.int64 of shape \(3, 1\)"),
    ],
)
def test_bad_ids_are_named(ids, message):
    with pytest.raises(InputError, match=message):
        Bundle.from_dict({"a": EYE}, item_ids=ids)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": Tokens(EYE[:, None], EYE[:, :1] > 0)}, {}, r"2 of 3 items with no modality present \(rows 1, 2\)"),
        ({"a": Tokens(EYE[:, None] * NAN, EYE[:, :1] >= 0)}, {}, "vectors that are not finite: a 3"),
        ({"a": Tokens(torch.stack([EYE, -EYE], 1), torch.ones(3, 2) > 0)}, {}, "zero and so have no direction: a 3"),
        ({"a": EYE, "b": Tokens(EYE[:2, None], EYE[:2, :1] >= 0)}, {}, "share one length n; got a 3, b 2"),
        ({"a": EYE[:, :2], "b": Tokens(EYE[:, None], EYE[:, :1] >= 0)}, {}, "share one width d; got a 2, b 3"),
        ({"a": Tokens(EYE[:, None], EYE[:, :1] >= 0)}, {"pooling": "min"}, "must be one of mean, max, first; got 'min'"),
    ],
)
def test_bad_tokens_are_counted(columns, options, message):
    with pytest.raises(InputError, match=message):
        Bundle.from_dict(columns, **options)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"item_ids": torch.ones(3).int()},
            r"`item_ids` must be an int64 tensor of shape \(3,\); got torch.int32 .* `Bundle.from_dict`",
        ),
        ({"item_ids": torch.ones(2).long()}, r"int64 tensor of shape \(3,\); got torch.int64 of shape \(2,\)"),
        ({"tokens": {"b": Tokens(EYE[:, None], EYE[:, :1] > 0)}}, "`modality` must be one of a; got 'b'"),
        (
            {"tokens": {"a": Tokens(EYE[:2, None], EYE[:2, :1] > 0)}},
            r"`tokens\['a'\]` must hold 3 sequences of width 3; got Tok",
        ),
        ({"tokens": {"a": Tokens(EYE[:, None, :2], EYE[:, :1] > 0)}}, r"`tokens\['a'\]` must hold 3 sequences of width 3"),
    ],
)
def test_the_constructor_checks_ids_and_tokens(extra, message):
    with pytest.raises(InputError, match=message):
        Bundle(EYE[:, None], torch.ones(3, 1) > 0, ("a",), **extra)


@pytest.mark.parametrize(
    ("vectors", "present", "names", "message"),
    [
        (
            torch.ones(2, 3),
            torch.ones(2, 3) > 0,
            "ab",
            r"`vectors` must be .* \(n, m, d\); got torch.float32 of shape \(2, 3\)",
        ),
        (torch.ones(2, 1, 3).long(), torch.ones(2, 1) > 0, "a", "got torch.int64"),
        (torch.ones(2, 2, 3), torch.ones(2, 2) > 0, "abc", "`modalities` must name the 2 modalities of `vectors`; got 3 names"),
        (torch.ones(2, 2, 3), torch.ones(2, 2) > 0, "aa", "`modalities` must all be different; got a, a"),
        (torch.ones(2, 2, 3), torch.ones(2, 2), "ab", r"`present` must be a bool tensor of shape \(2, 2\); got torch.float32"),
        (torch.ones(2, 2, 3), torch.ones(2, 3) > 0, "ab", r"of shape \(2, 2\); got torch.bool of shape \(2, 3\)"),
    ],
)
def test_the_constructor_checks_shapes(vectors, present, names, message):
    with pytest.raises(InputError, match=message):
        Bundle(vectors, present, tuple(names))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda b: b.column("video"), "`modality` must be one of text, image, audio; got 'video'"),
        (lambda b: b.has("video"), "`modality` must be one of text, image, audio; got 'video'"),
        (lambda b: b.select("text", "video"), "`modality` must be one of text, image, audio; got 'video'"),
        (lambda b: b.select(), "`modalities` must name at least one of text, image, audio; got none"),
        (lambda b: b.select("text", "text"), "`modalities` must all be different; got text, text"),
        (lambda b: b["text"], r"indexed by rows; got 'text'. Use `.column\('text'\)` or `.select\('text'\)`"),
        (
            lambda b: b.same(known()),
            "`item_ids` must say which rows of two Bundles are one item; got a Bundle without",
        ),
        (lambda b: known().same(b), "`item_ids` must say which rows"),
        (
            lambda _: Bundle.cat([known(), Bundle(known().vectors, known().present, known().modalities)]),
            "`bundles` must all have ids, or none; got 1 of 2 with ids",
        ),
        (lambda _: Bundle.cat([]), "`bundles` must hold at least one Bundle; got none"),
        (lambda b: Bundle.cat([b, b.select("text")]), "share their modalities; got text, image, audio and text"),
        (
            lambda b: Bundle.cat([b.select("text"), Bundle.from_dict({"text": torch.ones(1, 4)})]),
            "share one width d; got number 0 3, number 1 4. Embed them with one model",
        ),
    ],
)
def test_bad_requests_name_what_there_is(act, message):
    with pytest.raises(InputError, match=message):
        act(three())
