"""Recipes: the augmentations that make the views of a sample, in order, with torchvision's parameters."""

import reprlib
from typing import Annotated, Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sslmem.errors import RecipeError

Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]


class Step(BaseModel):
    """One augmentation; subclasses have the names and defaults of torchvision's transforms."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    op: ClassVar[str]


class RandomResizedCrop(Step):
    """Crops a random area and aspect ratio and resizes it, antialiased, to ``size`` x ``size`` pixels."""

    op: ClassVar[str] = "random_resized_crop"
    size: int | None = Field(default=None, ge=1, le=2048)  # None: the input size of the encoders
    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is (low, high) with 0 < low <= high <= 1; found {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is (low, high) with 0 < low <= high; found {self.ratio}")
        return self


class HorizontalFlip(Step):
    """Mirrors left and right with probability ``p``."""

    op: ClassVar[str] = "horizontal_flip"
    p: Probability = 0.5


class VerticalFlip(Step):
    """Mirrors top and bottom with probability ``p``."""

    op: ClassVar[str] = "vertical_flip"
    p: Probability = 0.5


class ColorJitter(Step):
    """Brightness, contrast, saturation and hue by random factors in random order, with probability ``p``.

    A single number ``b`` stands for the range (max(0, 1 - b), 1 + b), for hue (-b, b).
    """

    op: ClassVar[str] = "color_jitter"
    brightness: float | Range = 0.0
    contrast: float | Range = 0.0
    saturation: float | Range = 0.0
    hue: float | Range = 0.0
    p: Probability = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, (low, high) in self.ranges().items():
            least, most = (-0.5, 0.5) if name == "hue" else (0.0, float("inf"))
            if not least <= low <= high <= most:
                raise ValueError(f"{name} lies within ({least}, {most}); found ({low}, {high})")
        return self

    def ranges(self) -> dict[str, Range]:
        """The range of each factor, in torchvision's order."""
        ranges: dict[str, Range] = {}
        for name in ("brightness", "contrast", "saturation", "hue"):
            value: float | Range = getattr(self, name)
            if isinstance(value, tuple):
                ranges[name] = value
            elif value < 0:
                raise ValueError(f"{name} is a number >= 0 or a range; found {value}")
            else:
                ranges[name] = (-value, value) if name == "hue" else (max(0.0, 1 - value), 1 + value)
        return ranges


class Grayscale(Step):
    """Luma in all three channels with probability ``p``."""

    op: ClassVar[str] = "grayscale"
    p: Probability = 0.1


class GaussianBlur(Step):
    """Blurs with a kernel of ``kernel_size`` pixels and a random ``sigma``, with probability ``p``."""

    op: ClassVar[str] = "gaussian_blur"
    kernel_size: int = Field(ge=1, le=255)
    sigma: Range = (0.1, 2.0)
    p: Probability = 1.0

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is odd; found {self.kernel_size}")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma is (low, high) with 0 < low <= high; found {self.sigma}")
        return self


class Solarize(Step):
    """Inverts the pixels at or above ``threshold`` (in 0..1) with probability ``p``."""

    op: ClassVar[str] = "solarize"
    threshold: float = Field(ge=0, le=1)
    p: Probability = 0.5


class Invert(Step):
    """Inverts the colours with probability ``p``."""

    op: ClassVar[str] = "invert"
    p: Probability = 0.5


STEPS: dict[str, type[Step]] = {
    step.op: step
    for step in (
        RandomResizedCrop,
        HorizontalFlip,
        VerticalFlip,
        ColorJitter,
        Grayscale,
        GaussianBlur,
        Solarize,
        Invert,
    )
}


