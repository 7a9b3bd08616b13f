"""The score spec: everything that determines a score besides the encoders and the sample."""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WrapValidator, model_validator
from pydantic_core.core_schema import ValidatorFunctionWrapHandler

from sslmem.errors import SpecError
from sslmem.recipe import Recipe

Pairing = Literal["views", "original"]
Distance = Literal["l2", "l1", "cosine", "angular"]


def _recipe(value: Any, handler: ValidatorFunctionWrapHandler) -> Recipe:  # noqa: ANN401
    return value if isinstance(value, Recipe) else handler(value)


class ScoreSpec(BaseModel):
    """How scores are measured; two scores are comparable when the digests of their specs are equal.

    Attributes:
        views: number of augmented views of each sample.
        pairing: ``views`` compares all pairs of augmented views (the definition, Wang et al. 2024, eq. 1);
            ``original`` compares the image as it is with each augmented view.
        distance: between two representations; ``cosine`` is 1 - cos, ``angular`` is the angle divided by pi.
        normalize: scales each representation to unit length first, so that encoders of different output
            scale are comparable.
        recipe: the augmentations that make a view.
        seed: of the views; the views of a sample depend on (seed, sample key, view index) alone.
        input_size: side of the square views in pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    views: int = Field(default=10, ge=1, le=1024)
    pairing: Pairing = "views"
    distance: Distance = "l2"
    normalize: bool = True
    recipe: Annotated[Recipe, WrapValidator(_recipe), PlainSerializer(lambda r: r.as_list())] = Field(
        default_factory=lambda: Recipe.named("simclr")
    )
    seed: int = Field(default=0, ge=0, lt=2**63)
    input_size: int = Field(ge=1, le=2048)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.pairing == "views" and self.views < 2:
            raise SpecError("pairing of views needs at least 2 views; found 1")
        object.__setattr__(self, "recipe", self.recipe.sized(self.input_size))
        return self

    def canonical_json(self) -> str:
        """The spec as JSON in one fixed spelling."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """``sha256:`` and the hexadecimal digest of the canonical JSON."""
        return "sha256:" + hashlib.sha256(self.canonical_json().encode()).hexdigest()
