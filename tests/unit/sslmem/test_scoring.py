"""Scoring: what it is invariant to, what is skipped, what is refused, and how it meets the end of memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sslmem.datasets.image import sample_key
from sslmem.datasets.source import open_dataset
from sslmem.encoders.encoder import Encoder
from sslmem.errors import DeviceUnavailable, SpecError
from sslmem.scoring import FOR_PRECISION, Sample, SampleScore, default_batch_size, pick_device, read_samples, score
from sslmem.spec import ScoreSpec
from tests.unit.builders import Function, encoded, encoder_of, noise, sample, scene, small_encoder, small_module

CPU = torch.device("cpu")
SPEC = ScoreSpec(views=5, input_size=16)
TARGET, REFERENCE = small_encoder(1), small_encoder(2)
SIZES = [(16, 16), (24, 20), (120, 100), (16, 16), (24, 20), (40, 40), (120, 100)]
SAMPLES = [sample(f"{i}.png", scene(*size, seed=i)) for i, size in enumerate(SIZES)]


def scores(
    samples: Sequence[Sample],
    *,
    targets: Sequence[Encoder] = (TARGET,),
    references: Sequence[Encoder] = (REFERENCE,),
    spec: ScoreSpec = SPEC,
    batch_size: int | None = None,
) -> list[SampleScore]:
    batches = score(targets, references, samples, spec, device=CPU, batch_size=batch_size)
    return [s for batch in batches for s in batch]


def assert_close(found: Sequence[SampleScore], expected: Sequence[SampleScore]) -> None:
    assert [s.name for s in found] == [s.name for s in expected]
    for a, b in zip(found, expected, strict=True):
        assert (a.key, a.skipped) == (b.key, b.skipped)
        assert a.alignment_target == pytest.approx(b.alignment_target, rel=1e-5)
        assert a.alignment_reference == pytest.approx(b.alignment_reference, rel=1e-5)
        assert a.score == pytest.approx(b.score, abs=1e-5 * ((b.alignment_reference or 0) + 1e-12))
        assert a.standard_error == pytest.approx(b.standard_error, rel=1e-3)


ALL = scores(SAMPLES)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_scores_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    assert_close(scores(SAMPLES, batch_size=batch_size), ALL)


@given(st.permutations(range(len(SAMPLES))), st.integers(1, 4))
def test_scores_do_not_depend_on_the_order(order: list[int], batch_size: int) -> None:
    found = scores([SAMPLES[i] for i in order], batch_size=batch_size)
    assert_close(found, [ALL[i] for i in order])


def test_batches_of_equal_samples_give_the_same_bits() -> None:
    pairs = [SAMPLES[0:2], SAMPLES[2:4], SAMPLES[4:6]]
    forwards, backwards = ([s for pair in order for s in pair] for order in (pairs, pairs[::-1]))
    first = {s.name: s for s in scores(forwards, batch_size=2)}
    again = {s.name: s for s in scores(backwards, batch_size=2)}
    assert first == again


def test_further_views_change_the_scores_but_not_the_earlier_views() -> None:
    few, many = (scores(SAMPLES[:1], spec=SPEC.model_copy(update={"views": n}))[0] for n in (5, 40))
    assert few.standard_error is not None
    assert many.standard_error is not None
    assert many.score != few.score
    assert many.standard_error < few.standard_error


def test_score_is_zero_when_the_target_is_the_reference() -> None:
    for s in scores(SAMPLES, references=[TARGET]):
        assert s.score == s.score_bounded == s.standard_error == 0.0


def test_score_changes_its_sign_when_target_and_reference_change_places() -> None:
    swapped = scores(SAMPLES, targets=[REFERENCE], references=[TARGET])
    for a, b in zip(swapped, ALL, strict=True):
        assert b.score is not None
        assert b.score_bounded is not None
        assert (a.score, a.score_bounded) == (-b.score, -b.score_bounded)
        assert (a.alignment_target, a.alignment_reference) == (b.alignment_reference, b.alignment_target)
        assert a.standard_error == b.standard_error


def test_encoder_that_aligns_better_than_the_reference_scores_positive() -> None:
    # The target gives all views of a sample nearly one representation.
    steady = Function(lambda views: torch.ones(len(views), 4) + 0.01 * views.mean(dim=(2, 3)).repeat(1, 2)[:, :4])
    assert all((s.score or 0) > 0 for s in scores(SAMPLES, targets=[encoder_of(steady)]))


def test_encoder_given_twice_counts_as_once() -> None:
    assert_close(scores(SAMPLES, targets=[TARGET, TARGET], references=[REFERENCE] * 3), ALL)


def test_several_encoders_are_averaged() -> None:
    third = small_encoder(3)
    both = scores(SAMPLES, targets=[TARGET, third])
    others = scores(SAMPLES, targets=[third])
    for s, a, b in zip(both, ALL, others, strict=True):
        assert s.alignment_target == pytest.approx(((a.alignment_target or 0) + (b.alignment_target or 0)) / 2)
        assert s.alignment_reference == pytest.approx(a.alignment_reference)


def test_score_of_two_views_has_no_standard_error() -> None:
    found = scores(SAMPLES, spec=SPEC.model_copy(update={"views": 2}))
    assert all(s.score is not None and s.standard_error is None for s in found)


def test_encoder_without_any_distance_has_no_bounded_score() -> None:
    constant = encoder_of(Function(lambda views: torch.ones(len(views), 4)))
    found = scores(SAMPLES[:1], targets=[constant], references=[constant])[0]
    assert (found.score, found.score_bounded, found.skipped) == (0.0, None, None)


# Samples that have no score


@pytest.mark.parametrize("data", [b"", b"GIF89a", encoded(noise(20, 20))[:-100], b"not an image"])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_undecodable_sample_is_skipped_with_its_reason_and_disturbs_no_other(data: bytes, place: int) -> None:
    bad = Sample("bad.png", sample_key(data), data)
    found = scores([*SAMPLES[:place], bad, *SAMPLES[place:]], batch_size=4)
    skipped = found.pop(place)
    assert_close(found, ALL)
    assert skipped.skipped is not None
    assert skipped.skipped.startswith("image-undecodable: ")
    assert skipped == SampleScore("bad.png", bad.key, skipped=skipped.skipped)


def test_batch_of_undecodable_samples_is_skipped_whole() -> None:
    found = scores([Sample(f"{i}", "key", b"") for i in range(3)])
    assert [s.skipped is not None and s.score is None for s in found] == [True] * 3


def test_unreadable_sample_is_skipped_with_its_reason() -> None:
    problem = Sample("gone.png", "key", b"", "the file gone.png cannot be read")
    assert scores([problem])[0].skipped == "image-undecodable: the file gone.png cannot be read"


def test_missing_file_becomes_a_sample_with_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(SAMPLES[0].data)
    (tmp_path / "b.png").write_bytes(b"")
    with open_dataset(tmp_path) as dataset:
        names = [entry.path for entry in dataset.samples]
        (tmp_path / "b.png").unlink()
        found = list(read_samples(dataset, names))
    assert found[0] == replace(SAMPLES[0], name="a.png")
    assert found[1].problem is not None
    assert "b.png" in found[1].problem


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: y * torch.nan,
        lambda y: y * torch.inf,
        lambda y: y * 0,  # has no direction
        lambda y: torch.cat([y[:-1], y[-1:] * torch.nan]),  # a single view
    ],
)
@pytest.mark.parametrize("spoiled", ["targets", "references"])
def test_encoder_whose_output_is_not_finite_leaves_samples_without_a_score(
    spoil: Callable[[Tensor], Tensor], spoiled: str
) -> None:
    module = small_module(3)
    encoder = encoder_of(Function(lambda views: spoil(module(views))))
    encoders: dict[str, Any] = {spoiled: [TARGET, encoder]}
    found = scores(SAMPLES[:1], **encoders)[0]
    assert found.skipped is not None
    assert found.skipped.startswith("representation-not-finite: ")
    assert found == SampleScore(found.name, found.key, skipped=found.skipped)


def test_sample_whose_representation_is_not_finite_disturbs_no_other() -> None:
    module = small_module(1)
    white = sample("white.png", scene(16, 16) * 0 + 255)

    def forward(views: Tensor) -> Tensor:
        contrast = views[:, 0].flatten(1).std(dim=1, keepdim=True)
        result: Tensor = module(views) / (contrast > 0.1).float()
        return result

    spec = SPEC.model_copy(update={"recipe": SPEC.recipe.model_validate(["horizontal_flip"])})
    found = scores([*SAMPLES[:2], white], targets=[encoder_of(Function(forward))], spec=spec)
    assert [s.skipped is None for s in found] == [True, True, False]
    assert_close(found[:2], scores(SAMPLES[:2], spec=spec))


# What is refused


@pytest.mark.parametrize("wrong", ["targets", "references"])
def test_encoder_of_another_input_size_is_refused(wrong: str) -> None:
    encoders: dict[str, Any] = {wrong: [TARGET, small_encoder(1, input_size=32)]}
    with pytest.raises(SpecError, match="an encoder takes 32 pixels, the spec says 16"):
        scores(SAMPLES, **encoders)


@pytest.mark.parametrize("missing", ["targets", "references"])
def test_scoring_without_a_target_or_a_reference_is_refused(missing: str) -> None:
    encoders: dict[str, Any] = {missing: []}
    with pytest.raises(SpecError, match="at least one target and at least one reference"):
        scores(SAMPLES, **encoders)


def test_no_samples_give_no_batches() -> None:
    assert list(score([TARGET], [REFERENCE], [], SPEC, device=CPU)) == []


# Memory


def limited(most_views: int) -> Encoder:
    """An encoder whose device has memory for so many views."""
    module = small_module(1)

    def forward(views: Tensor) -> Tensor:
        if len(views) > most_views:
            raise torch.OutOfMemoryError("no memory")
        result: Tensor = module(views)
        return result

    return encoder_of(Function(forward))


def batch_sizes(most_views: int, batch_size: int) -> list[int]:
    batches = score([limited(most_views)], [REFERENCE], SAMPLES, SPEC, device=CPU, batch_size=batch_size)
    return [len(batch) for batch in batches]


@pytest.mark.parametrize(
    ("most_views", "batch_size", "expected"),
    [
        (1000, 7, [7]),
        (20, 4, [4, 3]),
        (10, 4, [2, 2, 2, 1]),
        (5, 4, [1] * 7),
        (10, 7, [1] * 7),
        (15, 7, [3, 3, 1]),
    ],
)
def test_batch_that_does_not_fit_is_halved_and_so_are_those_after_it(
    most_views: int, batch_size: int, expected: list[int]
) -> None:
    assert batch_sizes(most_views, batch_size) == expected


def test_scores_do_not_depend_on_the_memory() -> None:
    assert_close(scores(SAMPLES, targets=[limited(5)], batch_size=7), ALL)


def test_sample_that_does_not_fit_alone_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        batch_sizes(4, 7)


def test_samples_are_read_ahead_by_a_bounded_number() -> None:
    read = []

    def reading() -> Iterator[Sample]:
        for i in range(500):
            read.append(i)
            yield SAMPLES[i % len(SAMPLES)]

    batches = score([TARGET], [REFERENCE], reading(), SPEC, device=CPU, batch_size=2)
    for i, _ in zip(range(20), batches, strict=False):
        assert len(read) <= 2 * (i + 2) + 2 * FOR_PRECISION


# Devices


def test_device_may_be_chosen_by_the_machine() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["banana", "cuda:99", "meta", "hpu", "mps", ""])
def test_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(DeviceUnavailable, match="expected auto, cpu or cuda") as caught:
        pick_device(name)
    assert caught.value.code == "device-unavailable"


def test_batches_hold_fewer_samples_the_more_views_these_have() -> None:
    sizes = [default_batch_size(SPEC.model_copy(update={"views": n}), CPU) for n in (2, 10, 64, 1024)]
    assert sizes == [32, 6, 1, 1]
