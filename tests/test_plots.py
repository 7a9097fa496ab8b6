"""Pictures: nothing that is written lies on anything else, whatever the names; colours and markers tell curves apart."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gramian import Bundle, evaluate
from gramian.benchmark.demo import _draw
from gramian.errors import InputError

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure
from matplotlib.text import Text

from gramian.benchmark.curves import LOOKS
from gramian.evaluation import illustrations
from gramian.evaluation.illustrations import Illustrations
from gramian.evaluation.plots import cost_curves, panels, size_curves
from gramian.evaluation.stats import Interval
from gramian.evaluation.stored import Confusion


def overlaps(figure):
    """Pairs of texts and legends that cover each other by more than a pixel; of rotated labels only with others."""
    figure.draw_without_rendering()
    legends = list(figure.legends)
    inside = {text for legend in legends for text in legend.findobj(Text)}
    texts = [each for each in figure.findobj(Text) if each.get_visible() and each.get_text() and each not in inside]
    boxes = [(each, each.get_window_extent()) for each in [*texts, *legends]]
    pairs = []
    for (first, a), (second, b) in combinations(boxes, 2):
        rotated = isinstance(first, Text) and isinstance(second, Text) and first.get_rotation() == second.get_rotation() == 45
        if not rotated and min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1:
            pairs.append(tuple(each.get_text() if isinstance(each, Text) else "legend" for each in (first, second)))
    return pairs


def test_overlaps_are_found():
    figure = Figure()
    figure.text(0.5, 0.5, "one")
    figure.text(0.51, 0.5, "two")
    figure.text(0.1, 0.9, "three")
    assert overlaps(figure) == [("one", "two")]


@pytest.mark.parametrize(("count", "methods"), [(2, 1), (3, 6), (8, 2)])
def test_the_pictures_of_the_demo(count, methods, tmp_path, monkeypatch, generator):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (drawn.append(figure), path.write_bytes(b"x")))
    names = [f"modality number {i}" for i in range(count)]
    columns = {name: torch.randn(6, 4, generator=generator) for name in names}
    bundle = Bundle.from_dict({name: torch.nn.functional.normalize(column, dim=1) for name, column in columns.items()})
    run = SimpleNamespace(report=evaluate(bundle, subsets="none"), embedded=bundle)
    _draw({f"Method {i}, with a long name": [run] for i in range(methods)}, tmp_path)
    for figure in drawn:
        assert overlaps(figure) == []
    clouds = drawn[1].axes[0].collections
    assert len({tuple(cloud.get_facecolor()[0]) for cloud in clouds}) == count


def test_curves_have_one_colour_and_marker_per_form():
    times = {"published": 30.0, "plain": 4.0, "kept": 1.2, "blocked": 1.5, "library": 1.1, "products": 1.0}
    rows = [
        {"task": task, "work": work, "m": m, "n": n, "form": form, "seconds": 1e-6 * n**2 * time}
        for task, work, forms in (("gram", "forward+backward", list(times)[:4]), ("scoring", "forward", list(times)[4:]))
        for m in (2, 3, 4)
        for n in (256, 1024, 2048, 100_000)
        for form, time in times.items()
        if form in forms or form == "products"
    ]
    figure = cost_curves(rows)
    assert overlaps(figure) == []
    looks = {}
    for ax in figure.axes:
        for line in ax.get_lines():
            looks.setdefault(line.get_label(), set()).add((line.get_color(), line.get_marker()))
    assert list(map(len, looks.values())) == [1] * len(times)
    assert len(set.union(*looks.values())) == len(times)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "published",
        "plain",
        "kept",
        "blocked",
        "products",
        "library",
    ]
    with pytest.raises(InputError, match="`rows` must hold at least one measurement; got none"):
        cost_curves([])


def test_panels_stand_four_to_a_row():
    figure, axes = panels(6, 2.0, 1.0)
    assert len(axes) == len(figure.axes) == 6
    assert figure.get_size_inches().tolist() == [8.0, 2.0]


@pytest.mark.parametrize("ends", [[5.0] * 10, [90.0 - i / 10 for i in range(10)], list(range(0, 100, 10))])
def test_curves_by_size_have_their_names_beside_them(ends):
    sizes = (25, 50, 100, 200, 441, 800, 1000)
    lines = {
        name: {n: Interval(end * n / 1e5, end * n / 2e5, end * n / 5e4) for n in sizes}
        for name, end in zip(LOOKS, ends, strict=True)
    }
    figure = size_curves({"digits": lines, "stamps": dict(list(lines.items())[:2])}, LOOKS)
    assert overlaps(figure) == []
    drawn = figure.axes[0].get_lines()
    curves = [line for line in drawn if line.get_marker() != "None"]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in curves}) == 10
    names = [text for text in figure.axes[0].texts if text.get_text() in LOOKS]
    assert {text.get_text(): text.get_color() for text in names} == {name: look.colour for name, look in LOOKS.items()}
    with pytest.raises(InputError, match="`curves` must hold at least one data set"):
        size_curves({}, LOOKS)


@pytest.fixture
def figures(monkeypatch):
    """The figures that a page's pictures are made of."""
    drawn = []
    plain = illustrations.svg_of
    monkeypatch.setattr(illustrations, "svg_of", lambda figure, *rest: (drawn.append(figure), plain(figure, *rest))[1])
    return drawn


