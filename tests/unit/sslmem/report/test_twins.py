"""Near duplicates among images."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from sslmem.errors import UndecodableImage
from sslmem.report.twins import MAX_BITS, RoleTwins, compare_roles, neighbours, perceptual_hash, twins_of
from sslmem.roles import Role
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


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.integers(0, 128))
def test_neighbours_are_those_that_comparing_all_pairs_finds(seed: int, num_fixed: int) -> None:
    """Also among hashes that share most of their bits."""
    generator = np.random.default_rng(seed)
    base = generator.integers(0, 2, 128)
    bits = np.where(generator.permutation(128) < num_fixed, base, generator.integers(0, 2, (40, 128)))
    near = bits[generator.integers(0, 40, 40)] ^ (generator.random((40, 128)) < 0.03)
    table = np.unique(np.packbits(np.concatenate([bits, near]).astype(np.uint8), axis=1).view(np.uint64), axis=0)
    found = {frozenset(pair) for one, two in neighbours(table) for pair in zip(one.tolist(), two.tolist(), strict=True)}
    difference = np.bitwise_count(table[:, None] ^ table[None]).sum(axis=2, dtype=np.int64)
    assert found == {frozenset(pair) for pair in np.argwhere(difference <= MAX_BITS).tolist() if pair[0] != pair[1]}


def test_many_images_that_share_a_band_are_compared_in_bounded_work() -> None:
    table = np.zeros((20_000, 2), dtype=np.uint64)
    table[:, 0] = np.arange(20_000) * 2**40
    pairs = sum(len(one) for one, _ in neighbours(table))
    assert 20_000 < pairs < 20_000 * 5 * 1000


def test_equal_files_and_alike_images_across_roles_are_counted_by_pair_of_roles() -> None:
    looks = {name: perceptual_hash(np.asarray(image)) for name, image in ALTERED.items()}
    samples: list[tuple[str, Role, str, object]] = [
        ("a", "candidate", "key 1", looks["grey"]),
        ("b", "shared", "key 1", looks["grey"]),
        ("c", "external", "key 2", looks["smaller"]),
        ("d", "candidate", "key 3", perceptual_hash(scene(64, 64, 9))),
        ("e", "shared", "key 4", None),
        ("f", "candidate", "key 5", None),
    ]
    names, roles, keys, hashes = (list(part) for part in zip(*samples, strict=True))
    assert compare_roles(names, roles, keys, hashes) == [
        RoleTwins("shared", "candidate", 1, 0, (("b", "a"),)),
        RoleTwins("shared", "external", 0, 1, (("b", "c"),)),
        RoleTwins("candidate", "shared", 1, 0, (("a", "b"),)),
        RoleTwins("candidate", "external", 0, 1, (("a", "c"),)),
        RoleTwins("external", "shared", 0, 1, (("c", "b"),)),
        RoleTwins("external", "candidate", 0, 1, (("c", "a"),)),
    ]
    assert compare_roles([], [], [], []) == []
