"""The page that `gramian report` writes: what it keeps, what it shows, and that nothing of the user's is HTML."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import browser
from gramian import Bundle, evaluate
from gramian.cli import main
from gramian.data import Table
from gramian.data.cells import Broken, Cells
from gramian.evaluation import compare
from gramian.evaluation.classification import nearest
from gramian.evaluation.previews import Previews
from gramian.evaluation.run_page import run_page

for name in ("jinja2", "matplotlib", "sklearn", "scipy", "pyarrow"):
    pytest.importorskip(name)


def _circle(degrees):
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_the_hardest_come_last_and_the_best_lead_by_most():
    """Four items on a circle: c and d find each other; b leads the next item by most."""
    bundle = Bundle.from_dict({"text": _circle([0.0, 90, 200, 290]), "image": _circle([20.0, 90, 320, 200])})
    report = evaluate(bundle, ids=list("abcd"))
    shown = {(one.query, one.kind): [] for one in report.examples}
    for one in report.examples:
        shown[one.query, one.kind].append(one)
    hardest = shown["text", "hardest"]
    assert [(one.id, one.rank, one.found[0]) for one in hardest] == [("c", 3.0, "d"), ("d", 2.0, "c")]
    assert [(one.id, one.rank, one.found[0]) for one in shown["text", "best"]] == [("b", 1.0, "b"), ("a", 1.0, "a")]
    assert all(one.right == tuple(name == one.id for name in one.found) for one in report.examples)
    assert all(one.gallery == 4 and len(one.found) == 3 for one in report.examples)


def test_a_report_keeps_the_vectors_of_some_items(monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("gramian.evaluation.evaluate"), "SAMPLE", 3)
    bundle = Bundle.from_dict({"text": torch.eye(5), "image": torch.eye(5)}, present={"image": [True, False, True, True, True]})
    space = evaluate(bundle, ids=list("abcde")).space
    assert len(space) == 3 and set(space.ids) < set("abcde")
    rows = ["abcde".index(name) for name in space.ids]
    assert torch.equal(space.features("text").float(), torch.eye(5)[rows])
    assert space.present["image"].tolist() == [row != 1 for row in rows]


MARKUP = "<img src=x onerror=alert(1)>\"'&</script>$\\frac{"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two evaluations of twelve items whose ids, modalities, settings and reasons hold markup; and one of training."""
    folder = tmp_path_factory.mktemp("runs")
    generator = torch.Generator().manual_seed(0)
    names = (f"text {MARKUP}", "image\x1b[31m", "a" * 60)
    ids = [f"{MARKUP} {row}" for row in range(12)]
    for run, noise in (("good", 0.3), (f"poor {MARKUP[:4]}", 3.0)):
        base = torch.randn(12, 16, generator=generator)
        columns = {name: base + noise * torch.randn(12, 16, generator=generator) for name in names}
        bundle = Bundle.from_dict(columns, present={names[2]: [True] * 10 + [False] * 2})
        broken = [Broken(ids[11], names[2], f"no file {MARKUP}")]
        settings = {"data": MARKUP, "split": MARKUP}
        report = evaluate(bundle, ids=ids, broken=broken, settings=settings, diagnose=True, scores=("span",), missing=True)
        labels = [f"{MARKUP} {row % 3}" for row in range(12)]
        told = nearest(bundle, labels, bundle, labels, modalities=[names[0]], k=1)
        replace(report, start=report.space, label=f"kind {MARKUP}", classified=(told,)).save(folder / run)
    epochs = [{"epoch": i, "loss": 2 / i, "validation/mrr": 0.1 * i, f"validation/recall@1/{MARKUP}": 0.5} for i in (1, 2, 3)]
    lines = "".join(json.dumps(record) + "\n" for record in epochs)
    (folder / "good" / "metrics.jsonl").write_text(lines + "no JSON\n[1]\n")
    return folder, ids, names


