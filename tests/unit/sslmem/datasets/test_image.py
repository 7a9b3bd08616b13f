"""Images are decoded to what a person would see, or not at all."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from sslmem.datasets.image import MAX_PIXELS, as_ppm, decode_image, sample_key
from sslmem.errors import UndecodableImage
from tests.unit.builders import Pixels, encoded, noise, scene

RGB = noise(6, 9)
LOSSLESS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("PPM", {}),
    ("WEBP", {"lossless": True}),
]
KINDS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]
# What the EXIF orientation says was done to the upright image.
ORIENTATIONS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, 1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image, -1),
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "a maker with a long name"
    return tags


def grey(values: Pixels) -> Pixels:
    return np.repeat(values[..., None], 3, axis=2)


def refusal(data: bytes) -> str:
    with pytest.raises(UndecodableImage) as caught:
        decode_image(data)
    assert caught.value.code == "image-undecodable"
    return caught.value.detail


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_colour_image_is_decoded_to_its_pixels(kind: str, options: dict[str, Any]) -> None:
    decoded = decode_image(encoded(RGB, kind, **options))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, RGB)


def test_jpeg_is_decoded() -> None:
    image = scene(40, 50)
    decoded = decode_image(encoded(image, "JPEG", quality=98, subsampling=0))
    assert np.abs(decoded.astype(int) - image).mean() < 3


def test_first_picture_of_an_animation_is_decoded() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    decoded = decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (decoded == (255, 0, 0)).all()


def test_grey_image_has_three_equal_channels() -> None:
    values = RGB[..., 0]
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(values))), grey(values))


def test_black_and_white_image_is_decoded() -> None:
    values = RGB[..., 0] > 128
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(values))), grey(values.astype(np.uint8) * 255))


def palette_image() -> Image.Image:
    image = Image.new("P", (4, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30])
    image.putdata([0, 1, 2, 3])
    return image


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_palette_image_has_its_colours(kind: str) -> None:
    expected = [[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]]]
    assert decode_image(encoded(palette_image(), kind)).tolist() == expected


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_colour_of_a_palette_is_white(kind: str) -> None:
    expected = [[[255, 0, 0], [255, 255, 255], [0, 0, 255], [10, 20, 30]]]
    assert decode_image(encoded(palette_image(), kind, transparency=1)).tolist() == expected


def test_half_transparent_colours_of_a_palette_are_blended_with_white() -> None:
    data = encoded(palette_image(), "PNG", transparency=bytes([255, 0, 128, 255]))
    expected = [[[255, 0, 0], [255, 255, 255], [127, 127, 255], [10, 20, 30]]]
    np.testing.assert_allclose(decode_image(data), expected, atol=1)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_image_lies_over_white(kind: str) -> None:
    alpha = noise(6, 9, seed=1)[..., :1]
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encoded(np.concatenate([RGB, alpha], axis=2), kind, **options)
    expected = RGB * (alpha / 255) + 255 * (1 - alpha / 255)
    np.testing.assert_allclose(decode_image(data), expected, atol=1)


def test_grey_transparent_image_lies_over_white() -> None:
    values, alpha = RGB[..., 0], RGB[..., 1]
    data = encoded(Image.merge("LA", [Image.fromarray(values), Image.fromarray(alpha)]))
    expected = grey(values) * (grey(alpha) / 255) + 255 * (1 - grey(alpha) / 255)
    np.testing.assert_allclose(decode_image(data), expected, atol=1)


@pytest.mark.parametrize(("mode", "colour"), [("L", 100), ("RGB", (1, 2, 3))])
def test_transparent_colour_without_a_palette_is_white(mode: str, colour: int | tuple[int, int, int]) -> None:
    data = encoded(Image.new(mode, (3, 2), colour), "PNG", transparency=colour)
    assert (decode_image(data) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_image_of_16_bits_is_scaled_to_8(kind: str) -> None:
    values = np.array([[0, 128, 129, 257, 20_000, 32_768, 65_406, 65_535]], dtype=np.uint16)
    decoded = decode_image(encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(decoded, grey(np.round(values / 257).astype(np.uint8)))


def test_rotated_grey_image_of_16_bits_is_upright() -> None:
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257
    data = encoded(Image.fromarray(values), "PNG", exif=exif(3))
    np.testing.assert_array_equal(decode_image(data)[..., 0], np.arange(6).reshape(2, 3)[::-1, ::-1])


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_image_is_decoded_to_rgb(kind: str) -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), kind)
    np.testing.assert_allclose(decode_image(data).mean(axis=(0, 1)), [255, 0, 0], atol=4)


@pytest.mark.parametrize("image", [Image.new("YCbCr", (4, 4)), Image.new("LAB", (4, 4))], ids=["YCbCr", "LAB"])
def test_image_of_another_colour_space_is_decoded_to_rgb(image: Image.Image) -> None:
    assert decode_image(encoded(image, "TIFF")).shape == (4, 4, 3)


# EXIF


@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_image_is_turned_upright(kind: str, options: dict[str, Any], orientation: int) -> None:
    stored = np.ascontiguousarray(ORIENTATIONS[orientation](RGB))
    data = encoded(stored, kind, exif=exif(orientation), **options)
    np.testing.assert_array_equal(decode_image(data), RGB)


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
def test_image_of_an_orientation_that_does_not_exist_stays_as_it_is(orientation: int) -> None:
    np.testing.assert_array_equal(decode_image(encoded(RGB, exif=exif(orientation))), RGB)


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_exif_data_do_not_hide_the_pixels(changes: list[tuple[int, int]]) -> None:
    data = bytearray(encoded(RGB, "JPEG", exif=exif(1)))
    start = data.index(b"Exif\x00\x00")
    (length,) = struct.unpack(">H", data[start - 2 : start])
    for place, value in changes:
        data[start + 6 + place % (length - 8)] = value
    assert sorted(decode_image(bytes(data)).shape) == [3, 6, 9]


@pytest.mark.parametrize(
    "block", [b"Exif\x00\x00", b"Exif\x00\x00MM", b"Exif\x00\x00II*\x00" + b"\xff" * 30, b"Exif\x00\x00x" * 9]
)
def test_exif_data_that_are_none_leave_the_image_as_it_is(block: bytes) -> None:
    assert decode_image(encoded(RGB, "JPEG", exif=block)).shape == RGB.shape


def test_orientation_counts_although_other_exif_data_are_damaged() -> None:
    data = bytearray(encoded(np.ascontiguousarray(np.rot90(RGB)), "JPEG", exif=exif(6), quality=100))
    place = data.index(b"\x01\x0f\x00\x02")
    data[place + 4 : place + 8] = b"\x7f\xff\xff\xff"  # the maker's name is said to be two gigabytes long
    assert decode_image(bytes(data)).shape == RGB.shape


# Refusals


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_truncated_image_is_refused(kind: str, kept: float) -> None:
    data = encoded(noise(40, 40), kind)
    refusal(data[: int(len(data) * kept)])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"not an image",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_bytes_that_are_no_image_are_refused(data: bytes) -> None:
    assert refusal(data)


def test_damaged_checksum_is_refused() -> None:
    data = bytearray(encoded(RGB))
    data[data.index(b"IDAT") + 6] ^= 0xFF
    refusal(bytes(data))


def png_of(width: int, height: int) -> bytes:
    """A file that claims so many black pixels, and holds few of them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_image_of_too_many_pixels_is_refused_by_its_header(width: int, height: int) -> None:
    message = refusal(png_of(width, height))
    assert str(MAX_PIXELS) in message or "exceeds limit" in message