@pytest.mark.parametrize("count", [2, 10, 60])
def test_a_confusion_matrix_is_legible(count, figures):
    classes = tuple(f"class {i}" if i % 3 else f"a class with a very long name, {i}" for i in range(count))
    counts = np.random.default_rng(0).integers(0, 3, (count, count)) + 40 * np.eye(count, dtype=int)
    (picture,) = Illustrations().confusion(Confusion("linear probe, image", classes, counts, Interval(0.9, 0.8, 0.95)))
    (figure,) = figures
    assert overlaps(figure) == []
    (ax,) = figure.axes
    shown = {text.get_text() for text in ax.texts}
    assert f"{100 * counts[0, 0] / counts[0].sum():.0f}" in shown or count > 24
    assert min(text.get_fontsize() for text in (*ax.texts, *ax.get_yticklabels())) >= 3
    sizes = {text.get_fontsize() for text in ax.get_yticklabels()}
    assert min(sizes) >= 6 and "confusion" not in picture.title and "linear probe, image" in picture.title
    assert Illustrations().confusion(Confusion("x", ("a",) * 61, np.ones((61, 61), int), Interval(0, 0, 0))) == []


def test_rows_of_a_confusion_matrix_are_the_true_classes(figures):
    counts = np.array([[3, 1], [0, 4]])
    Illustrations().confusion(Confusion("x", ("cat", "dog"), counts, Interval(0, 0, 0)))
    texts = {
        (round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in figures[0].axes[0].texts
    }
    assert texts == {(0, 0): "75", (0, 1): "25", (1, 1): "100"}
    assert figures[0].axes[0].get_ylabel() == "true"


@pytest.mark.parametrize("count", [1, 8])
def test_curves_of_robustness_keep_their_legend_beside_them(count, figures):
    drops = [i / 10 for i in range(10)]
    curves = {
        f"a run with a long name, {i}": {p: Interval(0.8 - 0.05 * i - 0.3 * p, 0.3 - 0.3 * p, 1 - 0.3 * p) for p in drops}
        for i in range(count)
    }
    picture = Illustrations().robustness(curves, "R@1 as modalities are dropped")
    (figure,) = figures
    (ax,) = figure.axes
    assert overlaps(figure) == [] and "by the same masks" in picture.caption
    figure.draw_without_rendering()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1  # beside the curves, not on them
    lines = ax.get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == count
    assert lines[0].get_ydata() == pytest.approx([80 - 30 * p for p in drops])
    assert figure.get_tightbbox().x1 <= figure.get_size_inches()[0]