class Reader(HTMLParser):
    """What a browser would make of a page: elements, attributes, texts, and whether everything is closed in order."""

    EMPTY = frozenset({"meta", "img", "link", "br", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts, self.ids = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        assert len({name for name, _ in attrs}) == len(attrs)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


KNOWN = {
    *("html", "head", "meta", "title", "style", "body", "a", "header", "p", "button", "h1", "h2", "h3", "h4", "h5", "main"),
    *("section", "dl", "div", "dt", "dd", "b", "span", "nav", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"),
    *("figure", "figcaption", "details", "summary", "article", "img", "audio", "video", "pre", "code", "footer", "script"),
    *("svg", "g", "defs", "path", "use", "clippath", "rect", "text", "tspan", "image", "line"),
}


def check(html):
    """The page is whole, refers to nothing outside, runs its own script alone, and holds no element or handler of a name."""
    page = Reader(html)
    assert {tag for tag, _ in page.elements} <= KNOWN
    assert len(page.ids) == len(set(page.ids))
    links = {f"#{name}" for name in page.ids}
    for tag, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on") or name == "style"}, (tag, attributes)
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            target = attributes.get(name)
            assert target is None or target in links or target.startswith(("data:image/", "data:audio/", "data:video/"))
        for value in attributes.values():
            assert all(f"#{name}" in links for name in re.findall(r"url\(#([^)]*)\)", value or ""))
    titles = re.findall(r'<h3 id="[^"]*">(.*?)</h3>', html, re.S)
    assert len(titles) == len(set(titles))  # regions are told apart by these
    scripts = [tag for tag, _ in page.elements if tag in ("script", "style")]
    assert scripts == ["style", "script"]
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy
    for tag in ("style", "script"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    return page


def test_nothing_of_the_users_is_html(runs):
    folder, ids, names = runs
    poor = next(path for path in folder.iterdir() if path.name.startswith("poor"))
    media = Table.from_columns(
        {names[0]: Cells([f"said {MARKUP}" for _ in ids]), names[1]: Cells(["../../x.png"] * 12)}, ids=ids
    )
    page = run_page({"good": folder / "good", poor.name: poor}, previews=Previews(media), command=f"gramian report {MARKUP}")
    read = check(page.html())
    text = "".join(read.texts)
    for shown in (
        MARKUP,
        f"said {MARKUP}",
        f"no file {MARKUP}",
        ids[3],
        "image\\x1b[31m",
        f"gramian report {MARKUP}",
        poor.name,
    ):
        assert shown in text
    titles = [element for element in read.elements if element[0] == "title"]
    assert len(titles) > 12 * 3  # of the page and of the points
    assert "not shown: " in text and "good beats" in text
    labels = {
        attributes["aria-label"].partition(".")[0] for tag, attributes in read.elements if tag == "svg" and "role" in attributes
    }
    assert {"R@1 as modalities are dropped, by score", "R@1 by span as modalities are dropped, by run"} <= labels
    assert any(label.startswith("What is taken for what, in %: nearest neighbours, text ") for label in labels)
    assert f"kind {MARKUP}" in text and f"{MARKUP} 2" in text


def test_a_broken_picture_of_the_template_would_be_seen():
    """The checks above find what they look for."""
    with pytest.raises(AssertionError):
        check("<p onclick='x'></p>")
    with pytest.raises(AssertionError):
        check("<object></object>")
    with pytest.raises(AssertionError):
        check("<img src='https://example.org/x.png'>")
    with pytest.raises(AssertionError):
        Reader("<p><b></p>")


def test_the_page_says_data_winner_margin_and_certainty(runs):
    folder, _, _ = runs
    poor = next(path for path in folder.iterdir() if path.name.startswith("poor"))
    page = run_page({"good": folder / "good", "poor": poor})
    comparison = compare({"good": folder / "good", "poor": poor})
    margin, values = comparison.pairs[0].difference, [100 * value.value for value in comparison.recall.values()]
    assert page.verdict[0] == (
        f"On 12 items of {MARKUP} (split {MARKUP}), good beats poor by {100 * margin.value:.1f} points of R@1 (95 % interval "
        f"{100 * margin.low:.1f} to {100 * margin.high:.1f}; p < 0.001): {values[0]:.1f} % against {values[1]:.1f} %."
    )
    assert [tile.name for tile in page.tiles] == ["Winner", "Margin", "Certainty", "Gallery"]
    assert page.tiles[0].value == "good" and page.tiles[1].value == f"{100 * comparison.pairs[0].difference.value:+.1f} points"
    assert MARKUP in page.subtitle and "12 items" in page.subtitle
    undecided = run_page({"a": folder / "good", "b": folder / "good"})
    assert (
        "the winner is not decided: a is 0.0 points of R@1 ahead of b" in undecided.verdict[0]
        and "p = 1" in undecided.verdict[0]
    )
    alone = run_page({"good": folder / "good"})
    assert (
        alone.verdict[0].startswith("On 12 items of") and "guessing would find 8.9 %" in alone.verdict[0]
    )  # galleries: four of 12, two of 10
    assert [section.title for section in alone.sections] == [
        "Retrieval",
        "Classification",
        "Missing modalities",
        "Hardest and best queries",
        "The space",
        "Training",
        "Data",
        "How it was made",
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.pop("sheets"), "damaged or of another version"),
        (lambda data: data.update(rows="many"), "damaged or of another version"),
        (lambda data: data.update(mean_recall={"1": {"value": "x"}}), "damaged or of another version"),
        (lambda data: data["sheets"][0]["rows"].append(["alone"]), "rows do not have the columns"),
        (lambda data: data.update(examples=[{"query": 3}]), "damaged or of another version"),
        (lambda data: data["classified"][0]["confusion"].pop(), "not one of 3 classes"),
        (lambda data: data["robustness"]["curves"][0]["drops"].pop(), "damaged or of another version"),
    ],
)
def test_a_damaged_report_is_one_line(runs, tmp_path, change, reason, capsys):
    data = json.loads((runs[0] / "good" / "report.json").read_text())
    change(data)
    (tmp_path / "report.json").write_text(json.dumps(data))
    assert main(["report", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and reason in lines[0]


def test_bad_input_of_report_is_one_line(runs, tmp_path, capsys):
    good = str(runs[0] / "good")
    (tmp_path / "features.csv").write_text('id,text\n1,"[0.5, 1.0]"\n')
    for words, reason in (
        (["report", str(tmp_path)], "`run` must be a folder that holds report.json"),
        (["report", good, "--compare", good], "`compare` must name other folders"),
        (["report", good, "--media-mb", "1000"], "`media_mb` must"),
        (["report", good, "--media", str(tmp_path / "nowhere.csv")], "nowhere.csv"),
        (["report", good, "--media", str(tmp_path / "features.csv"), "--columns", "image"], "image"),
        (["report"], "run"),
    ):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and reason in err, err


def test_previews_are_small_and_of_every_kind(tmp_path):
    av, soundfile = pytest.importorskip("av"), pytest.importorskip("soundfile")
    from PIL import Image

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (300, 600, 3), np.uint8)).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", rng.normal(size=16_000 * 6) * 0.1, 16_000)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 12 * value, np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    (tmp_path / "broken.png").write_bytes(b"no image")
    cells = {
        "text": ["x" * 500, "short"],
        "image": ["a.png", "broken.png"],
        "sound": ["a.wav", None],
        "film": ["a.mp4", None],
        "bytes": [(tmp_path / "a.png").read_bytes(), None],
    }
    table = Table.from_columns({name: Cells(column, tmp_path) for name, column in cells.items()}, ids=["one", "two"])
    previews = Previews(table)
    assert previews.kinds == {"text": "text", "image": "image", "sound": "audio", "film": "video", "bytes": "image"}
    made = {name: previews.of(name, "one") for name in cells}
    assert len(made["text"].text) == 280 and made["text"].text.endswith("…")
    starts = {"image": "data:image/webp;", "sound": "data:audio/ogg;", "film": "data:video/mp4;", "bytes": "data:image/webp;"}
    for name, start in starts.items():
        assert made[name].uri.startswith(start) and len(made[name].uri) < 60_000
    content = base64.b64decode(made["image"].uri.partition(",")[2])
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (128, 64)
    sound, rate = soundfile.read(io.BytesIO(base64.b64decode(made["sound"].uri.partition(",")[2])))
    assert len(sound) / rate == pytest.approx(4.0, abs=0.1)
    assert previews.of("image", "two").kind == "none" and previews.of("sound", "two") is previews.of("text", "three") is None
    assert previews.octets == sum(len(made[name].uri) for name in starts)
    small = Previews(table, 0.0)
    assert small.of("image", "one") is None and small.left_out == 1 and small.of("text", "two").text == "short"


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium")
def test_a_browser_runs_the_pages_own_script_alone(runs, tmp_path):
    folder, _, _ = runs
    html = run_page({"good": folder / "good"}).html()
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    document, log = browser.opened(tmp_path / "page.html", profile=tmp_path / "profile")
    assert log == ""
    assert '<button type="button" id="theme">' in document  # shown by the script
    foreign = html.replace("</body>", "<script>document.title = 'run'</script><p style='color: red'>x</p></body>")
    (tmp_path / "foreign.html").write_text(foreign, encoding="utf-8")
    document, log = browser.opened(tmp_path / "foreign.html", profile=tmp_path / "profile")
    assert "<title>run" not in document and log.count("Content Security Policy") >= 2
    click = """
const clicked = Array.from(document.querySelectorAll("button.sort")).find(one => one.textContent.startsWith("R@5"));
const [body, column] = [clicked.closest("table").tBodies[0], clicked.closest("th").cellIndex];
const read = () => Array.from(body.rows, row => row.cells[column].textContent);
clicked.click(); const down = read(); clicked.click();
document.title = JSON.stringify([down, read(), clicked.closest("th").getAttribute("aria-sort")]);
document.getElementById("theme").click();
"""
    (tmp_path / "sorted.html").write_text(browser.with_script(html, click), encoding="utf-8")
    document, _ = browser.opened(tmp_path / "sorted.html", profile=tmp_path / "profile")
    down, up, state = json.loads(unescape(re.search(r"<title>(.*?)</title>", document)[1]))
    values = [float(value) for value in down]
    assert values == sorted(values, reverse=True) and [float(value) for value in up] == sorted(values) and state == "ascending"
    assert 'data-theme="' in document
