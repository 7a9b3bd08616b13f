"""Files that people would upload: small images, roles, small encoders with random weights."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sslmem.roles import ROLES

# The smallest encoder that timm knows; 16 pixels leave it one position before the pooling.
ARCHITECTURE = "test_byobnet"
INPUT_SIZE = 16
PIXELS = 16


@dataclass(frozen=True)
class EncoderFile:
    """A checkpoint, and how to read it."""

    path: Path
    architecture: str = ARCHITECTURE
    input_size: int = INPUT_SIZE

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Material:
    """An archive of images and the table of their roles."""

    archive: Path
    folder: Path
    paths: tuple[str, ...]
    roles: str


def png(seed: int) -> bytes:
    """An image that is another one for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def zip_of(members: Mapping[str, bytes]) -> bytes:
    """A zip archive of files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def roles_csv(paths: Mapping[str, str]) -> str:
    """A table of roles, by path."""
    return "sample,role\n" + "".join(f"{path},{role}\n" for path, role in paths.items())


def make_images(folder: Path, per_role: int = 10) -> Material:
    """Writes images, as a folder and as an archive; an image lies in the folder of its role."""
    roles = {f"{role}/{i:03}.png": role for role in ROLES for i in range(per_role)}
    members = {path: png(seed) for seed, path in enumerate(sorted(roles))}
    archive = folder / "images.zip"
    archive.write_bytes(zip_of(members))
    for path, data in members.items():
        file = folder / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return Material(archive, folder / "images", tuple(members), roles_csv(roles))


def make_encoder(folder: Path, seed: int) -> EncoderFile:
    """Writes a checkpoint with random weights, whose norms have moved as any training moves them."""
    import timm  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.01)
    path = folder / f"encoder-{seed}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return EncoderFile(path)
