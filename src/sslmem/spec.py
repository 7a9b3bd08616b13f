"""The score spec: everything that determines a score besides the encoders and the sample."""

import hashlib
import json
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WrapValidator, model_validator
from pydantic_core.core_schema import ValidatorFunctionWrapHandler

from sslmem.errors import SpecError
from sslmem.recipe import Recipe

Pairing = Literal["views", "original"]
Distance = Literal["l2", "l1", "cosine", "angular"]
Precision = Literal["float32", "auto"]
Stratify = Literal[2, 4, 8, 16]
Compat = Literal["paper", "official-code"]
COMPATS: tuple[Compat, ...] = get_args(Compat)

REPRESENTATIONS = r"pooled|cls|mean|tokens|head|layer:[A-Za-z0-9_.]{1,200}"  # sslmem.encoders.represent explains them

MIN_GROUPS: dict[Pairing, int] = {"views": 4, "original": 2}  # fewer do not tell their standard error
# What the published conventions fix (docs/numerics.md says where they differ, and what is not reproduced).
COMPAT_FIELDS: dict[Compat, dict[str, Any]] = {
    "paper": {"views": 2, "pairing": "views", "distance": "l2", "normalize": False, "stratify": None, "refine": None},
    "official-code": {
        "views": 5,
        "pairing": "original",
        "distance": "l2",
        "normalize": True,
        "representation": "tokens",
        "stratify": None,
        "refine": None,
    },
}


def _recipe(value: Any, handler: ValidatorFunctionWrapHandler) -> Recipe:  # noqa: ANN401
    return value if isinstance(value, Recipe) else handler(value)


class Refine(BaseModel):
    """A second stage: the samples that may be among the most memorized are scored again with many views.

    Attributes:
        views: of the second stage; the first ones are those of the first stage.
        share: of the samples that go on to it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    views: int = Field(default=128, ge=2, le=1024)
    share: float = Field(default=0.15, gt=0, le=1)


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
        representation: which tensor is measured; see ``sslmem.encoders.represent``.
        precision: ``auto`` runs encoders in a lower precision where its error is far below the noise of views.
        stratify: views in a group that spreads evenly over the augmentations' parameters (a Latin hypercube); pairs are
            of views of different groups. None: all views are independent.
        refine: a second stage with more views for the highest scores.
        compat: a published convention, which fixes other fields; see ``COMPAT_FIELDS``.
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
    representation: str = Field(default="pooled", pattern=rf"^({REPRESENTATIONS})$")
    precision: Precision = "float32"
    stratify: Stratify | None = None
    refine: Refine | None = None
    compat: Compat | None = None

    @model_validator(mode="before")
    @classmethod
    def _compatible(cls, value: Any) -> Any:  # noqa: ANN401  pydantic hands over whatever came
        if not isinstance(value, dict) or value.get("compat") not in COMPATS:
            return value
        fixed = COMPAT_FIELDS[value["compat"]]
        for name, only in fixed.items():
            if value.get(name, only) != only:
                wanted = "nothing" if only is None else only
                raise SpecError(f"compat={value['compat']} fixes {name} to {wanted}; found {value[name]}, leave it out")
        recipe = {"recipe": "official-code"} if value["compat"] == "official-code" else {}
        return {**recipe, **value, **fixed}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.pairing == "views" and self.views < 2:
            raise SpecError("pairing of views needs at least 2 views; found 1")
        self._check_groups("views", self.views)
        if self.refine is not None:
            self._check_groups("views of the second stage", self.refine.views)
        if self.refine is not None and self.refine.views <= self.views:
            raise SpecError(
                f"the second stage needs more views than the first; found {self.refine.views} after {self.views}"
            )
        object.__setattr__(self, "recipe", self.recipe.sized(self.input_size))
        return self

    def _check_groups(self, what: str, views: int) -> None:
        least = MIN_GROUPS[self.pairing]
        if self.stratify is not None and (views % self.stratify or views < least * self.stratify):
            raise SpecError(
                f"stratify: {self.stratify} needs {what} that are a multiple of {self.stratify}, at least "
                f"{least * self.stratify} (fewer groups do not tell their standard error); found {views}"
            )

    @property
    def group(self) -> int:
        """Views in a group; views of different groups are independent."""
        return self.stratify or 1

    def canonical_json(self) -> str:
        """The spec as JSON in one fixed spelling, without what is not asked for: so new fields change no digest."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """``sha256:`` and the hexadecimal digest of the canonical JSON."""
        return "sha256:" + hashlib.sha256(self.canonical_json().encode()).hexdigest()
