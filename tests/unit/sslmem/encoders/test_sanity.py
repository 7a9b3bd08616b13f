"""Encoders that are not what their file should hold are suspect before an audit uses them."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from sslmem.encoders.architectures import small_stem_resnet
from sslmem.encoders.sanity import generated_samples, look_over, suspicions
from sslmem.samples import decode
from tests.unit.builders import Function, encoder_of, randomize


def test_network_as_initialised_is_suspect() -> None:
    torch.manual_seed(0)
    encoder = encoder_of(small_stem_resnet("resnet18")[0].eval())
    (found,) = suspicions(encoder)
    assert found == "all 20 norms are exactly as initialised: the weights were never trained"


def test_network_whose_residual_blocks_begin_at_zero_is_suspect_as_initialised() -> None:
    torch.manual_seed(0)
    module = torchvision.models.resnet18(zero_init_residual=True)
    module.fc = nn.Identity()
    assert "all 20 norms are exactly as initialised: the weights were never trained" in suspicions(
        encoder_of(module.eval())
    )


def test_network_whose_norms_have_moved_is_not() -> None:
    torch.manual_seed(0)
    assert suspicions(encoder_of(randomize(small_stem_resnet("resnet18")[0]))) == []


def test_one_norm_that_moved_tells_of_training() -> None:
    torch.manual_seed(0)
    module = small_stem_resnet("resnet18")[0]
    with torch.no_grad():
        module.get_parameter("layer4.1.bn2.bias")[0] = 0.5
    assert suspicions(encoder_of(module.eval())) == []


class Collapsed(nn.Module):
    """The same representation for every image, but for rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, views: Tensor) -> Tensor:
        return torch.ones(len(views), 8) + 1e-4 * views.mean(dim=(1, 2, 3))[:, None]


def test_collapsed_encoder_is_suspect() -> None:
    assert any("nearly the same representation" in found for found in suspicions(encoder_of(Collapsed())))


def test_encoder_that_knows_no_image_again_is_suspect() -> None:
    """Noise that depends on every pixel: views of an image are as far apart as different images."""

    def noise(views: Tensor) -> Tensor:
        seeds = (views.double().sum(dim=(1, 2, 3)) * 1e6).long().tolist()
        return torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(abs(seed))) for seed in seeds])

    (found,) = suspicions(encoder_of(Function(noise)))
    assert "views of one image are no nearer to each other" in found


def test_suspicions_stand_in_the_report() -> None:
    encoder = encoder_of(Collapsed())
    assert encoder.report.suspicions == []
    look_over(encoder)
    assert len(encoder.report.suspicions) >= 1


def test_generated_images_are_different_always_the_same_and_not_constant() -> None:
    samples = generated_samples()
    assert [one.key for one in samples] == [one.key for one in generated_samples()]
    assert len({one.key for one in samples}) == len(samples) == 16
    assert all(decode(one).image is not None for one in samples)


@pytest.mark.parametrize("size", [32, 48])
def test_images_are_made_for_the_encoders_input_size(size: int) -> None:
    seen: list[int] = []

    def watch(views: Tensor) -> Tensor:
        seen.append(views.shape[-1])
        return views.mean(dim=3)

    suspicions(encoder_of(Function(watch), input_size=size))
    assert set(seen) == {size}
