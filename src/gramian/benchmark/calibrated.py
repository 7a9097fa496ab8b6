"""Tables of any length that resemble a real one: its means, spectra and shared variates, with heavy-tailed noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from gramian.canonical import Moments, solve
from gramian.data import Table
from gramian.errors import InputError, check_number
from gramian.factorisations import safe_sqrt

__all__ = ["Calibrated", "calibrate"]

BLOCK = 8192
"""Items drawn with one seed, so that a longer table begins with the shorter one."""

HELD_OUT = 1000
"""Validation and test items of a drawn table, of each."""


@dataclass(frozen=True)
class Calibrated:
    """Where items are drawn from.

    Each modality has whitened coordinates w. Of its k shared variates, ``w_i = l_i z_i + √(1 − l_i²) e_i``, with z_i common to
    all modalities; its other coordinates are noise e. The noise of an item in a modality is multiplied by one draw of the scale
    of Student's t. A bend replaces w by ``(w + γ h(w))/√(1 + γ²)``, h an even function that no linear map undoes, and the
    features are ``μ + S^½ w``.

    Attributes:
        means: modality → μ (width,).
        roots: modality → S^½ (width, width), of the covariance S.
        frames: modality → the directions of its shared variates in whitened coordinates, (width, k), orthonormal.
        loadings: modality → l (k,), in [0, 1).
        tail: degrees of freedom of the noise; None for normal noise.
        bend: γ; 0 for a world in which linear heads suffice.
    """

    means: dict[str, Tensor]
    roots: dict[str, Tensor]
    frames: dict[str, Tensor]
    loadings: dict[str, Tensor]
    tail: float | None = 4.0
    bend: float = 0.0

    def draw(self, items: int, seed: int = 0) -> Table:
        """A table of `items` to train, and as many validation and test items for every length.

        Args:
            items: to train; a longer table begins with the items of a shorter one.
            seed: of the items.

        Returns:
            The table, in float32.

        Raises:
            InputError: no items.
        """
        check_number("items", items, "[1, inf)", integer=True)
        held_out = 2 * HELD_OUT
        blocks = [self._block(held_out, seed, 0)]
        blocks += [
            self._block(min(BLOCK, items - start), seed, 1 + number) for number, start in enumerate(range(0, items, BLOCK))
        ]
        columns = {name: torch.cat([block[name] for block in blocks]) for name in self.means}
        split = ["validation"] * HELD_OUT + ["test"] * HELD_OUT + ["train"] * items
        return Table.from_columns(columns, split=split)

    def _block(self, rows: int, seed: int, number: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed((seed << 32) + number)
        bends = torch.Generator().manual_seed(0)  # one world for all blocks
        k = len(next(iter(self.loadings.values())))
        z = torch.randn(BLOCK, k, generator=generator)[:rows]
        found = {}
        scales = np.random.default_rng((seed, number))
        for name, root in self.roots.items():
            width = len(root)
            noise = torch.randn(BLOCK, width, generator=generator)[:rows]
            if self.tail is not None:  # Student's t with the variance of the normal
                chi = torch.from_numpy(scales.chisquare(self.tail, BLOCK)).float()
                noise *= ((self.tail - 2) / chi).sqrt()[:rows, None]
            frame, loading = self.frames[name].float(), self.loadings[name].float()
            own = noise @ frame
            shared = z * loading + own * (1 - loading.square()).sqrt()
            w = noise + (shared - own) @ frame.mT
            if self.bend:
                into, out = (torch.linalg.qr(torch.randn(width, width, generator=bends)).Q for _ in range(2))
                w = (w + self.bend * _even(w @ into) @ out) / (1 + self.bend**2) ** 0.5
            found[name] = self.means[name].float() + w @ root.float()
        return found


def calibrate(
    table: Table, components: int = 64, *, ridge: float = 1.0, tail: float | None = 4.0, bend: float = 0.0
) -> Calibrated:
    """The family of tables that resemble this one.

    Shared directions come from linear MAXVAR on the training items; how far the modalities agree on each is measured on the
    other items, as on the training items they agree by construction.

    Args:
        table: with the splits "train", "validation" and "test"; complete items are used.
        components: number of shared variates, at most what the modalities have.
        ridge: of MAXVAR.
        tail: degrees of freedom of the noise, above 2; None for normal noise.
        bend: how much of each feature is bent.

    Returns:
        The family.

    Raises:
        InputError: a table without splits or with too few complete items, or a number outside its range.
    """
    check_number("components", components, "[1, inf)", integer=True)
    check_number("tail", tail, "(2, inf)", optional=True)
    check_number("bend", bend, "[0, inf)")
    complete = table[table.mask().all(1)]
    if complete.split is None or min(complete.split.count(name) for name in ("train", "test")) < 8:
        raise InputError("`table` must have at least 8 complete items in each of the splits train and test to calibrate on.")
    train, rest = complete.part("train"), complete[torch.tensor([name != "train" for name in complete.split])]
    solution = solve(Moments.of(train), components, ridge=ridge)
    every = Moments.of(complete)
    means, roots, frames, variates = {}, {}, {}, {}
    for name in table.modalities:
        spectrum, basis = torch.linalg.eigh(every.covariance(name, name))
        means[name] = every.mean(name)
        roots[name] = basis * safe_sqrt(spectrum.clamp(min=0)) @ basis.mT
        left, _, right = torch.linalg.svd(roots[name] @ solution.directions[name], full_matrices=False)
        frames[name] = left @ right
        whitened = basis * spectrum.clamp(min=1e-6 * float(spectrum[-1])).rsqrt() @ basis.mT
        variates[name] = (rest.features(name).double() - means[name]) @ whitened @ frames[name]
    names = list(table.modalities)
    correlations = torch.eye(len(names), dtype=torch.float64).repeat(components, 1, 1)
    for (i, first), (j, second) in combinations(enumerate(names), 2):
        a, b = (variates[name] - variates[name].mean(0) for name in (first, second))
        correlations[:, i, j] = correlations[:, j, i] = (a * b).sum(0) / safe_sqrt((a * a).sum(0) * (b * b).sum(0))
    loadings = _loadings(correlations)
    return Calibrated(means, roots, frames, {name: loadings[:, i] for i, name in enumerate(names)}, tail, bend)


def _loadings(correlations: Tensor) -> Tensor:
    """(k, m) loadings l of one factor each, with ``l lᵀ`` nearest to the correlations (k, m, m) off the diagonal."""
    R = correlations.clone()
    found = R.new_zeros(R.shape[:2])
    for _ in range(100):  # principal-axis factoring
        values, vectors = torch.linalg.eigh(R)
        leading = vectors[..., -1]
        sign = torch.where(leading.sum(-1, keepdim=True) < 0, -1.0, 1.0)
        found = (leading * sign * values[:, -1:].clamp(min=0).sqrt()).clamp(0, 0.995)
        R.diagonal(dim1=-2, dim2=-1).copy_(found.square())
    return found


def _even(w: Tensor) -> Tensor:
    """|w|, with mean 0 and variance 1 for standard normal w, of which it is uncorrelated."""
    mean = math.sqrt(2 / math.pi)
    return (w.abs() - mean) / math.sqrt(1 - mean**2)
