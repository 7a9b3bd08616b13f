"""The demo's data: the 1,797 handwritten digits that scikit-learn carries, split into the four roles."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from sklearn.datasets import load_digits

from sslmem.roles import Role


@dataclass(frozen=True)
class Digit:
    """One image: its path in the archive, its pixels ``[8, 8, 3]``, and its PNG file."""

    path: str
    pixels: NDArray[np.uint8]
    png: bytes


def read_digits() -> list[Digit]:
    """All digits, in the order of scikit-learn; the folder of each is its digit."""
    images, labels = load_digits(return_X_y=True)
    digits = []
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        grey = np.rint(image.reshape(8, 8) * (255 / 16)).astype(np.uint8)
        buffer = io.BytesIO()
        PillowImage.fromarray(grey).save(buffer, format="PNG")
        digits.append(Digit(f"{label}/{i:04}.png", np.repeat(grey[:, :, None], 3, axis=2), buffer.getvalue()))
    return digits


def split_roles(digits: list[Digit], counts: dict[Role, int], seed: int) -> dict[str, Role]:
    """Assigns as many random digits to each role as ``counts`` says, and all others to ``external``."""
    order = iter(np.random.default_rng(seed).permutation(len(digits)))
    roles: dict[str, Role] = {digits[next(order)].path: role for role, n in counts.items() for _ in range(n)}
    return {digit.path: roles.get(digit.path, "external") for digit in digits}


def write_archive(digits: list[Digit], destination: Path) -> None:
    """Writes the digits as a zip archive, always the same bytes."""
    with zipfile.ZipFile(destination, "w") as archive:
        for digit in digits:
            archive.writestr(zipfile.ZipInfo(digit.path), digit.png)


def roles_csv(roles: dict[str, Role]) -> str:
    """The table of roles as the service takes it."""
    return "sample,role\n" + "".join(f"{path},{role}\n" for path, role in roles.items())
