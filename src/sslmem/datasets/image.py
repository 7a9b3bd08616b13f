"""From encoded bytes to pixels as a person would see them."""

import hashlib
import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sslmem.errors import UndecodableImage

MAX_PIXELS = 100_000_000


def sample_key(data: bytes) -> str:
    """``sha256:`` and the digest of an image's encoded bytes: what identifies a sample, wherever it lies."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decodes an image to uint8 ``[H, W, 3]``: upright, transparency over white, 16 bits scaled to 8.

    Raises:
        UndecodableImage: the bytes are no image, are damaged, or hold more than 100 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of damage that it reads over
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UndecodableImage(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS} are read")
                return np.array(_as_rgb(ImageOps.exif_transpose(image)))
    except UndecodableImage:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise UndecodableImage(f"{type(error).__name__}: {error}") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image, dtype=np.int64).clip(0, 65535) // 257).astype(np.uint8)).convert(
            "RGB"
        )
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
