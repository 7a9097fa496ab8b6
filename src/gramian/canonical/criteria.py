"""Canonical analysis of m sets of variates: linear maps of each, solved from their `Moments`, whose outputs agree.

C_cc' is the covariance of the modalities c and c', and ρ_c a ridge. With W_c = (C_cc + ρ_c I)^(−½), the whitened covariance K
has the blocks K_cc' = W_c C_cc' W_c'. The maps are A_c = W_c V_c; the criteria of Kettenring (1971) choose V:

- MAXVAR: the leading eigenvectors of K, all modalities side by side: C a = λ · blockdiag(C_cc + ρ_c I) a. What PMRL's largest
  singular value descends to.
- SUMCOR: the largest Σ_{c≠c'} tr(V_cᵀ K_cc' V_c'), each V_c with orthonormal columns: the sum of all pairwise correlations,
  which all-pairs InfoNCE pulls on.
- GENVAR: the smallest Σ_i log det Φ_i, Φ_i the m × m correlations of component i, each V_c orthonormal: GRAM's squared volume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from gramian.canonical.moments import Moments
from gramian.errors import InputError, check_choice
from gramian.papers import GENVAR, MAXVAR, SUMCOR, Paper

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["PAPERS", "Affine", "Analysis", "Criterion", "Solution", "solve"]

Criterion: TypeAlias = Literal["maxvar", "sumcor", "genvar"]

PAPERS: dict[Criterion, tuple[Paper, ...]] = {"maxvar": (MAXVAR,), "sumcor": (SUMCOR, MAXVAR), "genvar": (GENVAR,)}
"""The sources of each criterion."""

RANK = 1e-12  # eigenvalues below this share of the largest are zero
CONSTANT = 1e-13  # of the squared mean: no more than the rounding of float32
DENSE = 4096  # of larger matrices, the leading eigenvectors alone are computed where they are few
ROUNDS, GAIN = 200, 1e-9  # of the fixed-point iterations: at most, and the relative gain at which they end
SINGULAR = 1e-6  # the smallest eigenvalue of the correlations whose determinant GENVAR takes


class Affine(NamedTuple):
    """x ↦ x · weight + bias.

    Attributes:
        weight: (width, dim).
        bias: (dim,).
    """

    weight: Float[Tensor, "width dim"]
    bias: Float[Tensor, " dim"]


@dataclass(frozen=True)
class Solution:
    """The maps that `solve` found, in float64.

    Attributes:
        values: (dim,) how far all modalities agree on each component, largest first: λ/m of MAXVAR; of the other criteria the
            mean of the m × m shrunk correlations. 1 where they agree entirely, 1/m where one has it alone.
        directions: modality → A_c (width, dim).
        means: modality → μ_c (width,).
        objective: what SUMCOR and GENVAR maximised, after each round; MAXVAR needs none.
    """

    values: Float[Tensor, " dim"]
    directions: dict[str, Tensor]
    means: dict[str, Tensor]
    objective: tuple[float, ...] = ()

    def head(self, name: str, *, power: float = 1.0, dim: int | None = None) -> Affine:
        """The map of a modality, x ↦ diag(values^power) A_cᵀ(x − μ_c); its output is to be scaled to unit length.

        Args:
            name: of the modality.
            power: how much more the components count on which the modalities agree.
            dim: keep this many leading components; all by default.

        Returns:
            The map.

        Raises:
            InputError: no such modality.
        """
        A = self.directions[check_choice("name", name, self.directions)][:, :dim]
        weight = A * self.values[:dim] ** power
        return Affine(weight, -self.means[name] @ weight)


class Analysis:
    """The decompositions of `Moments` that every ridge and criterion shares.

    Args:
        moments: of the training rows. Columns that no row has are left out.

    Attributes:
        names: the modalities.

    Raises:
        InputError: fewer than two modalities, one that is the same in every row, or one that shares no two rows with another.
    """

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.names: tuple[str, ...] = tuple(name for name in moments.names if moments.count(name))
        if len(self.names) < 2:
            raise InputError(f"`moments` must be of at least two columns with rows; got {moments!r}.")
        self.bases: dict[str, Tensor] = {}
        self.spectra: dict[str, Tensor] = {}
        for name in self.names:
            others = [other for other in self.names if other != name]
            if max(moments.count(name, other) for other in others) < 2:
                raise InputError(f"column `{name}` shares fewer than two rows with every other. Leave it out, or add rows.")
            spectrum, basis = torch.linalg.eigh(moments.covariance(name, name))
            kept = spectrum > max(RANK * float(spectrum[-1]), torch.finfo(torch.float64).tiny)
            scale = float(moments.mean(name).square().max())
            if float(spectrum[-1]) <= CONSTANT * scale or not kept.any():
                raise InputError(f"column `{name}` is the same in every row. Leave it out.")
            self.bases[name], self.spectra[name] = basis[:, kept].flip(1), spectrum[kept].flip(0)

    @cached_property
    def _covariance(self) -> Tensor:
        """C in the modalities' own eigenbases, side by side; zero for pairs that share fewer than two rows."""
        rows = []
        for name in self.names:
            blocks = [
                torch.diag(self.spectra[name])
                if other == name
                else self.bases[name].mT
                @ self.moments.covariance(name, other)
                @ self.bases[other]
                * float(self.moments.count(name, other) >= 2)
                for other in self.names
            ]
            rows.append(torch.cat(blocks, 1))
        whole = torch.cat(rows)
        return (whole + whole.mT) / 2

    @cached_property
    def _root(self) -> Tensor | None:
        """F with F Fᵀ = C, where C has far fewer dimensions than the modalities together, as it has of few complete rows."""
        C, rank = self._covariance, self.moments.rows
        if rank > 0.7 * len(C):
            return None
        start = torch.randn(len(C), rank, generator=torch.Generator().manual_seed(0), dtype=C.dtype).to(C)
        span = torch.linalg.qr(C @ start).Q  # all of C's range, if its rank is at most that of complete rows
        spectrum, basis = torch.linalg.eigh(span.mT @ C @ span)
        left = C - span @ (span.mT @ C)
        if float(spectrum[0]) < -1e-10 * float(spectrum[-1]) or float(left.norm()) > 1e-10 * float(C.norm()):
            return None  # incomplete rows: C has a higher rank, or is indefinite
        kept = spectrum > RANK * spectrum[-1]
        root: Tensor = span @ basis[:, kept] * spectrum[kept].sqrt()
        return root

    def solve(
        self, dim: int | None = None, *, ridge: float | Mapping[str, float] = 1.0, criterion: Criterion = "maxvar"
    ) -> Solution:
        """See `solve`.

        Raises:
            InputError: see `solve`.
        """
        check_choice("criterion", criterion, get_args(Criterion))
        scales = []
        for name, spectrum in self.spectra.items():
            share = ridge if isinstance(ridge, int | float) else ridge.get(name, -1.0)
            if not 0 <= share < float("inf"):
                each = ", ".join(self.names)
                raise InputError(f"`ridge` must be a finite number of at least 0, or one for each of {each}; got {ridge}.")
            width = self.moments.widths[name]
            if share == 0 and len(spectrum) < width:
                raise InputError(
                    f"`ridge` must be positive: column `{name}` has width {width}, its rows span {len(spectrum)} dimensions."
                )
            scales.append((spectrum + share * spectrum.mean()).rsqrt())
        scale = torch.cat(scales)
        sizes = [len(spectrum) for spectrum in self.spectra.values()]
        most = sum(sizes) if criterion == "maxvar" else min(sizes)
        if dim is not None and not 1 <= dim <= most:
            raise InputError(f"`dim` must lie in [1, {most}], the rank of what it is solved from; got {dim}.")
        objective: tuple[float, ...] = ()
        if criterion == "maxvar":
            values, vectors = self._leading(scale, dim)
        else:
            K = scale[:, None] * self._covariance * scale
            values, vectors, objective = _iterated(K, sizes, dim or most, criterion)
        parts = torch.split(vectors * scale[:, None], sizes)
        directions = {name: self.bases[name] @ part for name, part in zip(self.names, parts, strict=True)}
        means = {name: self.moments.mean(name) for name in self.names}
        return Solution(values, directions, means, objective)

    def _leading(self, scale: Tensor, dim: int | None) -> tuple[Tensor, Tensor]:
        """λ/m and the leading eigenvectors of K."""
        if self._root is None:
            values, vectors = _eigenpairs(scale[:, None] * self._covariance * scale, dim)
        else:  # K = B Bᵀ has the eigenvalues of BᵀB, which is smaller
            B = scale[:, None] * self._root
            values, inner = _eigenpairs(B.mT @ B, None)
            vectors = B @ inner / values.clamp(min=torch.finfo(torch.float64).tiny).sqrt()
        rank = int((values > RANK * values[0]).sum())
        if dim is not None and dim > rank:
            raise InputError(f"`dim` must be at most {rank}, the rank of the modalities' rows together; got {dim}.")
        return values[: dim or rank] / len(self.names), vectors[:, : dim or rank]


