"""Where does training overtake the closed form? R@1 from thousands to a million items of families calibrated on real tables."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path

from rich.console import Console

from gramian.benchmark.calibrated import calibrate
from gramian.benchmark.curves import Curves, draw_curves, overtaking
from gramian.benchmark.families import SEARCH, best_settings, data_sets, ensembles, families, with_recipe
from gramian.benchmark.learning_curve import curve_sheet
from gramian.benchmark.plan import Plan, study_of
from gramian.benchmark.study import Method, Task
from gramian.canonical.features import Kernel

__all__ = ["scale"]

PICTURE = "scale.png"
STEPS = 3000
"""Steps of every run with a loss, at most; fewer items than fill them in 40 epochs take 40 epochs."""

BENDS = (0.0, 0.5)
COMPONENTS = 64
TRIED = ("τ 0.1, rate 0.001", "τ 0.1, rate 0.01")
"""The settings of each loss among which validation chooses; the closed form has a grid of the same order."""

LEFT_OUT = ("GRAM, published", "PMRL, published", "InfoNCE from MAXVAR, kernel heads")


@study_of(
    Plan("scale", seeds=1, sets=("digits",), sizes=(1000, 10_000, 100_000, 1_000_000)),
    "scale",
    takes=("sets", "sizes"),
    needs=("matplotlib",),
)
def scale(plan: Plan, console: Console | None) -> list[Path]:
    """Train every method on ever more items of a family calibrated on each data set; on a GPU where there is one."""
    names = plan.names(name for name in [*families(), *ensembles()] if name not in LEFT_OUT)
    search = replace(SEARCH, kernels=(Kernel(power=2), Kernel("rbf", power=1)), dims=(128, 256))
    texts: list[str] = []
    drawn: dict[str, Curves] = {}
    for name, table in data_sets(plan.sets):
        tried = {
            each: tuple(
                replace(one, search=replace(search, heads=one.search.heads)) if one.search is not None else one
                for one in several
                if one.loss is None or one.name.endswith(TRIED)
            )
            for each, several in (families(table.modalities[0]) | ensembles()).items()
        }
        flat = [method for each in names for method in tried[each]]
        for bend in BENDS:
            family = calibrate(table, COMPONENTS, bend=bend)
            world = f"like {name}, {'bent' if bend else 'straight'}"
            curves = {}
            for size in plan.sizes:
                task = Task(f"{world} {size}", partial(family.draw, size), dim=256)
                timed = [_for(method, size, plan.epochs) for method in flat]
                runs = plan.results([task], timed, console, cpu=False)[task.name]
                curves[task.name] = best_settings(runs, names, tried)
            drawn[world] = dict(zip(plan.sizes, curves.values(), strict=True))
            shown = curve_sheet(world, plan.sizes, curves, f"{len(TRIED)} rates of each loss, a grid of the closed form")
            sentence = overtaking(world, drawn[world])
            texts += [shown.markdown(), *([sentence + "\n"] if sentence else [])]
    pictures = draw_curves(drawn, plan.beside(PICTURE))
    tables = {"scale": "\n".join([f"![R@1 by the number of training items]({PICTURE})\n", *texts])}
    return [*plan.write("Scale", tables), *pictures]


def _for(method: Method, items: int, epochs: int | None) -> Method:
    """The method with batches and epochs for a number of items."""
    batch = min(1024, max(128, items // 50))
    most = max(1, min(40, ceil(STEPS * batch / items)))
    return with_recipe(method, batch_size=batch, epochs=epochs or most, evaluate_every=max(1, most // 10))
