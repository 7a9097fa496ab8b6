"""`gramian explore`: what is asked and shown, that nothing of the user's is HTML or names a file, the page in a browser."""

import asyncio
import gc
import json
import re
import socket
import urllib.error
import urllib.request
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("jinja2")
pytest.importorskip("soundfile")
pytest.importorskip("pyarrow")
if find_spec("gradio") is None:  # imported by the process that needs it, and not by each that collects
    pytest.skip("needs gradio", allow_module_level=True)

import browser
from gramian.bundle import Bundle
from gramian.cli import main
from gramian.data import Table
from gramian.data.cells import Cells
from gramian.data.readers import Media
from gramian.errors import InputError
from gramian.evaluation.previews import Previews
from gramian.index import FlatIndex
from gramian.index.building import index_tables
from gramian.index.explorer import Explorer, Question
from gramian.index.explorer_page import form, opened
from gramian.index.mapping import HAS, Map, export, places_of, sample
from gramian.index.showing import answers_html, map_html, notice_html
from gramian.model import Aligner, Features
from gramian.model.towers import Tower

MARKUP = '<img src=x onerror="window.hit=1">\'&</script>{{7*7}}${window.hit=2}`'
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "grey": (120, 120, 120)}


class Reads(Media):
    """A cell as four numbers: letters of a text, the mean colour, the energy of four bands."""

    def collate(self, cells):
        return torch.stack([torch.tensor(self.numbers(cell), dtype=torch.float32) for cell in cells])

    def numbers(self, cell):
        if self.kind == "text":
            return [float(cell.count(letter)) for letter in "rgbe"]
        if self.kind == "image":
            return [*(np.asarray(cell).mean((0, 1)) / 255), 0.1]
        return [float(band.mean()) for band in np.array_split(abs(np.fft.rfft(cell)), 4)]


