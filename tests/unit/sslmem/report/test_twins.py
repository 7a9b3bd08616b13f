"""Near duplicates among images."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from sslmem.errors import UndecodableImage
from sslmem.report.twins import MAX_BITS, perceptual_hash, twins_of
from tests.unit.builders import encoded, scene

SCENE = Image.fromarray(scene(96, 128, 5))
ALTERED = {
    "smaller": SCENE.resize((64, 48), Image.Resampling.LANCZOS),
    "brighter": ImageEnhance.Brightness(SCENE).enhance(1.15),
    "grey": SCENE.convert("L").convert("RGB"),
}


def files(**images: Image.Image) -> dict[str, bytes]:
    return {name: encoded(image) for name, image in images.items()}


@pytest.mark.parametrize("change", ALTERED)
def test_altered_copy_of_a_candidate_is_its_twin(change: str) -> None:
    images = files(candidate=SCENE, copy=ALTERED[change], other=Image.fromarray(scene(96, 128, 6)))
    assert twins_of(["candidate"], ["other", "copy"], images.__getitem__) == [("candidate", "copy")]


def test_compressed_copy_of_a_candidate_is_its_twin() -> None:
    buffer = io.BytesIO()
    SCENE.save(buffer, format="JPEG", quality=60)
    images = {"candidate": encoded(SCENE), "copy": buffer.getvalue()}
    assert twins_of(["candidate"], ["copy"], images.__getitem__) == [("candidate", "copy")]


def test_different_images_are_no_twins() -> None:
    images = {f"{i}": encoded(scene(64, 64, i)) for i in range(40)}
    names = list(images)
    assert twins_of(names[:20], names[20:], images.__getitem__) == []


def test_candidates_are_compared_with_each_other_too() -> None:
    images = files(a=SCENE, b=ALTERED["smaller"])
    assert twins_of(["a", "b"], [], images.__getitem__) == [("a", "b"), ("b", "a")]


def test_image_that_cannot_be_read_has_no_twins() -> None:
    def read(name: str) -> bytes:
        if name == "gone":
            raise UndecodableImage("gone")
        return encoded(SCENE)

    assert twins_of(["gone", "there"], ["gone"], read) == []


def test_hash_has_128_bits_that_pixels_decide() -> None:
    one, other = perceptual_hash(scene(64, 64, 1)), perceptual_hash(scene(64, 64, 2))
    assert one.shape == (2,)
    assert np.bitwise_count(one ^ other).sum() > MAX_BITS
