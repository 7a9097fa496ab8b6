"""Images: files, bytes, Pillow images or arrays in; upright RGB on white out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gramian.data.content import MAX_PIXELS, Place, Source, Unreadable, decoder_reason, open_content, open_source
from gramian.errors import is_exhausted, require

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["decoding", "read_image"]


def read_image(source: Source | Image | NDArray[Any] | Tensor, folder: Place | None = None) -> Image:
    """An image as RGB: turned upright by its EXIF orientation, transparency on white, 16 bits scaled to 8.

    An animation gives its first frame. A decoded image gives what its file would. Floating-point numbers are taken for a range
    of 0 to 1, or to 255 or 65535 where they are larger, integers of more than 16 bits for one to 255, 65535 or 2³² − 1.

    Args:
        source: a path, bytes or a cell of datasets, in any format that Pillow reads; a Pillow image; or its pixels, an array
            or tensor of shape (height, width) or (height, width, 1 to 4 channels).
        folder: what relative paths are relative to.

    Returns:
        A Pillow image of mode "RGB".

    Raises:
        InputError: Pillow is not installed.
        Unreadable: no image, a truncated one, or one of more than `MAX_PIXELS` pixels. Memory that runs out is not caught.
    """
    require("PIL")
    from PIL import Image

    if isinstance(source, np.ndarray | Tensor):
        return _on_white(_from_array(source))
    with decoding():
        if isinstance(source, Image.Image):
            return _on_white(_loaded(source))
        with open_content(open_source(source, folder)) as content:
            return _on_white(_from_file(content))


@contextmanager
def decoding() -> Iterator[None]:
    """Report what Pillow's decoders say of a file.

    Raises:
        Unreadable: any error but those of memory.
    """
    from PIL import UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size and of odd EXIF data; the limit of pixels is ours
            yield
    except UnidentifiedImageError:
        raise Unreadable("not an image that Pillow knows") from None
    except Unreadable:
        raise
    except Exception as error:  # they fail in as many ways as there are formats
        if is_exhausted(error):
            raise
        raise Unreadable(decoder_reason(error)) from None


def _from_array(source: NDArray[Any] | Tensor) -> Image:
    from PIL import Image

    if isinstance(source, Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
    array = source[..., 0] if source.shape[2:] == (1,) else source
    if array.dtype.kind not in "buif" or not (array.ndim == 2 or array.shape[2:] in ((2,), (3,), (4,))) or not array.size:
        raise Unreadable(
            f"an array of {array.dtype} and shape {source.shape}; pixels are numbers of shape (height, width, 1 to 4 channels)"
        )
    return Image.fromarray(_eight_bits(array))


def _from_file(content: BinaryIO) -> Image:
    from PIL import Image

    # All that Pillow reads itself; it hands PostScript to another program to run.
    Image.init()
    formats = [name for name in Image.ID if name != "EPS"]
    try:
        with Image.open(content, formats=formats) as image:
            return _loaded(image)
    except ValueError as error:
        if "MAX_TEXT" not in str(error):  # Pillow's limits of texts and profiles, which are not needed
            raise
        content.seek(0)
        with Image.open(BytesIO(_without_texts(content.read())), formats=formats) as image:
            return _loaded(image)


def _without_texts(png: bytes) -> bytes:
    parts, at = [png[:8]], 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4])
        if png[at + 4 : at + 8] not in (b"iCCP", b"iTXt", b"tEXt", b"zTXt"):
            parts.append(png[at:end])
        at = end
    return b"".join(parts)


def _loaded(image: Image) -> Image:
    """Decoded, upright, with 8 bits a channel."""
    from PIL import Image, ImageOps

    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unreadable(f"{width} × {height} pixels, more than {MAX_PIXELS:,}")
    layout = next((tile[3] for tile in getattr(image, "tile", ())), "")  # known until the image is loaded
    image.load()
    upright = ImageOps.exif_transpose(image)
    transparent = upright.info.get("transparency")
    if upright.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        values = np.array(upright)
        if upright.mode == "I" and image.format in ("PNG", "PPM"):  # these formats hold 16 bits, however dark the image is
            values = values.astype(np.uint16)
        grey = _eight_bits(values)
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return Image.fromarray(grey)
    # Pillow scales the pixels of these to 8 bits, of colours to their upper 8, and leaves the transparent one as it was.
    if isinstance(transparent, tuple) and (layout == "RGB;16B" or max(transparent) > 255):
        upright.info["transparency"] = tuple(value >> 8 for value in transparent)
    if isinstance(transparent, int) and layout in ("L;2", "L;4"):
        upright.info["transparency"] = transparent * {"L;2": 85, "L;4": 17}[layout]
    return upright


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Numbers of any type as 0 to 255."""
    if values.dtype == np.uint8:
        return values
    if not np.isfinite(values).all():
        raise Unreadable("pixels that are not finite")
    kind, largest = values.dtype.kind, float(values.max(initial=0))
    if kind == "b":
        top = 1.0
    elif kind == "u" and values.dtype.itemsize == 2:
        top = 65535.0
    elif kind == "f":  # which resizing may have taken out of their range
        top = next((top for top in (1.0, 255.0) if largest <= 1.25 * top), 65535.0)
    else:
        top = next((top for top in (255.0, 65535.0) if largest <= top), 2.0**32 - 1)
    return (values.clip(0, top).astype(np.float32) * np.float32(255 / top)).round().astype(np.uint8)


def _on_white(image: Image) -> Image:
    from PIL import Image

    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return image.convert("RGB")