def solve(
    moments: Moments, dim: int | None = None, *, ridge: float | Mapping[str, float] = 1.0, criterion: Criterion = "maxvar"
) -> Solution:
    """Linear maps of each modality into one space, in closed form or by a monotone fixed-point iteration.

    Missing cells: every C_cc' is that of the rows that have both modalities.

    Args:
        moments: of the training rows.
        dim: number of components; by default as many as there are.
        ridge: of each modality, in units of the mean non-zero eigenvalue of its covariance.
        criterion: "maxvar", "sumcor" or "genvar"; the latter two start from MAXVAR and take no more components than the
            smallest modality has.

    Returns:
        The `Solution`.

    Raises:
        InputError: more components than the data have; a negative ridge, or none with a singular covariance; fewer than two
            modalities, one that is the same in every row, or one that shares no two rows with another.

    Sources: Kettenring, "Canonical analysis of several sets of variables", Biometrika 1971; Horst, "Relations among m sets of
    measures", Psychometrika 1961 (SUMCOR); Carroll, "Generalization of canonical correlation analysis to three or more sets of
    variables", 1968 (MAXVAR).

    >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> solve(Moments.of({"a": x, "b": 2 * x}), 1, ridge=0).values.round(decimals=6)
    tensor([1.], dtype=torch.float64)
    """
    return Analysis(moments).solve(dim, ridge=ridge, criterion=criterion)


