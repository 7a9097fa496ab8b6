"""Draw the figures of docs/concepts.md into docs/figures/, all from the library's own functions: python docs/figures.py."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gramian import PMRL, Bundle, load
from gramian.canonical import Analysis, Moments
from gramian.evaluation import saturation
from gramian.geometry import singular_values, volume
from gramian.scores import SCORES

FOLDER = Path(__file__).parent / "figures"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")


def save(figure: Figure, name: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "gramian", "svg.fonttype": "path"}):
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None, "Creator": None}, facecolor="white")


def equal_cosines(m: int, cosine: float) -> Tensor:
    """M unit vectors with one cosine between any two: the Cholesky factor of their Gram matrix."""
    return torch.linalg.cholesky((1 - cosine) * torch.eye(m, dtype=torch.float64) + cosine)


def tuples() -> None:
    """Three tuples of three vectors, with volume and singular values."""
    lone = torch.tensor([[1.0, 0.999, 0.3], [0.999, 1.0, 0.3], [0.3, 0.3, 1.0]], dtype=torch.float64)
    grams = {"aligned": 0.1 * torch.eye(3) + 0.9, "two of three aligned": lone, "orthogonal": torch.eye(3)}
    figure = Figure(figsize=(9, 3.6))
    for place, (title, gram) in enumerate(grams.items(), 1):
        values, basis = torch.linalg.eigh(gram.double())
        vectors = basis * values.sqrt() @ basis.mT
        ax = figure.add_subplot(1, 3, place, projection="3d")
        corners = {bits: (torch.tensor(bits, dtype=torch.float64) @ vectors).numpy() for bits in product((0, 1), repeat=3)}
        for one, other in combinations(corners, 2):
            if sum(a != b for a, b in zip(one, other, strict=True)) == 1:
                ax.plot(*zip(corners[one], corners[other], strict=True), color="0.75", linewidth=0.8)
        for vector, colour, name in zip(vectors.numpy(), COLOURS, ("text", "image", "audio"), strict=False):
            ax.quiver(0, 0, 0, *vector, color=colour, linewidth=2.2, arrow_length_ratio=0.12, label=name)
        sigma = ", ".join(f"{value:.2f}" for value in singular_values(vectors))
        ax.set_title(f"{title}\nvolume {float(volume(vectors)):.2f}\nσ = ({sigma})", fontsize=10)
        ax.set(xlim=(0, 1.8), ylim=(0, 1.8), zlim=(0, 1.8))
        ax.set_box_aspect((1, 1, 1), zoom=1.5)
        ax.set_axis_off()
        ax.view_init(elev=20, azim=25)
    figure.axes[2].legend(loc="lower right", fontsize=9, frameon=False)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.82, wspace=0)
    save(figure, "tuples")


def pair() -> None:
    """What a volume and a singular value make of one cosine."""
    cosines = torch.linspace(-1, 1, 201, dtype=torch.float64)
    vectors = torch.stack([torch.stack([torch.ones_like(cosines), torch.zeros_like(cosines)], -1)] * 2, 1)
    vectors[:, 1] = torch.stack([cosines, (1 - cosines**2).sqrt()], -1)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(cosines, cosines, color=COLOURS[0], label="cosine")
    left.plot(cosines, -volume(vectors), color=COLOURS[1], label="−volume (GRAM)")
    left.plot(cosines, singular_values(vectors)[:, 0] / 2**0.5, color=COLOURS[2], label="σ₁/√2 (PMRL)")
    left.set(xlabel="cosine of the two vectors", title="two modalities: only the cosine has a sign")
    left.legend(frameon=False, fontsize=9, loc="center", bbox_to_anchor=(0.68, 0.42))
    between = torch.linspace(0.02, 0.98, 49)
    for colour, (label, loss) in zip(
        COLOURS, {"τ₁ = 0.05, published": PMRL(), "τ₁ = 0.5": PMRL(alignment_temperature=0.5)}.items(), strict=False
    ):
        pulls = []
        for cosine in between:
            rows = equal_cosines(4, float(cosine)).float()
            bundle = Bundle.from_dict({name: rows[i].repeat(2, 1) for i, name in enumerate("abcd")})
            pulls.append(saturation(loss, bundle)["alignment"])
        right.semilogy(between, pulls, color=colour, label=label)
    right.set(xlabel="cosine between any two vectors", ylim=(1e-4, 100), title="pull of PMRL's alignment term")
    right.legend(frameon=False, fontsize=9)
    save(figure, "pair")


def queries() -> None:
    """Scores of a query that turns past an item of two vectors, in their plane and out of it."""
    angles = torch.linspace(-180, 180, 361, dtype=torch.float64)
    apart = torch.deg2rad(torch.tensor(35.0))
    item = Bundle.from_dict(
        {
            "image": torch.stack([apart.cos(), apart.sin(), torch.tensor(0.0)])[None].double(),
            "audio": torch.stack([apart.cos(), -apart.sin(), torch.tensor(0.0)])[None].double(),
        }
    )
    turn = torch.deg2rad(angles)
    inside = torch.stack([turn.cos(), turn.sin(), torch.zeros_like(turn)], -1)
    outside = torch.stack([turn.cos(), torch.zeros_like(turn), turn.sin()], -1)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    titles = ("turning in the item's plane", "turning out of it, from the item's middle")
    for ax, query, title in zip(axes, (inside, outside), titles, strict=True):
        for name, colour in zip(("centroid", "max_cosine", "cone", "span", "volume"), COLOURS, strict=False):
            ax.plot(angles, SCORES[name](query, item)[:, 0], color=colour, label=name, linewidth=1.5)
        ax.set(xlabel="angle of the query, in degrees", title=title, xticks=range(-180, 181, 60))
    for angle in (-35, 35):
        axes[0].axvline(angle, color="0.6", linestyle=":", linewidth=1)
    axes[1].legend(frameon=False, fontsize=9)
    save(figure, "queries")


def canonical() -> None:
    """Canonical correlations of stamps: on the items that were solved for, and on others, by the ridge."""
    table = load("stamps", columns=["image", "text", "speech_fr"])
    train, other = table.part("train"), table.part("validation")
    analysis = Analysis(Moments.of(train))
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for ax, ridge in zip(axes, (0.001, 0.3, 10.0), strict=True):
        solution = analysis.solve(128, ridge=ridge)
        for part, colour, label in ((train, COLOURS[0], "441 items solved for"), (other, COLOURS[1], "81 others")):
            rows = part[part.mask().all(1)]
            heads = [solution.head(name, power=0) for name in table.modalities]
            views = [
                rows.features(name).double() @ head.weight + head.bias
                for name, head in zip(table.modalities, heads, strict=True)
            ]
            pairs = [_correlation(one, two) for one, two in combinations(views, 2)]
            ax.plot(torch.arange(1, 129), torch.stack(pairs).mean(0), color=colour, label=label, linewidth=1.2)
        ax.set(xlabel="component", title=f"ridge {ridge:g}")
    axes[0].set_ylabel("mean correlation of two modalities")
    axes[0].legend(frameon=False, fontsize=9)
    save(figure, "canonical")


def _correlation(one: Tensor, two: Tensor) -> Tensor:
    one, two = one - one.mean(0), two - two.mean(0)
    return (one * two).sum(0) / (one.norm(dim=0) * two.norm(dim=0))


if __name__ == "__main__":
    for draw in (tuples, pair, queries, canonical):
        draw()