class Encoder(Tower):
    def __init__(self, kind):
        super().__init__()
        self.width, self.reader, self.scale = 4, Reads(kind, seconds=0.2), torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        return inputs * self.scale


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Twelve items of text, image, sound and features, with markup in names and values; the folder and the explorer."""
    import soundfile
    from PIL import Image

    folder = tmp_path_factory.mktemp("explore")
    (folder / "media").mkdir()
    (folder / "secret").write_text("secret")
    cells = {"text": [], "image": [], "audio": [], "features": []}
    ids, field = [], f"made-{'x' * 3}"
    metadata = {"colour": [], "size": [], "ok": [], field: []}
    for i in range(12):
        colour = list(COLOURS)[i % 4]
        Image.new("RGB", (40, 30), COLOURS[colour]).save(folder / "media" / f"{i}.png")
        time = np.arange(3200) / 16_000
        soundfile.write(folder / "media" / f"{i}.wav", 0.4 * np.sin(2 * np.pi * 500 * (1 + i % 4) * time), 16_000)
        cells["text"].append(f"{colour} {MARKUP}" if i % 3 else None)
        cells["image"].append(f"media/{i}.png")
        cells["audio"].append(f"media/{i}.wav" if i % 2 else None)
        cells["features"].append([float(i), float(i % 4), 1.0])
        ids.append(f"{i} {MARKUP}" if i < 4 else f"plain {i}")
        for name, value in (("colour", colour), ("size", i), ("ok", i % 2 == 0), (field, MARKUP)):
            metadata[name].append(value)
    columns = {name: Cells(column, folder) if name != "features" else column for name, column in cells.items()}
    columns |= {name: Cells(column) for name, column in metadata.items()}
    table = Table.from_columns(columns, ids=ids)
    torch.manual_seed(0)
    towers = {kind: Encoder(kind) for kind in ("text", "image", "audio")} | {"features": Features(3)}
    model = Aligner(towers, dim=8).eval()
    index = FlatIndex.create(folder / "index", dim=8, model=model)
    index_tables(index, model, [table], metadata=list(metadata), progress=False)
    index = FlatIndex.open(folder / "index", model=model)
    return folder, Explorer(index, previews=Previews(table.select("image", "audio")))


def read(folder, name):
    return (folder / "media" / name).read_bytes()


def test_any_parts_ask_together_as_the_index_s_own_search(world):
    folder, explorer = world
    index = explorer.index
    assert explorer.inputs == {"text": "text", "image": "image", "audio": "audio"} and explorer.features == ("features",)
    text, image, sound = "a red e", read(folder, "1.png"), read(folder, "3.wav")
    (folder / "row.jsonl").write_text(json.dumps({"features": [0.0, 1.0, 2.0]}) + "\n")
    cells = index.embed({"text": text, "image": image, "audio": sound}).select("text", "image", "audio")
    like = index.vectors(["plain 5"])
    row = index.embed({"features": [0.0, 1.0, 2.0]}).select("features")
    for question, query, options in [
        (Question(cells={"text": text}), cells.select("text"), {}),
        (Question(cells={"image": image, "audio": sound}), cells.select("image", "audio"), {}),
        (Question(like="plain 5"), like, {"exclude": ["plain 5"]}),
        (Question(like="plain 5", by=["audio"]), like.select("audio"), {"exclude": ["plain 5"]}),
        (Question(table=folder / "row.jsonl"), row, {}),
        (Question(cells={"text": text}, weights={"text": -1.0}), cells.select("text"), {"weights": {"text": -1.0}}),
        (Question(cells={"text": text}, without={"text": "gg"}), cells.select("text"), {"without": {"text": "gg"}}),
        (
            Question(cells={"text": text}, filter=[{"colour": ["red"]}, "size>2"]),
            cells.select("text"),
            {"filter": ["colour=red", "size>2"]},
        ),
        (Question(cells={"text": text}, modalities=["image"]), cells.select("text"), {"modalities": ["image"]}),
    ]:
        wanted = index.search(query, 10, **options)[0]
        hits = [answer.hit for answer in explorer.ask(question).lists["centroid"]]
        assert [hit.id for hit in hits] == [hit.id for hit in wanted]
        for hit, other in zip(hits, wanted, strict=True):
            assert hit.contributions == pytest.approx(other.contributions, abs=1e-5)
    found = explorer.ask(Question(cells={"image": image}, like="plain 5", unlike="plain 7"))
    assert found.parts == ("image", "text", "like image", "audio", "features")
    wanted = index.search(
        Bundle.from_dict({"image": cells.column("image"), **{f"like {name}": like.column(name) for name in like.modalities}}),
        without=places_of(index.vectors(["plain 7"])),
        exclude=["plain 5", "plain 7"],
    )
    assert [answer.hit.id for answer in found.lists["centroid"]] == wanted.ids[0]


def test_two_scores_stand_side_by_side(world):
    _, explorer = world
    found = explorer.ask(Question(cells={"text": "red"}, scores=("centroid", "max_cosine"), k=4))
    first, second = found.lists.values()
    places = [{answer.hit.id: answer.rank for answer in answers} for answers in (first, second)]
    assert all(answer.other == places[1].get(answer.hit.id, 0) for answer in first)
    assert all(answer.other == places[0].get(answer.hit.id, 0) for answer in second)
    for mark in found.marks[1:]:
        assert mark.ranks == tuple(each.get(mark.name, 0) for each in places)
        assert mark.kind == ("answer" if mark.ranks[0] else "second")
    html = answers_html(found)
    assert (html.count("<ol") == 2 and "not in the other list" in html) or all(answer.other for answer in (*first, *second))


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (Question(), "nothing to search by"),
        (Question(like="nobody"), "it has no 'nobody'"),
        (Question(cells={"image": "/etc/passwd"}), "must be the bytes of a file"),
        (Question(cells={"audio": Path("/etc/passwd")}), "must be the bytes of a file"),
        (Question(cells={"text": b"x"}), "must be a text"),
        (Question(cells={"features": [1.0, 2.0, 3.0]}), "must be one of text, image, audio"),
        (Question(cells={"text": "a"}, without={"image": "/etc/passwd"}), "must be the bytes of a file"),
        (Question(cells={"image": b"no image"}), "`image` cannot be read: not an image that Pillow knows"),
        (Question(table=Path("outside.jsonl")), "`image` cannot be read: outside of the table's folder"),
        (Question(cells={"text": "a"}, filter=["year>1"]), "names the field 'year'"),
        (Question(cells={"text": "a"}, scores=("centroid", "span", "cone")), "one or two"),
        (Question(cells={"text": "a"}, scores=("best",)), "`scores` must be one of"),
        (Question(cells={"text": "a"}, colour="weight"), "`colour` must be one of"),
        (Question(cells={"text": "a"}, k=0), "`k` must"),
    ],
)
def test_a_question_that_cannot_be_asked_is_told_why(world, question, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("outside.jsonl").write_text('{"image": "/etc/passwd"}\n')
    with pytest.raises(InputError, match=re.escape(words)):
        world[1].ask(question)


def test_files_are_shown_from_allowed_folders_alone(world):
    folder, explorer = world
    _, (metadata,) = explorer.index.items(["plain 5"])
    shut = Explorer(explorer.index)
    assert shut.preview("plain 5", "image", metadata) is None
    assert shut.preview("plain 5", "text", metadata).text.startswith("green")
    some = Explorer(explorer.index, media_root=[folder / "media"])
    assert some.preview("plain 5", "image", metadata).uri.startswith("data:image/webp")
    assert some.preview("plain 5", "audio", metadata).kind == "audio"
    assert some.preview("plain 6", "image", {"image": str(folder / "secret")}) is None
    assert some.preview("plain 7", "image", {"image": str(folder / "media" / ".." / "secret")}) is None
    assert explorer.preview("plain 5", "image", {}).uri.startswith("data:image/webp")  # of the table
    explorer._previews.kinds["audio"] = "video"  # as of a recording in a file of video, by its ending
    same = Explorer(explorer.index, previews=explorer._previews)
    assert same.preview("plain 5", "audio", {}).kind == "audio"


class Reader(HTMLParser):
    """Elements and texts; fails on an element or an attribute that no template holds."""

    KNOWN = frozenset(
        {
            *(
                "div",
                "p",
                "a",
                "section",
                "h2",
                "h3",
                "span",
                "img",
                "audio",
                "ol",
                "wbr",
                "li",
                "article",
                "table",
                "caption",
                "tbody",
            ),
            *("thead", "tr", "th", "td", "details", "summary", "dl", "dt", "dd", "button", "figure", "figcaption"),
            *("svg", "rect", "line", "path", "g", "title", "circle", "text"),
        }
    )

    def __init__(self, text):
        super().__init__()
        self.text, self.tags = "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        assert tag in self.KNOWN, tag
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on") and name != "style", (tag, name)
            assert name not in ("src", "href") or value.startswith(("data:", "#")), value

    def handle_data(self, data):
        self.text += data


def test_nothing_of_the_user_s_is_html(world):
    folder, explorer = world
    question = Question(
        cells={"text": MARKUP, "image": read(folder, "2.png")},
        scores=("centroid", "cone"),
        k=12,
        colour="made-xxx",
        like=f"1 {MARKUP}",
    )
    found = explorer.ask(question)
    page, drawn = Reader(answers_html(found)), Reader(map_html(explorer.map, found, found.colour))
    for shown in (f"2 {MARKUP}", f"red {MARKUP}", f"1 {MARKUP}"):
        assert shown in page.text
    assert f"2 {MARKUP}" in drawn.text and MARKUP in drawn.text
    assert page.tags.count("article") == 22 and page.tags.count("img") > 11 and "audio" in page.tags
    assert Reader(notice_html(MARKUP, alert=True)).text.strip() == MARKUP
    with pytest.raises(AssertionError):
        Reader(MARKUP)


def test_what_an_item_lacks_is_shown_as_missing(world):
    _, explorer = world
    found = explorer.ask(Question(like="plain 5", k=12))
    answers = {answer.hit.id: answer for answer in found.lists["centroid"]}
    for name, lacks in (("plain 6", ("text", "audio")), ("plain 7", ())):
        assert answers[name].hit.missing == lacks
    html = answers_html(found)
    assert html.count('<tr class="missing">') == sum(len(answer.hit.missing) for answer in answers.values()) > 0
    assert '<th scope="row">audio</th><td colspan="2">missing</td>' in html


def test_the_map_is_the_principal_components_of_the_items(world):
    _, explorer = world
    index, drawn = explorer.index, explorer.map
    vectors = index.vectors(drawn.ids).vectors.double().sum(1)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    values, axes = np.linalg.eigh(np.cov(vectors.numpy().T, bias=True))
    literal = (vectors.numpy() - vectors.numpy().mean(0)) @ axes[:, [-1, -2]]
    np.testing.assert_allclose(abs(drawn.points.numpy()), abs(literal), atol=1e-5)
    np.testing.assert_allclose(drawn.shares, values[[-1, -2]] / values.sum(), atol=1e-6)
    np.testing.assert_allclose(drawn.place(vectors).numpy(), drawn.points.numpy(), atol=1e-5)
    found = explorer.ask(Question(like="plain 5", by=["image"]))
    (x, y), mark = drawn.place(index.vectors(["plain 5"]).column("image"))[0].tolist(), found.marks[0]
    assert (mark.label, mark.x, mark.y) == ("Q", pytest.approx(x, abs=1e-6), pytest.approx(y, abs=1e-6))
    assert drawn.groups("colour", 2).count("other") == 6 and set(drawn.groups("ok")) == {"true", "false"}
    assert drawn.groups(HAS)[1] == "text + image + audio + features" and drawn.groups("nothing") == ["none"] * 12
    one = FlatIndex.open(index.path)
    assert Map(one, 3).ids == Map(one, 3).ids != Map(one, 3, seed=1).ids


def test_a_sample_holds_live_items_alone(tmp_path):
    index = FlatIndex.create(tmp_path / "index", dim=2)
    for start in (0, 10, 20):
        index.add(Bundle.from_dict({"a": torch.randn(10, 2)}), [str(start + i) for i in range(10)])
    index.delete([str(i) for i in range(0, 30, 3)])
    assert sample(index, 100) == [str(i) for i in range(30) if i % 3]
    drawn = sample(index, 7, seed=3)
    assert len(set(drawn)) == 7 and drawn == sorted(drawn, key=int) and set(drawn) <= set(index.ids())


def test_the_export_has_the_columns_of_embedding_atlas(world, tmp_path, capsys):
    import pyarrow.parquet as pq

    folder, explorer = world
    index = explorer.index
    assert main(["explore", str(folder / "index"), "--export", str(tmp_path / "map.parquet")]) == 0
    assert "12 items of 12" in capsys.readouterr().out
    table = pq.read_table(tmp_path / "map.parquet")
    assert table.column_names[:5] == ["id", "projection_x", "projection_y", "neighbors", "modalities"]
    assert {"colour", "size", "ok", "text", "image", "made-xxx"} <= set(table.column_names)
    rows = table.to_pylist()
    vectors = places_of(index.vectors([row["id"] for row in rows])).double().numpy()
    distances = 1 - vectors @ vectors.T
    for i, row in enumerate(rows):
        near = row["neighbors"]
        assert len(near["ids"]) == 11 and i not in near["ids"]
        np.testing.assert_allclose(near["distances"], sorted(np.delete(distances[i], i)), atol=1e-5)
        np.testing.assert_allclose(near["distances"], distances[i, near["ids"]], atol=1e-5)
    assert export(index, tmp_path / "few.parquet", count=5, neighbours=2) == 5
    assert [len(row["neighbors"]["ids"]) for row in pq.read_table(tmp_path / "few.parquet").to_pylist()] == [2] * 5


def test_bad_input_is_one_line(world, tmp_path, capsys, monkeypatch):
    folder = world[0]
    plain = FlatIndex.create(tmp_path / "plain", dim=2)
    newer = tmp_path / "newer"
    FlatIndex.create(newer, dim=2)
    state = json.loads((newer / "index.json").read_text())
    (newer / "index.json").write_text(json.dumps(state | {"version": 99}))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for words, message in [
            ([str(tmp_path)], "holds no index"),
            ([str(newer)], "newer gramian"),
            ([str(plain.path)], "the index is empty"),
            ([str(plain.path), "--export", str(tmp_path / "x.parquet")], "the index is empty"),
            ([str(folder / "index"), "--port", str(taken.getsockname()[1])], "cannot be used: address already in use"),
            ([str(folder / "index"), "--port", "0"], "`port` must be an integer"),
            ([str(folder / "index"), "--media-root", "nowhere"], "`media_root` must name existing folders"),
            ([str(folder / "index"), "--media", "nowhere.csv"], "nowhere.csv"),
            ([str(folder / "index"), "--export", str(tmp_path / "y.parquet"), "--items", "0"], "`items` must"),
            ([str(folder / "index"), "--export", str(tmp_path / "y.csv")], "`export` must end in .parquet"),
        ]:
            assert main(["explore", *words]) == 2, words
            err = capsys.readouterr().err
            assert message in err and err.count("\n") == 1, err
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["explore", str(folder / "index")]) == 2
    assert "pip install 'gramian[explore]'" in capsys.readouterr().err


@pytest.fixture
def loop():
    """An event loop of the test's own: Gradio would make one and leave it open."""
    own = asyncio.new_event_loop()
    asyncio.set_event_loop(own)
    yield own
    asyncio.set_event_loop(None)
    own.close()
    gc.collect()  # other sockets that it leaves open are found here, where warnings are ignored