def test_image_that_pillow_merely_warns_of_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its warning comes from 89.5 million pixels on, below the limit; here at a size that is tried in no time."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6 * 9 - 1)
    np.testing.assert_array_equal(decode_image(encoded(RGB)), RGB)


@given(st.binary(max_size=200), st.sampled_from(KINDS), st.integers(0, 60))
def test_damaged_image_is_decoded_or_refused(garbage: bytes, kind: str, place: int) -> None:
    data = encoded(RGB, kind)
    damaged = data[:place] + garbage + data[place + len(garbage) :]
    try:
        decoded = decode_image(damaged)
    except UndecodableImage:
        return
    assert decoded.dtype == np.uint8
    assert decoded.shape[2] == 3


# Keys


def test_sample_key_is_the_digest_of_the_bytes() -> None:
    assert sample_key(b"abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_postscript_is_never_handed_to_a_program() -> None:
    """Pillow would start Ghostscript for it."""
    with pytest.raises(UndecodableImage, match="no image of a known format"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")


def test_text_in_a_png_file_that_unfolds_far_is_refused() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 2**24, zip=True)
    with pytest.raises(UndecodableImage, match="Decompressed data too large"):
        decode_image(encoded(Image.new("RGB", (4, 4), "red"), pnginfo=info))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_ppm_of_pixels_is_those_pixels(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert np.array_equal(decode_image(as_ppm(pixels)), pixels)