def _step(entry: object, place: int) -> Step:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise RecipeError(f"step {place}: expected one name with its parameters; found {reprlib.repr(entry)}")
    (name, parameters), = entry.items()  # fmt: skip
    if name not in STEPS:
        raise RecipeError(f"step {place}: unknown augmentation {reprlib.repr(name)}; known are {', '.join(STEPS)}")
    try:
        return STEPS[name].model_validate(parameters or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "parameters"
        known = ", ".join(STEPS[name].model_fields)
        raise RecipeError(f"step {place}, {name}: {where}: {first['msg']}; parameters are {known}") from error


class Recipe(BaseModel):
    """An ordered list of augmentations; validates from a list of ``{name: parameters}`` or from a name."""

    model_config = ConfigDict(frozen=True)
    steps: tuple[Step, ...]

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:  # noqa: ANN401  pydantic hands over whatever came
        if isinstance(value, str):
            return {"steps": cls.named(value).steps}
        if isinstance(value, list):
            return {"steps": tuple(_step(entry, place) for place, entry in enumerate(value, start=1))}
        if isinstance(value, dict) and isinstance(value.get("steps"), tuple):
            return value
        raise RecipeError(f"a recipe is a name or a list of augmentations; found {type(value).__name__}")

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if not self.steps:
            raise RecipeError("the recipe is empty; expected at least one augmentation")
        if len({step.size for step in self.steps if isinstance(step, RandomResizedCrop)}) > 1:
            raise RecipeError("the crops of a recipe have different sizes; expected one size")
        return self

    @property
    def size(self) -> int | None:
        """The size that the recipe's crop asks for, if it asks for one."""
        return next((step.size for step in self.steps if isinstance(step, RandomResizedCrop)), None)

    def sized(self, size: int) -> Self:
        """The recipe with its crops filled in to give ``size`` x ``size`` pixels.

        Raises:
            RecipeError: a crop asks for another size.
        """
        if self.size not in (None, size):
            raise RecipeError(
                f"the recipe crops to {self.size} pixels but the input size of the encoders is {size}; "
                "expected the same, or a recipe without a size"
            )
        steps = [s.model_copy(update={"size": size}) if isinstance(s, RandomResizedCrop) else s for s in self.steps]
        return self.model_copy(update={"steps": tuple(steps)})

    def as_list(self) -> list[dict[str, dict[str, Any]]]:
        """The recipe as JSON-able data with every default written out."""
        return [{step.op: step.model_dump(mode="json")} for step in self.steps]

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Reads a YAML list of augmentations.

        Raises:
            RecipeError: the text is no such list, or a name or a parameter is unknown or out of range.
        """
        try:
            data = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise RecipeError(f"the recipe is not readable as YAML: {' '.join(str(error).split())}") from error
        if not isinstance(data, list):
            raise RecipeError(f"a recipe file is a YAML list of augmentations; found {type(data).__name__}")
        return cls.model_validate(data)

    @classmethod
    def named(cls, name: str) -> Self:
        """Returns one of the recipes that ship with sslmem.

        Raises:
            RecipeError: there is none of that name.
        """
        if name not in RECIPES:
            raise RecipeError(f"unknown recipe {name!r}; known are {', '.join(RECIPES)}, or a YAML file")
        return cls.model_validate(RECIPES[name])


_CROP: dict[str, dict[str, Any]] = {"random_resized_crop": {}}
_PAPER_JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
_WEAK_JITTER = {"brightness": 0.9, "contrast": 0.9, "saturation": 0.9, "hue": 0.5}

# simclr: Chen et al. 2020, as commonly used at 32 pixels, without blur. The four named paper-* are the sets of
# appendix B of "Localizing Memorization in SSL Vision Encoders" (arXiv 2409.19069), in the order of the
# authors' released scorer: crop, flip, jitter, grayscale.
RECIPES: dict[str, list[dict[str, dict[str, Any]]]] = {
    "simclr": [
        {"random_resized_crop": {"scale": [0.2, 1.0]}},
        {"horizontal_flip": {"p": 0.5}},
        {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 0.8}},
        {"grayscale": {"p": 0.2}},
    ],
    "paper-weak": [
        _CROP,
        {"horizontal_flip": {"p": 0.5}},
        {"color_jitter": {**_WEAK_JITTER, "p": 0.4}},
        {"grayscale": {"p": 0.1}},
    ],
    "paper-normal": [
        _CROP,
        {"horizontal_flip": {"p": 1.0}},
        {"color_jitter": {**_PAPER_JITTER, "p": 0.8}},
        {"grayscale": {"p": 0.2}},
    ],
    "paper-strong": [
        _CROP,
        {"horizontal_flip": {"p": 1.0}},
        {"vertical_flip": {"p": 1.0}},
        {"color_jitter": {**_PAPER_JITTER, "p": 0.9}},
        {"grayscale": {"p": 0.5}},
    ],
    # The authors' released scorer, but in image space before normalisation.
    "official-code": [
        _CROP,
        {"horizontal_flip": {"p": 0.5}},
        {"color_jitter": {**_PAPER_JITTER, "p": 0.8}},
        {"grayscale": {"p": 0.2}},
    ],
    # The source names a 4x4 kernel; blur kernels are odd, so this one is 5x5.
    "paper-independent": [
        _CROP,
        {"vertical_flip": {"p": 1.0}},
        {"gaussian_blur": {"kernel_size": 5, "sigma": [0.1, 5.0], "p": 0.8}},
        {"invert": {"p": 0.2}},
    ],
}
