"""A view of a mesh as a picture of depth, by numpy alone: a Wavefront OBJ is read, placed, turned and drawn into a z-buffer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gramian.errors import InputError

__all__ = ["depth_image", "read_obj"]

AZIMUTH, ELEVATION = 30.0, 20.0
"""Degrees that the viewer stands to the right of the front, and above the floor."""

SPACING = 0.7
"""Pixels between the points that a triangle is drawn by, at most: below 1, so that no pixel is left out."""

AT_ONCE = 2**22
"""Points that are drawn at a time."""


def read_obj(content: bytes) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    r"""Vertices and triangles of a Wavefront OBJ; polygons are cut into fans. Materials and normals are passed over.

    Args:
        content: of the file.

    Returns:
        (p, 3) vertices, and (q, 3) their numbers in each triangle.

    Raises:
        InputError: no triangles, numbers that cannot be read, or a face of vertices that are not there.

    >>> read_obj(b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1/1 2/2 3/3 -1\n")[1]
    array([[0, 1, 2],
           [0, 2, 3]])
    """
    points: list[list[bytes]] = []
    triangles: list[tuple[int, int, int]] = []
    try:
        for line in content.splitlines():
            if line.startswith(b"v "):
                points.append(line.split()[1:4])
            elif line.startswith(b"f "):
                corners = [int(word.partition(b"/")[0]) for word in line.split()[1:]]
                corners = [corner - 1 if corner > 0 else len(points) + corner for corner in corners]
                triangles += [(corners[0], corners[i], corners[i + 1]) for i in range(1, len(corners) - 1)]
        vertices, faces = np.array(points, dtype=np.float64), np.array(triangles, dtype=np.int64)
    except ValueError as error:
        raise InputError(f"a mesh cannot be read: {error}.") from None
    if not len(faces) or faces.min() < 0 or faces.max() >= len(vertices) or vertices.shape[1:] != (3,):
        raise InputError(f"a mesh must have triangles of its own vertices; got {len(faces)} of {len(points)} vertices.")
    return vertices, faces


def depth_image(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], size: tuple[float, float, float], side: int = 224
) -> NDArray[np.uint8]:
    """What stands in a box of this size, seen from the front, right and above, without perspective; the nearer, the darker.

    The picture has the object's proportions, but not its size: it is scaled to fill the square.

    Args:
        vertices: (p, 3), x to the right, y up, z towards the viewer.
        faces: (q, 3) numbers of vertices.
        size: width, height and depth of the box that the mesh is stretched to.
        side: of the picture, in pixels.

    Returns:
        (side, side) grey values: 255 where nothing is, 0 to 200 from the nearest to the farthest.
    """
    used = vertices[np.unique(faces)]
    low, high = used.min(0), used.max(0)
    placed = (vertices - (low + high) / 2) * np.asarray(size) / np.where(high > low, high - low, 1)
    a, e = np.radians([AZIMUTH, ELEVATION])
    right = [np.cos(a), 0, -np.sin(a)]
    up = [-np.sin(a) * np.sin(e), np.cos(e), -np.cos(a) * np.sin(e)]
    near = [np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)]
    seen = placed @ np.array([right, up, near]).T
    used = seen[np.unique(faces)]
    low, high = used.min(0), used.max(0)
    pixels = (seen - (low + high) / 2) * (0.9 * side / max((high - low)[:2].max(), 1e-12))
    pixels[:, :2] = pixels[:, :2] * [1, -1] + side / 2
    buffer = np.full(side * side, -np.inf)
    for points in _drawn(pixels[faces]):
        column, row = np.clip(points[:, :2].astype(np.int64), 0, side - 1).T
        np.maximum.at(buffer, row * side + column, points[:, 2])
    full = np.isfinite(buffer)
    nearest, farthest = buffer[full].max(), buffer[full].min()
    grey = np.full(side * side, 255.0)
    grey[full] = 200 * (nearest - buffer[full]) / max(nearest - farthest, 1e-12)
    return grey.reshape(side, side).round().astype(np.uint8)


def _drawn(triangles: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Points of triangles (q, 3, 3), no farther apart than `SPACING` on the picture.

    A triangle is a fan of lines from the corner opposite its shortest side; it is cut along them and across, in powers of two,
    so that triangles of one size are drawn together.
    """
    lengths = np.linalg.norm((triangles - np.roll(triangles, -1, axis=1))[..., :2], axis=-1)  # of corner i to corner i + 1
    shortest = lengths.argmin(1)
    order = (shortest[:, None] + [2, 0, 1]) % 3  # the apex first
    triangles = np.take_along_axis(triangles, order[..., None], axis=1)
    across, along = lengths.min(1), lengths.max(1)
    steps = [np.ceil(np.log2(np.maximum(length / SPACING, 1))).astype(np.int64) for length in (along, across)]
    for long, short in np.unique(np.stack(steps, 1), axis=0):
        apex, one, two = triangles[(steps[0] == long) & (steps[1] == short)].transpose(1, 0, 2)[:, :, None]
        lines, places = np.meshgrid(np.linspace(0, 1, 2**long + 1), np.linspace(0, 1, 2**short + 1))
        s, t = lines.reshape(1, -1, 1), places.reshape(1, -1, 1)
        count = max(1, AT_ONCE // s.size)
        for start in range(0, len(apex), count):
            part = slice(start, start + count)
            yield ((1 - s) * apex[part] + s * ((1 - t) * one[part] + t * two[part])).reshape(-1, 3)
