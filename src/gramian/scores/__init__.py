"""Queries × items → (q, n), higher is better: how well two sides agree, each an item with some of its modalities.

Both sides are a Bundle of any modalities, or an (n, d) tensor where there is one vector each. Missing vectors are never read;
what has nothing present scores −∞. Plain vectors are scaled to unit length here. Work is done in float32 or better, outside
of autocast; values and gradients are finite at identical, orthogonal, antipodal and missing vectors.

`SCORES` names them all and says of each what it ranges over, what it makes of signs and of items with different numbers of
modalities; docs/scores.md is that table.
"""

from __future__ import annotations

from gramian.scores.angles import centroid, cosine, leading, multilinear, weighted_centroid
from gramian.scores.catalogue import SCORES, Score, ScoreName, score_table
from gramian.scores.cones import cone
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
    "cosine",
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
