"""The score spec and its digest."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sslmem.errors import RecipeError, SpecError
from sslmem.recipe import RECIPES, Recipe
from sslmem.spec import ScoreSpec

SPECS = st.builds(
    ScoreSpec,
    views=st.integers(2, 1024),
    pairing=st.sampled_from(["views", "original"]),
    distance=st.sampled_from(["l2", "l1", "cosine", "angular"]),
    normalize=st.booleans(),
    recipe=st.sampled_from(sorted(RECIPES)).map(Recipe.named),
    seed=st.integers(0, 2**63 - 1),
    input_size=st.integers(1, 2048),
)

# One other value for each field than the spec below has.
CHANGES: dict[str, Any] = {
    "views": 11,
    "pairing": "original",
    "distance": "l1",
    "normalize": False,
    "recipe": "paper-weak",
    "seed": 1,
    "input_size": 33,
    "representation": "tokens",
    "precision": "auto",
    "stratify": 2,
    "refine": {"views": 128},
}


def shuffled(value: object, order: random.Random) -> object:
    """The same JSON with the keys of every object in another order."""
    if isinstance(value, dict):
        keys = list(value)
        order.shuffle(keys)
        return {key: shuffled(value[key], order) for key in keys}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


def test_digest_of_the_default_spec_stays_what_it_is() -> None:
    # Changing this digest makes every score measured before incomparable.
    assert ScoreSpec(input_size=32).canonical_json() == (
        '{"distance":"l2","input_size":32,"normalize":true,"pairing":"views","precision":"float32",'
        '"recipe":[{"random_resized_crop":{"ratio":[0.75,1.3333333333333333],"scale":[0.2,1.0],"size":32}},{"horizontal_flip":{"p":0.5}},'
        '{"color_jitter":{"brightness":0.4,"contrast":0.4,"hue":0.1,"p":0.8,"saturation":0.4}},'
        '{"grayscale":{"p":0.2}}],"representation":"pooled","seed":0,"version":1,"views":10}'
    )
    assert ScoreSpec(input_size=32).digest == "sha256:6b92ecd66dcb787c80f278bf0102ada31eccd1483a4c8257b65503f640dfd803"


@given(SPECS)
def test_canonical_json_reads_back_as_the_same_spec(spec: ScoreSpec) -> None:
    again = ScoreSpec.model_validate_json(spec.canonical_json())
    assert again == spec
    assert again.digest == spec.digest
    assert again.canonical_json() == spec.canonical_json()


@given(SPECS, st.randoms(use_true_random=False))
def test_digest_does_not_depend_on_the_order_of_keys(spec: ScoreSpec, order: random.Random) -> None:
    data = shuffled(json.loads(spec.canonical_json()), order)
    assert ScoreSpec.model_validate(data).digest == spec.digest


def test_every_field_but_the_version_is_tried_below() -> None:
    # A convention fixes other fields, so test_compat.py tries it.
    assert set(CHANGES) | {"version", "compat"} == set(ScoreSpec.model_fields)


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_digest_changes_with_every_field(field: str) -> None:
    spec = ScoreSpec(input_size=32)
    changed = ScoreSpec.model_validate({**json.loads(spec.canonical_json()), "recipe": "simclr", field: CHANGES[field]})
    assert changed.digest != spec.digest


def test_digest_changes_with_every_parameter_of_the_recipe() -> None:
    spec = ScoreSpec(input_size=32)
    digests = {spec.digest}
    data = json.loads(spec.canonical_json())
    for step in data["recipe"]:
        for parameters in step.values():
            for name, value in parameters.items():
                if name == "size":
                    continue
                parameters[name] = [v * 0.9 for v in value] if isinstance(value, list) else value * 0.9
                digests.add(ScoreSpec.model_validate(data).digest)
                parameters[name] = value
    assert len(digests) == 1 + 2 + 1 + 5 + 1


def test_digest_does_not_depend_on_how_numbers_are_written() -> None:
    whole = ScoreSpec.model_validate({"input_size": 32, "recipe": [{"invert": {"p": 1}}]})
    broken = ScoreSpec.model_validate({"input_size": 32, "recipe": [{"invert": {"p": 1.0}}]})
    assert whole.digest == broken.digest


def test_recipe_is_sized_to_the_input_size() -> None:
    assert ScoreSpec(input_size=48).recipe == Recipe.named("simclr").sized(48)


def test_recipe_may_be_given_by_name() -> None:
    spec = ScoreSpec.model_validate({"input_size": 32, "recipe": "paper-strong"})
    assert spec.recipe == Recipe.named("paper-strong").sized(32)


def test_recipe_of_another_size_is_refused() -> None:
    with pytest.raises(RecipeError, match="crops to 32 pixels but the input size of the encoders is 64"):
        ScoreSpec(input_size=64, recipe=Recipe.named("simclr").sized(32))


def test_recipe_that_is_none_is_a_recipe_error() -> None:
    with pytest.raises(RecipeError, match="unknown augmentation 'cutout'"):
        ScoreSpec.model_validate({"input_size": 32, "recipe": ["cutout"]})


def test_pairing_of_a_single_view_is_refused() -> None:
    with pytest.raises(SpecError, match="at least 2 views; found 1"):
        ScoreSpec(input_size=32, views=1)


def test_original_may_be_paired_with_a_single_view() -> None:
    assert ScoreSpec(input_size=32, views=1, pairing="original").views == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"views": 0},
        {"views": 1025},
        {"seed": -1},
        {"seed": 2**63},
        {"input_size": 0},
        {"input_size": 2049},
        {"pairing": "pairs"},
        {"distance": "l3"},
        {"normalize": "perhaps"},
        {"version": 2},
        {"view": 10},
    ],
)
def test_field_out_of_range_or_unknown_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ScoreSpec.model_validate({"input_size": 32, **fields})
    assert [error["loc"] for error in caught.value.errors()] == [tuple(fields)]


def test_spec_without_an_input_size_is_refused() -> None:
    with pytest.raises(ValidationError, match="input_size"):
        ScoreSpec.model_validate({})


def test_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ScoreSpec(input_size=32).seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(("fields", "group"), [({}, 1), ({"stratify": 2}, 2), ({"views": 16, "stratify": 4}, 4)])
def test_group_is_one_view_unless_it_is_asked_for(fields: dict[str, Any], group: int) -> None:
    assert ScoreSpec(input_size=32, **fields).group == group


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"views": 18, "stratify": 4}, "needs views that are a multiple of 4, at least 16 .* found 18"),
        ({"views": 12, "stratify": 4}, "needs views that are a multiple of 4, at least 16 .* found 12"),
        ({"views": 4, "stratify": 4, "pairing": "original"}, "at least 8 .* found 4"),
        ({"views": 16, "stratify": 4, "refine": {"views": 18}}, "views of the second stage .* found 18"),
    ],
)
def test_views_must_make_enough_whole_groups(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ScoreSpec(input_size=32, **fields)


def test_two_groups_will_do_for_the_original() -> None:
    assert ScoreSpec(input_size=32, views=8, stratify=4, pairing="original").group == 4
