"""`SCORES`: every score by name, with the facts to choose one by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf, sqrt
from typing import TYPE_CHECKING, Literal, TypeAlias

from torch import Tensor

from gramian.factorisations import full_precision
from gramian.kernels import Form
from gramian.papers import CENTROBIND, COLBERT, GRAM, HYPERGRAM, PMRL, SCALAR, SYMILE, TRIANGLE, Paper
from gramian.scores.angles import (
    centroid,
    centroid_form,
    cosine,
    cosine_form,
    leading,
    leading_form,
    multilinear,
    multilinear_form,
    weighted_centroid,
    weighted_centroid_form,
)
from gramian.scores.cones import cone, cone_form
from gramian.scores.late import maxsim, maxsim_form, token_sides
from gramian.scores.sides import Items, Side, sides
from gramian.scores.spectra import spectral, spectral_form
from gramian.scores.volumes import (
    hyperbolic_form,
    negative_hyperbolic_volume,
    negative_triangle_area,
    negative_volume,
    span,
    span_form,
    triangle_form,
    volume_form,
)
from gramian.sheets import Sheet

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["SCORES", "Score", "ScoreName", "score_table"]

ScoreName: TypeAlias = Literal[
    "span",
    "cone",
    "centroid",
    "weighted_centroid",
    "cosine",
    "max_cosine",
    "softmax_cosine",
    "leading",
    "spectral",
    "spectral_gain",
    "volume",
    "triangle",
    "multilinear",
    "hyperbolic_volume",
    "maxsim",
]


@dataclass(frozen=True)
class Score:
    """One score, with the facts to choose it by. An instance is callable like its `function`.

    Attributes:
        function: queries × items → (q, n).
        form: the same score as a form of two sides, for losses and rankings that never hold all pairs.
        formula: for the table.
        low: the lowest value.
        high: the highest value.
        best: when the highest value is reached.
        sign_aware: whether −z scores differently from z.
        pair: its value for one vector against one, with c their cosine.
        arity: how items with different numbers of modalities compare.
        own_factor: whether it has a factor of the item's own that does not depend on the query.
        symmetric: whether the two sides may be exchanged.
        trains: whether it serves as an objective.
        papers: its sources; none for this library's own scores.
        read: makes the two sides from queries and items.
        most: how many vectors query and item may have together.
    """

    function: Callable[[Items, Items], Tensor]
    form: Callable[[Side, Side], Form]
    formula: str
    low: float
    high: float
    best: str
    sign_aware: bool
    pair: str
    arity: str
    own_factor: bool
    trains: str
    papers: tuple[Paper, ...] = ()
    symmetric: bool = True
    read: Callable[[Items, Items], tuple[Side, Side]] = sides
    most: float = inf

    def __call__(self, queries: Items, items: Items) -> Float[Tensor, "q n"]:
        """Scores (q, n) of queries × items."""
        return self.function(queries, items)

    @full_precision
    def of(self, queries: Items, items: Items) -> Form:
        """The score of queries × items as a form."""
        return self.form(*self.read(queries, items))


FAIR = "comparable: a mean, whatever the number"
GROWS = "rises with every further vector: favours complete items"

SCORES: dict[ScoreName, Score] = {
    "span": Score(
        function=span,
        form=span_form,
        formula="± ‖P_M a‖",
        low=-1,
        high=1,
        best="query in the item's span, on its sum's side",
        sign_aware=True,
        pair="c",
        arity=GROWS,
        own_factor=False,
        trains="no: the sign jumps",
    ),
    "cone": Score(
        function=cone,
        form=cone_form,
        formula="max over w ≥ 0 of cos(a, Σwz)",
        low=-1,
        high=1,
        best="query is a non-negative combination",
        sign_aware=True,
        pair="c",
        arity=GROWS,
        own_factor=False,
        trains="with each modality as the anchor in turn",
    ),
    "centroid": Score(
        function=centroid,
        form=centroid_form,
        formula="cos(Σa, Σz)",
        low=-1,
        high=1,
        best="the two sums point one way",
        sign_aware=True,
        pair="c",
        arity=FAIR,
        own_factor=False,
        trains="yes",
        papers=(CENTROBIND,),
    ),
    "weighted_centroid": Score(
        function=weighted_centroid,
        form=weighted_centroid_form,
        formula="cos(a, Σ wz), w ∝ exp(⟨a, z⟩/0.1)",
        low=-1,
        high=1,
        best="the weighted sum points along the query",
        sign_aware=True,
        pair="c",
        arity="nearly comparable: a vector that does not fit hardly counts",
        own_factor=False,
        trains="with each modality as the anchor in turn",
        papers=(SCALAR,),
        symmetric=False,
    ),
    "cosine": Score(
        function=cosine,
        form=cosine_form,
        formula="mean of ⟨a, z⟩",
        low=-1,
        high=1,
        best="all vectors coincide",
        sign_aware=True,
        pair="c",
        arity=FAIR,
        own_factor=False,
        trains="yes",
    ),
    "max_cosine": Score(
        function=partial(cosine, reduce="max"),
        form=partial(cosine_form, reduce="max"),
        formula="max of ⟨a, z⟩",
        low=-1,
        high=1,
        best="one vector coincides with the query",
        sign_aware=True,
        pair="c",
        arity=GROWS,
        own_factor=False,
        trains="with each modality as the anchor in turn",
    ),
    "softmax_cosine": Score(
        function=partial(cosine, reduce="softmax"),
        form=partial(cosine_form, reduce="softmax"),
        formula="Σ w⟨a, z⟩, w ∝ exp(⟨a, z⟩/0.1)",
        low=-1,
        high=1,
        best="all vectors coincide",
        sign_aware=True,
        pair="c",
        arity="nearly comparable: between the mean and the maximum",
        own_factor=False,
        trains="yes",
    ),
    "leading": Score(
        function=leading,
        form=leading_form,
        formula="⟨u(Q), u(M)⟩",
        low=-1,
        high=1,
        best="the leading directions coincide",
        sign_aware=True,
        pair="c",
        arity="comparable: one direction, whatever the number",
        own_factor=False,
        trains="yes, while the leading direction is unique",
        papers=(PMRL,),
    ),
    "spectral": Score(
        function=spectral,
        form=spectral_form,
        formula="σ₁(Q ∪ M)/√k",
        low=0,
        high=1,
        best="all vectors on one line",
        sign_aware=False,
        pair="√((1 + |c|)/2)",
        arity="incomparable: unrelated vectors score 1/√k, which favours incomplete items",
        own_factor=True,
        trains="no: sign-blind",
        papers=(PMRL,),
    ),
    "spectral_gain": Score(
        function=partial(spectral, normalized=True),
        form=partial(spectral_form, normalized=True),
        formula="(λ₁(Q ∪ M) − max λ₁)/min λ₁",
        low=0,
        high=1,
        best="the leading directions coincide up to sign",
        sign_aware=False,
        pair="|c|",
        arity="comparable: divided by the smaller side's own",
        own_factor=False,
        trains="no: sign-blind",
    ),
    "volume": Score(
        function=negative_volume,
        form=volume_form,
        formula="−√det G(Q ∪ M)",
        low=-1,
        high=0,
        best="linearly dependent tuple",
        sign_aware=False,
        pair="−√(1 − c²)",
        arity="a missing vector is a factor 1: favours complete items",
        own_factor=True,
        trains="no: sign-blind",
        papers=(GRAM,),
    ),
    "triangle": Score(
        function=negative_triangle_area,
        form=triangle_form,
        formula="−½√(‖u‖²‖v‖² − (u·v)²)",
        low=-0.75 * sqrt(3),
        high=0,
        best="two of three vectors coincide",
        sign_aware=True,
        pair="−½√((1 − c)(3 + c))",
        arity="a missing third vector counts as orthogonal: favours complete items; at most three",
        own_factor=True,
        trains="partly: satisfied by two of three",
        papers=(TRIANGLE,),
        most=3,
    ),
    "multilinear": Score(
        function=multilinear,
        form=multilinear_form,
        formula="Σ_d Π a_d z_d",
        low=-1,
        high=1,
        best="one coordinate holds all of every vector",
        sign_aware=True,
        pair="c",
        arity="incomparable: shrinks with every further vector, which favours incomplete items",
        own_factor=False,
        trains="with Symile's negatives",
        papers=(SYMILE,),
    ),
    "hyperbolic_volume": Score(
        function=negative_hyperbolic_volume,
        form=hyperbolic_form,
        formula="−½V − ½√|det G_L|",
        low=-inf,
        high=0,
        best="two vectors coincide",
        sign_aware=True,
        pair="falls as c does, down to c ≈ −0.8",
        arity="incomparable: a missing vector takes its factor along, which favours incomplete items",
        own_factor=True,
        trains="partly: satisfied by two vectors",
        papers=(HYPERGRAM,),
    ),
    "maxsim": Score(
        function=maxsim,
        form=maxsim_form,
        read=token_sides,
        formula="mean over tokens a of max ⟨a, z⟩",
        low=-1,
        high=1,
        best="every token of the query is among the item's",
        sign_aware=True,
        pair="c",
        arity=GROWS,
        own_factor=False,
        trains="yes",
        papers=(COLBERT,),
        symmetric=False,
    ),
}
"""The scores by name, including options that have names of their own."""


def score_table() -> Sheet:
    """The table of docs/scores.md: one row per score, from `SCORES`."""
    header = (
        "score",
        "formula",
        "range",
        "best when",
        "sign",
        "one against one",
        "different numbers of modalities",
        "own factor",
        "to train",
        "source",
    )
    rows = tuple(
        (
            f"`{name}`",
            score.formula,
            f"[{_number(score.low)}, {_number(score.high)}]",
            score.best,
            "aware" if score.sign_aware else "blind",
            score.pair,
            score.arity,
            "yes" if score.own_factor else "no",
            score.trains,
            "; ".join(map(str, score.papers)) or "–",
        )
        for name, score in SCORES.items()
    )
    note = (
        "a, z: vectors of the query and of the item; P_M: projector on the item's span; u: leading direction; G, λ, σ, V: Gram "
        "matrix of the joint tuple of k vectors, its eigenvalues and their roots, its volume; c: cosine of one vector against "
        "one. An absent modality changes no score; an item with nothing present scores −∞."
    )
    return Sheet("Scores", header, rows, note)


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−").replace("inf", "∞")
