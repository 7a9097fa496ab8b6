"""The score of searches that name none: chosen by validation items, kept with the index, set by hand."""

import json
from itertools import combinations

import pytest
import torch

from gramian import Aligner, Bundle, InputError, Table
from gramian.cli import index as command
from gramian.cli import main
from gramian.index import FlatIndex, Index, QdrantIndex
from gramian.index.building import index_tables
from gramian.index.choosing import CANDIDATES, choose_score
from gramian.scores import SCORES

N, D = 120, 24


def space(*noise: float, missing: float = 0.0, seed: int = 0) -> Bundle:
    """Items seen through modalities of some noise each."""
    draw = torch.Generator().manual_seed(seed)
    latent = torch.randn(N, D, generator=draw)
    columns = {name: latent + level * torch.randn(N, D, generator=draw) for name, level in zip("abcd", noise, strict=False)}
    present = {name: torch.rand(N, generator=draw) >= missing for name in columns}
    present["a"] |= ~torch.stack(list(present.values())).any(0)
    return Bundle.from_dict(columns, present=present)


UNEVEN = space(0.5, 0.5, 3.0, 3.0)  # one of an item's modalities fits a query, the others are next to noise


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_gains_are_the_mean_reciprocal_rank_of_literal_searches(missing):
    bundle = space(0.8, 0.8, 2.0, missing=missing, seed=1)
    choice = choose_score(bundle)
    names = bundle.modalities
    means = dict.fromkeys(("centroid", *CANDIDATES), 0.0)
    directions = [query for size in (1, 2) for query in combinations(names, size)]
    for query in directions:
        among = [name for name in names if name not in query]
        rows = [i for i in range(N) if bundle.select(*query).has()[i] and bundle.select(*among).has()[i]]
        for score in means:
            items = [i for i in range(N) if bundle.select(*among).has()[i]]  # as they are, with what they lack
            table = SCORES[score](bundle.select(*query)[rows], bundle.select(*among)[items])
            own = [items.index(row) for row in rows]
            ranks = [1 + int((line > line[place] + 1e-6).sum()) for line, place in zip(table, own, strict=True)]
            means[score] += sum(1 / rank for rank in ranks) / len(ranks) / len(directions)
    for score in CANDIDATES:
        assert choice.gains[score].value == pytest.approx(means[score] - means["centroid"], abs=1e-6)


def test_a_score_is_chosen_only_if_it_is_better_beyond_noise():
    choice = choose_score(UNEVEN)
    assert choice.score == max(CANDIDATES, key=lambda name: choice.gains[name].value)
    assert choice.gains[choice.score].low > 0
    assert f"{choice.score}: {choice.score} − centroid = " in str(choice)
    even = choose_score(space(1.6, 1.6, 1.6, 1.6))
    assert even.score == "centroid" and all(gain.low <= 0 for gain in even.gains.values())
    few = choose_score(UNEVEN[:30])  # the same space, but too few items to tell
    assert few.score == "centroid" and any(gain.value > 0 for gain in few.gains.values())
    assert "no other is better beyond noise" in str(few)


def test_rows_of_one_item_are_one_witness():
    once = choose_score(UNEVEN)
    twice = Bundle.cat([UNEVEN, UNEVEN])
    items = torch.arange(N).repeat(2)
    again = choose_score(Bundle(twice.vectors, twice.present, twice.modalities, items))
    for score in CANDIDATES:
        assert again.gains[score].low == pytest.approx(once.gains[score].low, abs=0.005)


def test_two_modalities_leave_nothing_to_choose():
    choice = choose_score(space(0.5, 0.5))
    assert (choice.score, choice.gains) == ("centroid", {})
    assert "do not tell scores apart" in str(choice)


def indices(tmp_path):
    flat = FlatIndex.create(tmp_path / "i", dim=D)
    yield flat, lambda: Index.open(tmp_path / "i")
    pytest.importorskip("qdrant_edge")
    edge = QdrantIndex.edge(tmp_path / "e", dim=D, modalities=UNEVEN.modalities)

    def again():
        edge.close()
        return QdrantIndex.edge(tmp_path / "e")

    yield edge, again


def test_an_index_searches_by_what_was_chosen_or_set(tmp_path):
    query = UNEVEN.select("a")[:1]
    for index, again in indices(tmp_path):
        index.add(UNEVEN, [str(i) for i in range(N)])
        assert index.score == "centroid" and not index.score_is_set
        index.set_score("span", chosen=True)
        assert index.search(query).score == "span" and not index.score_is_set
        assert index.search(query).ids == index.search(query, score="span").ids
        assert index.search(query, score="centroid").score == "centroid"
        with pytest.raises(InputError, match="`score` must be one of"):
            index.set_score("spectral")
        index.set_score("max_cosine")
        reopened = again()
        assert reopened.search(query).score == "max_cosine" and reopened.score_is_set
        reopened.set_score(None)
        assert reopened.score == "centroid" and not reopened.score_is_set