@pytest.mark.filterwarnings("ignore")  # of Gradio's own
@pytest.mark.usefixtures("loop")
def test_what_is_typed_and_ticked_is_what_is_asked(world):
    folder, explorer = world
    page = form(explorer)
    search = next(each.fn for each in page.fns.values() if each.name == "searching")
    more = next(each.fn for each in page.fns.values() if each.name == "more")
    parts = {each.label: each for each in page.blocks.values() if getattr(each, "label", None)}
    empty = {each: getattr(each, "value", None) for each in parts.values()}
    shown = []
    for typed, question in [
        ({"text": "red"}, Question(cells={"text": "red"}, k=8)),
        (
            {"image": str(folder / "media" / "1.png"), "Weight: image": -1},
            Question(cells={"image": read(folder, "1.png")}, weights={"image": -1.0}, k=8),
        ),
        (
            {"More like an item": " plain 5 ", "Modalities of the item that ask": ["audio"], "Not like an item": "plain 7"},
            Question(like="plain 5", by=["audio"], unlike="plain 7", k=8),
        ),
        (
            {"text": "red", "colour": ["red", "blue"], "size, at least": 3, "ok": "true", "Conditions": "size<9; colour!=grey"},
            Question(
                cells={"text": "red"},
                filter=[{"colour": ["red", "blue"]}, {"size": {"gte": 3}}, {"ok": True}, "size<9", "colour!=grey"],
                k=8,
            ),
        ),
        (
            {"text": "red", "Not: text": "g", "Answers": 3, "Score": "cone", "Second score, side by side": "leading"},
            Question(cells={"text": "red"}, without={"text": "g"}, k=3, scores=("cone", "leading")),
        ),
        (
            {"text": "red", "Modalities of the items to search in": ["image"], "Colour the map by": HAS},
            Question(cells={"text": "red"}, modalities=["image"], colour=HAS, k=8),
        ),
    ]:
        found = explorer.ask(question)
        given = empty | {parts[label]: value for label, value in typed.items()}
        assert search(given) == [answers_html(found), map_html(explorer.map, found, found.colour)], typed
        shown.append(found)
    assert len({answers_html(found) for found in shown}) == len(shown)
    assert 'role="alert"' in search(empty)[0] and "nothing to search by" in search(empty)[0]
    (folder / "row.csv").write_text("smell\n1\n")
    told = search(empty | {parts["A table of your own: its first row asks"]: str(folder / "row.csv")})[0]
    assert "has none of the columns" in told or "row.csv" in told
    assert str(folder) not in told
    event = type("Event", (), {"id": "plain 5"})()
    answers = more(empty | {parts["text"]: "blue"}, event)
    assert answers[0] == answers_html(explorer.ask(Question(like="plain 5", k=8))) and answers[2:] == ["plain 5", *[None] * 4]