def _eigenpairs(K: Tensor, dim: int | None) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first, and eigenvectors; of a large matrix only `dim` where they are few."""
    if dim is not None and len(K) > DENSE and 8 * dim < len(K):
        start = torch.randn(len(K), dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(K)
        values, vectors = torch.lobpcg(K, X=start, largest=True, tol=1e-10, niter=500)
        if float((K @ vectors - vectors * values).norm(dim=0).max()) < 1e-6 * float(values[0]):
            return values, vectors
    values, vectors = torch.linalg.eigh(K)
    return values.flip(0), vectors.flip(1)


def _iterated(K: Tensor, sizes: list[int], dim: int, criterion: Criterion) -> tuple[Tensor, Tensor, tuple[float, ...]]:
    """SUMCOR or GENVAR from MAXVAR's solution: agreement of each component, V stacked, and the objective after each round.

    Both objectives are convex in each V_c, and so lie above their tangent: the orthonormal V_c that is best for the tangent,
    the polar factor of the gradient, is no worse for the objective (ten Berge 1988 for SUMCOR).
    """
    m = len(sizes)
    V = [_polar(part) for part in torch.split(_eigenpairs(K, None)[1][:, :dim], sizes)]
    R = [list(torch.split(row, sizes, 1)) for row in torch.split(K, sizes)]
    if criterion == "genvar":
        R = _definite(R)
    trace = [_objective(R, V, criterion)]
    for _ in range(ROUNDS):
        for c in range(m):
            V[c] = _polar(_gradient(R, V, c, criterion))
        trace.append(_objective(R, V, criterion))
        if trace[-1] - trace[-2] <= GAIN * max(1.0, abs(trace[-1])):
            break
    if criterion == "sumcor":  # the same for all turns of the components: take the one that ranks them
        total = torch.cat(V).mT @ K @ torch.cat(V)
        turn = torch.linalg.eigh(total).eigenvectors.flip(1)
        V = [part @ turn for part in V]
    else:  # the same for either sign of a component in a modality: take the ones that agree
        side = torch.linalg.eigh(_correlations(R, V)).eigenvectors[:, :, -1]
        side = torch.where(side * side.sum(1, keepdim=True).sign() < 0, -1.0, 1.0).to(K)
        V = [part * side[:, c] for c, part in enumerate(V)]
    stacked = torch.cat(V)
    values = ((K @ stacked) * stacked).sum(0).clamp(min=0) / m**2
    order = values.argsort(descending=True)
    return values[order], stacked[:, order], tuple(trace)


def _polar(matrix: Tensor) -> Tensor:
    """The matrix with orthonormal columns that is nearest."""
    U, _, Vt = torch.linalg.svd(matrix, full_matrices=False)
    nearest: Tensor = U @ Vt
    return nearest


def _correlations(R: list[list[Tensor]], V: list[Tensor]) -> Tensor:
    """Φ (dim, m, m): the correlations of each component between the modalities, ones on the diagonal."""
    m, dim = len(V), V[0].shape[1]
    Phi = torch.eye(m, dtype=V[0].dtype, device=V[0].device).repeat(dim, 1, 1)
    for c in range(m):
        for other in range(c):
            Phi[:, c, other] = Phi[:, other, c] = (V[c] * (R[c][other] @ V[other])).sum(0)
    return Phi


def _objective(R: list[list[Tensor]], V: list[Tensor], criterion: Criterion) -> float:
    """What is maximised: the sum of all correlations between modalities, or −Σ log det."""
    Phi = _correlations(R, V)
    if criterion == "sumcor":
        return float(Phi.sum() - Phi.diagonal(dim1=1, dim2=2).sum())
    return -float(torch.linalg.slogdet(Phi).logabsdet.sum())


def _gradient(R: list[list[Tensor]], V: list[Tensor], c: int, criterion: Criterion) -> Tensor:
    """The direction in which the objective rises with V_c."""
    others = [other for other in range(len(V)) if other != c]
    seen = torch.stack([R[c][other] @ V[other] for other in others])  # (m − 1, r, dim)
    if criterion == "sumcor":
        return seen.sum(0)
    # log det Φ = log det Φ₋ + log(1 − φᵀ Φ₋⁻¹ φ), φ the correlations with the others, Φ₋ those of the others
    phi = (V[c] * seen).sum(1).mT  # (dim, m − 1)
    rest = _correlations(R, V)[:, others][:, :, others]
    weight = torch.linalg.solve(rest, phi)
    left = 1 - (phi * weight).sum(1)
    gradient: Tensor = torch.einsum("ord,do->rd", seen, weight) / left
    return gradient


def _definite(R: list[list[Tensor]]) -> list[list[Tensor]]:
    """The correlations between modalities, shrunk until those of all together are positive definite."""
    sizes = [len(row[c]) for c, row in enumerate(R)]
    whole = torch.cat([torch.cat(row, 1) for row in R])
    for part, size in zip(torch.tensor([0, *sizes]).cumsum(0)[:-1].tolist(), sizes, strict=True):
        whole[part : part + size, part : part + size] = torch.eye(size).to(whole)
    least = float(torch.linalg.eigvalsh(whole)[0])
    factor = min(1.0, (1 - SINGULAR) / (1 - least)) if least < SINGULAR else 1.0
    return [[block * factor for block in row] for row in R]