def test_the_score_survives_changes_and_an_older_manifest_means_the_centroid(tmp_path):
    index = FlatIndex.create(tmp_path / "i", dim=D)
    index.add(UNEVEN, [str(i) for i in range(N)])
    index.set_score("span")
    index.delete(["1"])
    index.compact()
    index.save(tmp_path / "copy")
    assert FlatIndex.open(tmp_path / "i").score == FlatIndex.open(tmp_path / "copy").score == "span"
    manifest = tmp_path / "copy" / "index.json"
    state = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({name: value for name, value in state.items() if not name.startswith("score")}))
    assert FlatIndex.open(tmp_path / "copy").score == "centroid"


def table_of(bundle: Bundle) -> Table:
    columns = {name: bundle.column(name) for name in bundle.modalities}
    return Table.from_columns(columns, ids=[f"item-{i}" for i in range(len(bundle))])


def test_indexing_chooses_by_the_validation_items_it_holds(tmp_path):
    table = table_of(UNEVEN)
    model = Aligner.for_table(table, dim=D, head="identity").eval()
    index = FlatIndex.create(tmp_path / "i", dim=D, model=model)
    assert index_tables(index, model, [table[:60]], validation=["item-99"], progress=False).choice is None
    done = index_tables(index, model, [table], validation=[*table.ids, "unknown"], progress=False)
    assert done.choice.items == N and done.choice.score == index.score != "centroid"
    index.set_score("cone")
    assert index_tables(index, model, [table], validation=table.ids, progress=False).choice is None
    assert index.score == "cone"


def test_rows_of_one_item_choose_as_one_when_they_are_indexed(tmp_path):
    table = table_of(UNEVEN)
    columns = {name: torch.cat([table.features(name)] * 2) for name in table.modalities}
    ids = [f"{copy} {name}" for copy in "ab" for name in table.ids]
    model = Aligner.for_table(table, dim=D, head="identity").eval()
    found = []
    for place, items in (("items", list(table.ids) * 2), ("rows", None)):
        index = FlatIndex.create(tmp_path / place, dim=D, model=model)
        twice = Table.from_columns(columns, ids=ids, item_ids=items)
        done = index_tables(index, model, [twice[:200], twice[200:]], validation=ids, progress=False)
        gain = done.choice.gains["span"]
        found.append(gain.high - gain.low)
    once = choose_score(model.embed(table)).gains["span"]
    assert found[0] == pytest.approx(once.high - once.low, abs=0.005)
    assert found[1] < 0.8 * found[0]  # twice as many witnesses


def test_the_command_tells_what_it_chose(tmp_path, capsys):
    table = table_of(UNEVEN)
    run, data = tmp_path / "run", tmp_path / "t.parquet"
    table.save(data)
    Aligner.for_table(table, dim=D, head="identity").eval().save_pretrained(run / "aligner")
    words = ["index", str(run), "--data", str(data)]
    assert main(words) == 0
    assert "score centroid: no validation items of a run are known" in capsys.readouterr().out
    (run / "splits.json").write_text(json.dumps({"train": [], "validation": table.ids}))
    assert main(words) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"score {Index.open(run).score}: " in told and "of MRR on 120 validation items" in told
    assert main(["index", str(run), "--score", "cone"]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "score cone, as it was set" in capsys.readouterr().out
    assert main([*words, "--score", "validation"]) == 0
    assert Index.open(run).score != "cone"
    capsys.readouterr()
    assert main(["search", str(run), "--like", "item-3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == Index.open(run).score
    assert main(["index", str(run), "--score", "validation"]) == 2
    assert "--data must be given" in capsys.readouterr().err


def test_numbered_rows_of_another_table_are_other_items(tmp_path):
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["0"], "validation": ["1", "2"]}))
    (tmp_path / "aligner").mkdir()
    model = str(tmp_path / "aligner")
    (tmp_path / "report.json").write_text(json.dumps({"settings": {"data": "here/world.parquet"}}))
    assert command._validation(model, "there/world.parquet") == ["1", "2"]
    assert command._validation(model, "test.parquet") == []
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["a"], "validation": ["b", "c"]}))
    assert command._validation(model, "test.parquet") == ["b", "c"]
