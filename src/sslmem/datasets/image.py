"""From encoded bytes to pixels as a person would see them."""

import hashlib
import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from sslmem.errors import UndecodableImage

MAX_PIXELS = 100_000_000
# Others of Pillow's readers start programs (EPS) or were never meant for strangers' files.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# What makes an image upright, by its EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def sample_key(data: bytes) -> str:
    """``sha256:`` and the digest of an image's encoded bytes: what identifies a sample, wherever it lies."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def as_ppm(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels ``[H, W, 3]`` as a binary PPM file, which is what identifies images that are no files."""
    height, width, _ = pixels.shape
    return b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()


def over_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels ``[H, W, 4]`` with opacity as ``[H, W, 3]``, over white."""
    return np.array(_as_rgb(Image.fromarray(pixels)))


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decodes an image to uint8 ``[H, W, 3]``: upright, transparency over white, 16 bits scaled to 8.

    Raises:
        UndecodableImage: the bytes are no image, are damaged, or hold more than 100 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow raises on damaged pixels and warns of damaged metadata
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UndecodableImage(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS} are read")
                image.load()
                return np.array(_as_rgb(_upright(image)))
    except UndecodableImage:
        raise
    except UnidentifiedImageError as error:  # its own message shows an address in memory
        raise UndecodableImage("the bytes are no image of a known format") from error
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise UndecodableImage(f"{type(error).__name__}: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data say; when they are damaged, as it is stored."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  the EXIF reader, too, raises whatever it likes
        return image
    return image if turn is None else image.transpose(turn)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        levels = (np.asarray(image, dtype=np.int64).clip(0, 65535) + 128) // 257
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
