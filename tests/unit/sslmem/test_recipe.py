"""Recipes: what is accepted, what is refused and how the refusal reads."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sslmem.errors import RecipeError
from sslmem.recipe import RECIPES, STEPS, ColorJitter, RandomResizedCrop, Recipe
from tests.unit.builders import REQUIRED

BLUR = {"gaussian_blur": {"kernel_size": 3}}


def refusal(recipe: object) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.model_validate(recipe)
    assert caught.value.code == "recipe-invalid"
    assert "\n" not in caught.value.detail
    return caught.value.detail


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_named_recipes_are_usable(name: str) -> None:
    recipe = Recipe.named(name)
    assert [step.op for step in recipe.steps] == [op for entry in RECIPES[name] for op in entry]
    assert recipe.size is None


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_list_form_reads_back_as_the_same_recipe(name: str) -> None:
    recipe = Recipe.named(name)
    assert Recipe.model_validate(recipe.as_list()) == recipe


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_yaml_form_reads_back_as_the_same_recipe(name: str) -> None:
    recipe = Recipe.named(name)
    assert Recipe.from_yaml(yaml.safe_dump(recipe.as_list())) == recipe


def test_name_stands_for_its_recipe() -> None:
    assert Recipe.model_validate("paper-strong") == Recipe.named("paper-strong")


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="unknown recipe 'byol'; known are simclr, paper-weak"):
        Recipe.named("byol")


def test_list_form_writes_every_default_out() -> None:
    recipe = Recipe.model_validate(["random_resized_crop", "grayscale"])
    assert recipe.as_list() == [
        {"random_resized_crop": {"size": None, "scale": [0.08, 1.0], "ratio": [0.75, 4 / 3]}},
        {"grayscale": {"p": 0.1}},
    ]


def test_step_without_parameters_may_be_a_bare_name() -> None:
    bare = Recipe.model_validate(["horizontal_flip"])
    assert (
        bare == Recipe.model_validate([{"horizontal_flip": {}}]) == Recipe.model_validate([{"horizontal_flip": None}])
    )


@pytest.mark.parametrize("op", sorted(STEPS))
def test_unknown_parameter_is_refused_with_the_known_ones(op: str) -> None:
    message = refusal([{op: {**REQUIRED.get(op, {}), "strength": 1}}])
    assert message.startswith(f"step 1, {op}: strength: ")
    assert message.endswith(f"parameters are {', '.join(STEPS[op].model_fields)}")


def test_unknown_step_is_refused_with_its_place_and_the_known_ones() -> None:
    message = refusal([BLUR, {"cutout": {}}])
    assert message.startswith("step 2: unknown augmentation 'cutout'; known are random_resized_crop, horizontal_flip")


@pytest.mark.parametrize("op", sorted(set(STEPS) - {"random_resized_crop"}))
@pytest.mark.parametrize("p", [-0.01, 1.01, float("nan"), float("inf"), "often", None])
def test_probability_outside_zero_to_one_is_refused(op: str, p: object) -> None:
    assert refusal([{op: {**REQUIRED.get(op, {}), "p": p}}]).startswith(f"step 1, {op}: p: ")


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"scale": [0.0, 1.0]}, "scale"),
        ({"scale": [0.5, 0.4]}, "scale"),
        ({"scale": [0.5, 1.01]}, "scale"),
        ({"scale": [-0.1, 0.5]}, "scale"),
        ({"scale": [0.5]}, "scale"),
        ({"scale": 0.5}, "scale"),
        ({"scale": [float("nan"), 1.0]}, "scale"),
        ({"ratio": [0.0, 1.0]}, "ratio"),
        ({"ratio": [2.0, 1.0]}, "ratio"),
        ({"ratio": [1.0, float("inf")]}, "ratio"),
        ({"size": 0}, "size"),
        ({"size": 2049}, "size"),
        ({"size": 32.5}, "size"),
    ],
)
def test_crop_parameters_out_of_range_are_refused(parameters: dict[str, object], named: str) -> None:
    message = refusal([{"random_resized_crop": parameters}])
    assert message.startswith("step 1, random_resized_crop: ")
    assert named in message.split("; parameters are")[0]


@pytest.mark.parametrize("factor", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("value", [-0.1, [0.3, 0.2], [-0.6, 0.1], float("inf"), float("nan"), "x", [1, 2, 3]])
def test_jitter_factors_out_of_range_are_refused(factor: str, value: object) -> None:
    assert factor in refusal([{"color_jitter": {factor: value}}]).split("; parameters are")[0]


def test_hue_beyond_half_a_turn_is_refused() -> None:
    assert "hue lies within (-0.5, 0.5)" in refusal([{"color_jitter": {"hue": 0.51}}])


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"kernel_size": 4},
        {"kernel_size": -1},
        {"kernel_size": 257},
        {"kernel_size": 3, "sigma": [0.0, 1.0]},
        {"kernel_size": 3, "sigma": [2.0, 1.0]},
        {"kernel_size": 3, "sigma": [1.0, float("inf")]},
    ],
)
def test_blur_parameters_out_of_range_are_refused(parameters: dict[str, object]) -> None:
    assert refusal([{"gaussian_blur": parameters}]).startswith("step 1, gaussian_blur: ")


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), None])
def test_solarize_threshold_out_of_range_is_refused(threshold: float | None) -> None:
    assert refusal([{"solarize": {"threshold": threshold}}]).startswith("step 1, solarize: threshold: ")


def test_number_stands_for_a_range_as_in_torchvision() -> None:
    jitter = ColorJitter(brightness=0.4, contrast=1.5, saturation=(0.1, 0.2), hue=0.1)
    assert jitter.ranges() == {
        "brightness": (0.6, 1.4),
        "contrast": (0.0, 2.5),
        "saturation": (0.1, 0.2),
        "hue": (-0.1, 0.1),
    }


@pytest.mark.parametrize(
    ("recipe", "found"), [(3, "int"), (None, "NoneType"), ({"steps": [BLUR]}, "dict"), (1.5, "float"), (b"x", "bytes")]
)
def test_what_is_neither_name_nor_list_is_refused(recipe: object, found: str) -> None:
    assert refusal(recipe).endswith(f"found {found}")


@pytest.mark.parametrize("entry", [3, None, {}, {"grayscale": {}, "invert": {}}, ["grayscale"], [[]]])
def test_entry_that_is_no_step_is_refused(entry: object) -> None:
    assert refusal([BLUR, entry]).startswith("step 2: expected one name with its parameters; found ")


@pytest.mark.parametrize("parameters", [3, "fast", [1], {1: 2}])
def test_parameters_that_are_no_mapping_are_refused(parameters: object) -> None:
    assert refusal([{"invert": parameters}]).startswith("step 1, invert: ")


def test_empty_recipe_is_refused() -> None:
    assert "the recipe is empty" in refusal([])


def test_crops_of_different_sizes_are_refused() -> None:
    crops = [{"random_resized_crop": {"size": 32}}, {"random_resized_crop": {"size": 64}}]
    assert "different sizes" in refusal(crops)


def test_crop_with_a_size_and_one_without_are_refused() -> None:
    assert "different sizes" in refusal([{"random_resized_crop": {"size": 32}}, "random_resized_crop"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- {", "the recipe is not readable as YAML: "),
        ("- a\n- [b\n", "the recipe is not readable as YAML: "),
        ("[" * 10_000, "the recipe is not readable as YAML: "),
        ("\x00", "the recipe is not readable as YAML: "),
        ("!!python/object/apply:os.system ['true']", "the recipe is not readable as YAML: "),
        ("", "a recipe file is a YAML list of augmentations; found NoneType"),
        ("invert: {}", "a recipe file is a YAML list of augmentations; found dict"),
        ("simclr", "a recipe file is a YAML list of augmentations; found str"),
        ("[]", "the recipe is empty"),
    ],
)
def test_yaml_that_is_no_recipe_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(text)
    assert caught.value.detail.startswith(reason)
    assert "\n" not in caught.value.detail


def test_yaml_whose_aliases_unfold_without_end_is_refused_in_one_short_line() -> None:
    bomb = "- &a [x, x, x, x, x, x, x, x]\n"
    for i in range(12):
        bomb += f"- &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 8)}]\n"
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(bomb)
    assert len(caught.value.detail) < 500


def test_sizing_fills_in_every_crop() -> None:
    recipe = Recipe.model_validate(["random_resized_crop", "invert", {"random_resized_crop": {"scale": [0.5, 1]}}])
    sized = recipe.sized(48)
    assert [step.size for step in sized.steps if isinstance(step, RandomResizedCrop)] == [48, 48]
    assert sized.size == 48
    assert recipe.size is None


def test_sizing_to_the_size_it_has_changes_nothing() -> None:
    recipe = Recipe.named("simclr").sized(32)
    assert recipe.sized(32) == recipe


def test_sizing_to_another_size_is_refused_with_both() -> None:
    with pytest.raises(RecipeError, match="crops to 32 pixels but the input size of the encoders is 224"):
        Recipe.named("simclr").sized(32).sized(224)


def test_recipe_without_a_crop_fits_every_size() -> None:
    recipe = Recipe.model_validate(["invert"])
    assert recipe.sized(7) == recipe


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(sorted(STEPS)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_data_is_a_recipe_or_a_recipe_error(data: object) -> None:
    try:
        recipe = Recipe.model_validate(data)
    except RecipeError:
        return
    assert Recipe.model_validate(recipe.as_list()) == recipe
