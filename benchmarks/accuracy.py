"""How far scores and losses in float32 and from bfloat16 vectors are from float64: the tables of docs/accuracy.md.

    python benchmarks/accuracy.py

Under a minute on two cores. The vectors are rounded first, so that only the arithmetic differs: float64 of the same numbers
is the truth. For bfloat16 the rounding of the vectors themselves, against the vectors before it, has a column of its own.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gramian.bundle import Bundle
from gramian.files import write_text
from gramian.losses import LOSSES, PMRL, Contrast, Gram, Loss, Pairwise
from gramian.scores import SCORES, Score
from gramian.sheets import Sheet

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"

D, N, QUERIES = 64, 200, 100


def units(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def tuples(kind: str) -> tuple[Tensor, Tensor]:
    """(QUERIES, d) queries and (N, 2, d) items in float64; the first items are the queries' matches."""
    d = 3 if kind == "m = d" else D
    centre, noise = units(N, 1, d, seed=1), units(N, 3, d, seed=2)
    spread = {"aligned, cosine ≈ 0.9": 0.35, "near-duplicate, 1e-3 apart": 1e-3, "near-duplicate, 1e-6 apart": 1e-6}.get(kind)
    vectors = noise if spread is None else normalize(centre + spread * noise, dim=-1)
    if kind == "identical":
        vectors = centre.expand(N, 3, d).clone()
    if kind == "antipodal":
        vectors = centre * torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)[:, None]
    if kind == "orthogonal":
        vectors = torch.linalg.qr(noise.mT).Q.mT.contiguous()
    return vectors[:QUERIES, 0], vectors[:, 1:]


KINDS = (
    "random",
    "aligned, cosine ≈ 0.9",
    "orthogonal",
    "m = d",
    "near-duplicate, 1e-3 apart",
    "near-duplicate, 1e-6 apart",
    "identical",
    "antipodal",
    "a vector missing",
)


def bundle(kind: str, vectors: Tensor) -> Bundle:
    present = torch.ones(vectors.shape[:2], dtype=torch.bool)
    if kind == "a vector missing":
        present[::2, 1] = False
    return Bundle(vectors.masked_fill(~present[..., None], 0), present, tuple("abc"[: vectors.shape[1]]))


def score_errors(score: Score, kind: str) -> tuple[float, float, float]:
    """Largest error of float32, of arithmetic on bfloat16 vectors, and of rounding the vectors to bfloat16."""
    a, items = tuples(kind)
    exact = score(a, bundle(kind, items))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        rounded = a.to(dtype), items.to(dtype)
        # A plain query is scaled to unit length again; a Bundle's are taken as they are.
        truth = score(rounded[0].double(), bundle(kind, rounded[1].double()))
        found.append(float((score(rounded[0], bundle(kind, rounded[1])).double() - truth).abs().max()))
        last = float((truth - exact).abs().max())
    return found[0], found[1], last


def loss_errors(make: Callable[[], Loss], kind: str) -> tuple[float, float]:
    """Relative error of the value and of the gradient in float32."""
    a, items = tuples(kind)
    together = torch.cat([a[:, None], items[:QUERIES]], 1)
    names = ("text", "image", "audio")
    present = bundle(kind, together).present if kind == "a vector missing" else torch.ones(QUERIES, 3, dtype=torch.bool)
    values, gradients = [], []
    for dtype in (torch.float64, torch.float32):
        vectors = together.float().to(dtype).requires_grad_()  # the same numbers for both
        loss = make().eval()
        total = loss(Bundle(vectors.masked_fill(~present[..., None], 0), present, names)).total
        total.backward()
        values.append(float(total.detach()))
        gradients.append(vectors.grad.double())
    gap = (gradients[1] - gradients[0]).norm() / gradients[0].norm().clamp(min=1e-3)
    return abs(values[1] - values[0]) / max(1.0, abs(values[0])), float(gap)


LOSS_FORMS: dict[str, Callable[[], Loss]] = dict(LOSSES) | {
    "Gram, cone, each": lambda: Gram(score="cone", anchor="each"),
    "PMRL, signed": lambda: PMRL(signed=True, alignment_temperature=0.5),
    "Pairwise, sigmoid": lambda: Pairwise(objective="sigmoid"),
    "Contrast, leading": lambda: Contrast("leading"),
}


def score_sheet(column: int, title: str, note: str) -> Sheet:
    rows = []
    for name, score in SCORES.items():
        errors = [score_errors(score, kind)[column] for kind in KINDS]
        rows.append((f"`{name}`", *(f"{error:.0e}" for error in errors)))
    return Sheet(title, ("score", *KINDS), tuple(rows), note)


def loss_sheet() -> Sheet:
    rows = []
    for name, make in LOSS_FORMS.items():
        errors = [loss_errors(make, kind) for kind in KINDS]
        rows.append((f"`{name}`", *(f"{value:.0e}, {gradient:.0e}" for value, gradient in errors)))
    note = (
        "Relative error of the value, and of the whole gradient (‖Δ‖/‖gradient‖, the norm at least 10⁻³); 100 items with "
        "text, image and audio, default options, evaluation mode."
    )
    return Sheet("Losses in float32", ("loss", *KINDS), tuple(rows), note)


def main() -> None:
    torch.manual_seed(0)
    shared = f"Largest error over {QUERIES} queries × {N} items of two vectors, d = {D} (m = d: 3)."
    sheets = [
        score_sheet(0, "Scores in float32", shared),
        score_sheet(
            1, "Scores of bfloat16 vectors, worked on in float32", f"{shared} Against float64 of the same bfloat16 numbers."
        ),
        score_sheet(
            2, "What rounding the vectors to bfloat16 costs", f"{shared} Both sides in float64: before and after rounding."
        ),
        loss_sheet(),
    ]
    page = (
        "# Accuracy\n\nWritten by `python benchmarks/accuracy.py`; the truth is float64. Internals run in float32 or better "
        "whatever the vectors' type, outside of autocast. √(1 − ‖Pa‖²) is good to √ε where the query lies in the item's span: "
        "3·10⁻⁴ in float32; that is why nothing here is worked on in 16 bits.\n\n"
        "Entries near 1 are no rounding errors: they mark points where the function itself jumps or has a kink, and two "
        "precisions fall on different sides. `leading` jumps where the two largest singular values are equal, as for two "
        "orthogonal vectors; `span` where a vector all but depends on the others, and with its sign; the gradient of the cone "
        "where a vector is orthogonal to the query; that of PMRL at repeated singular values; that of a volume at duplicates, "
        "where the direction between them is noise. Values and gradients stay finite at all of them.\n\n"
    )
    write_text(PAGE, page + "\n".join(sheet.markdown() for sheet in sheets))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