def told_of(address, path, kind="image"):
    """What the page's server says to a question that a program made up, with a file or an address in place of a dropped one."""
    config = json.load(urllib.request.urlopen(f"{address}config"))
    search = next(each for each in config["dependencies"] if len(each["inputs"]) > 5)
    inputs = [next(each for each in config["components"] if each["id"] == number) for number in search["inputs"]]
    data = [each["props"].get("value") for each in inputs]
    data[[each["type"] for each in inputs].index(kind)] = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": data, "fn_index": search["id"], "session_hash": "made-up"}).encode()
    request = urllib.request.Request(f"{address}gradio_api/queue/join", body, {"content-type": "application/json"})
    urllib.request.urlopen(request).close()
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash=made-up", timeout=30) as lines:
        return next(line.decode() for line in lines if b"process_completed" in line)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.filterwarnings("ignore")  # of Gradio's and its server's own
@pytest.mark.usefixtures("loop")
@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium")
def test_the_page_answers_in_a_browser_and_fetches_nothing_else(world, port, tmp_path):
    folder, explorer = world
    with opened(explorer, port) as address:
        for path, headers in (
            ("gradio_api/file=/etc/passwd", {}),
            (f"gradio_api/file={folder / 'secret'}", {}),
            ("", {"Host": "a.test"}),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(urllib.request.Request(address + path, headers=headers))
            assert refused.value.code in (400, 403, 404)
            refused.value.close()
        for path, kind in ((str(folder / "media" / "1.png"), "image"), (str(folder / "secret"), "file")):
            assert "was not uploaded" in told_of(address, path, kind)
        assert "cannot name an address to fetch" in told_of(address, "https://93.184.216.34/x.png")
        page = browser.Browser(tmp_path / "profile")
        try:
            page.call("Page.navigate", url=address)
            page.wait(
                "!!document.querySelector('#answers .notice') && !!document.querySelector('[placeholder=\"type a text\"]')"
            )
            page.run("document.querySelector('[placeholder=\"type a text\"]').focus()")
            page.call("Input.insertText", text="red")
            page.press("Enter")
            first = page.wait("document.querySelector('#answers h3 .id')?.textContent")
            asked = explorer.ask(Question(cells={"text": "red"}, k=8))
            assert first == asked.lists["centroid"][0].hit.id
            assert page.run("document.querySelectorAll('#answers article').length") == 8
            assert page.run("document.querySelectorAll('#map g.answer').length") == 8
            assert page.run("document.querySelector('#answers h2').closest('[aria-live]').ariaLive") == "polite"
            page.run("document.querySelector('#answers button.more').focus()")
            page.press("Enter")
            like = explorer.ask(Question(like=first, k=8)).lists["centroid"][0].hit.id
            page.wait(f"document.querySelector('#answers h3 .id')?.textContent === {json.dumps(like)}")
            assert page.run("document.querySelector('[aria-label=\"More like an item\"]').value") == first
            assert page.run("document.querySelector('[placeholder=\"type a text\"]').value") == ""
            assert MARKUP in page.run("document.querySelector('#answers').textContent")
            assert page.run("String(window.hit)") == "undefined"
            assert page.run(
                "[...document.querySelectorAll('#answers img')].every(one => one.src.startsWith('data:image/webp'))"
            )
            page.run("document.querySelector('[aria-label=\"More like an item\"]').focus(), document.execCommand('selectAll')")
            page.call("Input.insertText", text="nobody")
            page.press("Tab")
            page.run("[...document.querySelectorAll('button')].find(one => one.textContent.trim() === 'Search').click()")
            assert "it has no 'nobody'" in page.wait("document.querySelector('#answers [role=alert]')?.textContent")
            assert page.log == []
            assert {url.split("/")[2] for url in page.asked if url.startswith("http")} == {address.split("/")[2]}
            assert page.run("fetch('https://example.org/').then(() => 'fetched', () => 'refused')") == "refused"
            assert any("Content Security Policy" in line for line in page.log)
        finally:
            page.close()
