"""Images: files, bytes, Pillow images or arrays in; upright RGB on white out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gramian.data.content import MAX_PIXELS, Place, Source, Unreadable, decoder_reason, open_content, open_source
from gramian.errors import require

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["read_image"]


def read_image(source: Source | Image | NDArray[Any], folder: Place | None = None) -> Image:
    """An image as RGB: turned upright by its EXIF orientation, transparency on white, 16 bits scaled to 8.

    An animation gives its first frame. A decoded image gives what its file would.

    Args:
        source: a path, bytes or a cell of datasets, in any format that Pillow reads; a Pillow image; or its pixels, an array
            or tensor of shape (height, width) or (height, width, 1 to 4 channels).
        folder: what relative paths are relative to.

    Returns:
        A Pillow image of mode "RGB".

    Raises:
        InputError: Pillow is not installed.
        Unreadable: no image, a truncated one, or one of more than `MAX_PIXELS` pixels.
    """
    require("PIL")
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size and of odd EXIF data; the limit below is ours
            with _opened(source, folder) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise Unreadable(f"{width} × {height} pixels, more than {MAX_PIXELS:,}")
                image.load()
                deep = image.format in ("PNG", "PPM")  # these formats hold 16 bits, however dark the image is
                return _rgb(ImageOps.exif_transpose(image), deep)
    except UnidentifiedImageError:
        raise Unreadable("not an image that Pillow knows") from None
    except Image.DecompressionBombError as error:
        raise Unreadable(str(error)) from None
    except Unreadable:
        raise
    except Exception as error:  # Pillow's decoders fail in as many ways as there are formats
        raise Unreadable(decoder_reason(error)) from None


@contextmanager
def _opened(source: Any, folder: Place | None) -> Iterator[Image]:
    from PIL import Image

    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, np.ndarray | Tensor):
        yield Image.fromarray(np.asarray(source).squeeze(-1) if source.shape[-1:] == (1,) else np.asarray(source))
    else:
        with open_content(open_source(source, folder)) as content, Image.open(content, formats=_formats()) as image:
            yield image


def _formats() -> list[str]:
    """The formats that Pillow reads itself; it hands PostScript to another program to run."""
    from PIL import Image

    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def _rgb(image: Image, deep: bool) -> Image:
    from PIL import Image

    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise Unreadable("pixels that are not finite")
        top = (
            65535.0 if image.mode.startswith("I;16") or (image.mode == "I" and (deep or values.max(initial=0) > 255)) else 255.0
        )
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):  # one value means transparent
            values[values == transparent] = top
        image = Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        opaque = Image.new("RGBA", layer.size, "white")
        opaque.alpha_composite(layer)
        image = opaque
    return image.convert("RGB")
