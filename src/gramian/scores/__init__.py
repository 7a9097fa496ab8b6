"""Queries × items → (q, n), higher is better: how well two sides agree, each an item with some of its modalities.

Each side is a Bundle of any modalities, or an (n, d) tensor with one vector per item. Missing vectors are never read; an item
with nothing present scores −∞. Plain vectors are scaled to unit length here. Scores are computed in float32 or better, outside
autocast; values and gradients are finite at identical, orthogonal, antipodal and missing vectors.

`SCORES` names them all and states the range of each, and how it treats signs and items with different numbers of modalities;
docs/scores.md is that table.
"""

from __future__ import annotations

from gramian.scores.angles import centroid, cosine, leading, multilinear, weighted_centroid
from gramian.scores.catalogue import SCORES, Score, ScoreName, score_table
from gramian.scores.cones import cone
from gramian.scores.hubs import corrected, hub_scores
from gramian.scores.late import maxsim
from gramian.scores.sides import Items
from gramian.scores.spectra import spectral
from gramian.scores.volumes import negative_hyperbolic_volume, negative_triangle_area, negative_volume, span

__all__ = [
    "SCORES",
    "Items",
    "Score",
    "ScoreName",
    "centroid",
    "cone",
    "corrected",
    "cosine",
    "hub_scores",
    "leading",
    "maxsim",
    "multilinear",
    "negative_hyperbolic_volume",
    "negative_triangle_area",
    "negative_volume",
    "score_table",
    "span",
    "spectral",
    "weighted_centroid",
]
