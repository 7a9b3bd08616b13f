"""Residual networks: torchvision's names, numbered children, wider ones, and those of SimCLRv2's converter."""

from functools import partial

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from sslmem.encoders.layouts.base import Entries, Found, Read, Renamed, Rules, check_width
from sslmem.encoders.settings import Chooser
from sslmem.errors import StateDictMismatch

STEM = 64
DEPTHS: dict[tuple[str, tuple[int, ...]], int] = {
    ("basic", (2, 2, 2, 2)): 18,
    ("basic", (3, 4, 6, 3)): 34,
    ("bottleneck", (3, 4, 6, 3)): 50,
    ("bottleneck", (3, 4, 23, 3)): 101,
    ("bottleneck", (3, 8, 36, 3)): 152,
    ("bottleneck", (3, 24, 36, 3)): 200,
}


class Widened(ResNet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's ResNet of which every layer, the stem too, has several times as many channels."""

    def __init__(self, block: type[BasicBlock | Bottleneck], depths: tuple[int, ...], times: int) -> None:
        super().__init__(block, [1, 1, 1, 1])
        self.inplanes = STEM * times
        self.conv1 = nn.Conv2d(3, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.inplanes)
        for i, depth in enumerate(depths):
            layer = self._make_layer(block, STEM * times * 2**i, depth, stride=1 if i == 0 else 2)
            setattr(self, f"layer{i + 1}", layer)
        self.fc = nn.Identity()


def _residual(rules: Rules, notes: tuple[str, ...], entries: Entries, _: Chooser) -> Found:
    renamed = Renamed(entries, rules)
    stem = renamed["conv1.weight"].shape
    check_width(stem[0])
    times = stem[0] // STEM
    if times < 2 or stem[0] % STEM or stem[-1] != 7:
        # Of the usual width: the registry's names say which it is.
        return Found(renamed.entries, renamed.sources, notes=list(notes))
    depths = tuple(renamed.count(rf"layer{i}\.(\d{{1,3}})\.") for i in range(1, 5))
    kind = "bottleneck" if "layer1.0.conv3.weight" in renamed else "basic"
    depth = DEPTHS.get((kind, depths))
    if depth is None:
        raise StateDictMismatch(f"expected the layers of a known residual network; found {depths} {kind} blocks")
    block = Bottleneck if kind == "bottleneck" else BasicBlock
    return Found(
        renamed.entries,
        renamed.sources,
        build=lambda _: Widened(block, depths, times),
        architecture=f"resnet{depth}w{times}",
        notes=[*notes, f"{times} times as wide as usual, from the shape of conv1.weight"],
    )


def _numbered(first: int) -> Read:
    """A residual network as ``nn.Sequential`` of its children: 0 and 1 are the stem, four layers from ``first`` on."""
    layers = tuple((rf"^{first + i}\.", f"layer{i + 1}.") for i in range(4))
    rules = ((r"^0\.", "conv1."), (r"^1\.", "bn1."), *layers)
    return partial(_residual, rules, (f"a residual network whose layers are numbered {first} to {first + 3}",))


# SimCLRv2's converter: a stem, then groups of blocks of (convolution, (norm, relu)) three times over.
_V2 = (
    (r"^0\.net\.0\.", "conv1."), (r"^0\.net\.1\.0\.", "bn1."), (r"^([1-4])\.net\.(\d+)\.", r"layer\1.\2."),
    (r"\.projection\.shortcut\.0\.", ".downsample.0."), (r"\.projection\.shortcut\.1\.0\.", ".downsample.1."),
    (r"\.net\.0\.", ".conv1."), (r"\.net\.1\.0\.", ".bn1."), (r"\.net\.2\.", ".conv2."), (r"\.net\.3\.0\.", ".bn2."),
    (r"\.net\.4\.", ".conv3."), (r"\.net\.5\.0\.", ".bn3."),
)  # fmt: skip

LAYOUTS: tuple[tuple[str, tuple[tuple[str, ...], ...], Read], ...] = (
    ("conv1.weight", (("layer1.0.conv1.weight",), ("layer4.0.conv1.weight",)), partial(_residual, (), ())),
    ("0.weight", (("4.0.conv1.weight",), ("7.0.conv1.weight",)), _numbered(4)),
    ("0.weight", (("3.0.conv1.weight",), ("6.0.conv1.weight",)), _numbered(3)),
    ("0.net.0.weight", (("1.net.0.net.0.weight",), ("4.net.0.net.4.weight",)), partial(_residual, _V2, ())),
)
