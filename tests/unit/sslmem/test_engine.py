"""What the scoring engine detects, records and keeps, and how runs are put together."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslmem.datasets.source import open_dataset
from sslmem.encoders.encoder import Encoder
from sslmem.errors import CollapsedEncoder, IncompatibleScores, SpecError
from sslmem.local import LocalScores, score_dataset
from sslmem.merge import StoredScores, merge_scores, read_scores, representations_of
from sslmem.precision import CPU_VIEWS, MAX_SHARE_OF_ERROR, choose_precision
from sslmem.refine import choose, num_forwards
from sslmem.report.rows import NOTHING, write_parquet
from sslmem.roles import Role
from sslmem.samples import decode_ahead
from sslmem.scoring import Sample, SampleScore, Scorer, score
from sslmem.spec import Pairing, Refine, ScoreSpec, Stratify
from sslmem.views.make import make_views
from tests.unit.builders import Function, encoded, encoder_of, sample, scene, small_encoder, small_module

CPU = torch.device("cpu")
SPEC = ScoreSpec(views=5, input_size=16)
SAMPLES = [sample(f"{i}.png", scene(20, 24, seed=i)) for i in range(6)]


def run(samples: Sequence[Sample], spec: ScoreSpec = SPEC, **options: Any) -> list[SampleScore]:  # noqa: ANN401
    targets, references = options.pop("targets", [small_encoder(1)]), options.pop("references", [small_encoder(2)])
    scorer = Scorer(targets, references, spec, device=CPU, **options)
    return [one for batch in scorer.score(samples) for one in batch]


def test_constant_image_is_skipped_with_its_reason() -> None:
    grey = sample("grey.png", np.full((16, 16, 3), 77, dtype=np.uint8))
    found = {one.name: one for one in run([*SAMPLES, grey])}
    assert found["grey.png"].score is None
    assert str(found["grey.png"].skipped).startswith("image-constant")
    assert all(found[s.name].skipped is None for s in SAMPLES)


def test_image_with_a_single_other_pixel_is_scored() -> None:
    pixels = np.full((16, 16, 3), 77, dtype=np.uint8)
    pixels[3, 4, 1] = 90
    assert run([sample("dot.png", pixels)])[0].skipped is None


@pytest.mark.parametrize("part", ["targets", "references"])
def test_encoder_that_maps_all_images_to_one_point_is_refused(part: str) -> None:
    collapsed = encoder_of(
        Function(lambda views: torch.ones(len(views), 8) + 1e-7 * views.mean(dim=(1, 2, 3))[:, None])
    )
    with pytest.raises(CollapsedEncoder, match="maps 4 different images"):
        run(SAMPLES, SPEC, **{part: [small_encoder(3), collapsed]})


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("value", [0.0, 5.0])
@pytest.mark.parametrize("num", [2, 6])
def test_encoder_that_has_one_answer_is_refused_whatever_it_is(num: int, value: float, *, normalize: bool) -> None:
    constant = encoder_of(Function(lambda views: torch.full((len(views), 8), value)))
    with pytest.raises(CollapsedEncoder, match="to the same representation"):
        run(SAMPLES[:num], SPEC.model_copy(update={"normalize": normalize}), targets=[constant])


def test_one_image_many_times_does_not_make_an_encoder_collapsed() -> None:
    same = [Sample(f"{i}.png", SAMPLES[0].key, SAMPLES[0].data) for i in range(10)]
    assert all(one.score is not None for one in run(same))


def test_each_encoders_alignment_and_the_spread_of_references_are_reported() -> None:
    references = [small_encoder(seed) for seed in (2, 3, 4)]
    together = run(SAMPLES, references=references)
    alone = [run(SAMPLES, references=[one]) for one in references]
    for i, one in enumerate(together):
        each = [scores[i].alignment_reference for scores in alone]
        assert one.alignment_references == pytest.approx(each, rel=1e-12)
        assert one.reference_spread == pytest.approx(np.array(each).std(ddof=1), rel=1e-9)
        assert one.alignment_targets == (one.alignment_target,)
        assert one.score == pytest.approx(np.mean(np.array(each)) - floats(one.alignment_target), abs=1e-12)


def test_a_single_reference_has_no_spread() -> None:
    assert {one.reference_spread for one in run(SAMPLES)} == {None}


def test_kept_distances_are_what_the_alignments_are_the_mean_of() -> None:
    for one in run(SAMPLES, keep_distances=True):
        assert one.distances is not None
        assert one.distances.shape == (2, 10)
        assert one.distances.mean(axis=1) == pytest.approx([one.alignment_target, one.alignment_reference], rel=1e-6)


def test_more_views_repeat_the_earlier_pairs_bit_by_bit() -> None:
    few, many = (run(SAMPLES, SPEC.model_copy(update={"views": v}), keep_distances=True, batch_size=1) for v in (4, 9))
    first, second = np.triu_indices(9, k=1)
    earlier = (first < 4) & (second < 4)
    for a, b in zip(few, many, strict=True):
        assert a.distances is not None
        assert b.distances is not None
        assert b.distances[:, earlier] == pytest.approx(a.distances, rel=1e-5)


@pytest.mark.parametrize("pairing", get_args(Pairing))
def test_many_views_of_an_image_are_never_there_at_once(monkeypatch: pytest.MonkeyPatch, pairing: Pairing) -> None:
    made: list[int] = []

    def counted(images: Any, keys: Any, *, views: range, **options: Any) -> Tensor:  # noqa: ANN401
        made.append(len(images) * len(views))
        return make_views(images, keys, views=views, **options)

    monkeypatch.setattr("sslmem.scoring.make_views", counted)
    spec = SPEC.model_copy(update={"views": 200, "pairing": pairing})
    found = run(SAMPLES[:2], spec)
    assert max(made) <= CPU_VIEWS
    assert sum(made) == 2 * 200
    monkeypatch.setattr("sslmem.scoring.views_at_once", lambda *_: 1000)
    for one, other in zip(found, run(SAMPLES[:2], spec, batch_size=1), strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-6)
        assert one.standard_error == pytest.approx(other.standard_error, rel=1e-4)


def test_encoder_loaded_for_another_tensor_is_refused() -> None:
    with pytest.raises(SpecError, match="loaded for its pooled output, the spec says tokens"):
        Scorer([small_encoder(1)], [small_encoder(2)], SPEC.model_copy(update={"representation": "tokens"}), device=CPU)


def test_conditions_record_device_batch_and_precision() -> None:
    scorer = Scorer([small_encoder(1)], [small_encoder(2)], SPEC, device=CPU, batch_size=3)
    list(scorer.score(SAMPLES))
    found = scorer.conditions
    assert (found.device, found.batch_size, found.precision, found.precision_share_of_error) == (
        "cpu",
        3,
        "float32",
        0.0,
    )


def rounding(places: int) -> Encoder:
    """An encoder whose output in low precision is off by about ``10**-places``."""
    module = small_module(5)

    def coarse(views: Tensor) -> Tensor:
        exact: Tensor = module(views)
        if not torch.is_autocast_enabled("cpu"):
            _ = torch.linalg.inv(torch.eye(160))  # the exact way is slower, whatever the machine
            return exact.float()
        return torch.round(exact.float(), decimals=places)

    return encoder_of(Function(coarse))


def test_low_precision_is_taken_only_where_its_error_is_far_below_the_noise() -> None:
    views = torch.rand(6, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    safe = choose_precision([rounding(6)], [rounding(6)], lambda: views.split(2), SPEC, device_type="cpu")
    assert safe.share_of_error <= MAX_SHARE_OF_ERROR
    wrong = choose_precision([rounding(1)], [rounding(6)], lambda: views.split(2), SPEC, device_type="cpu")
    assert (wrong.dtype, wrong.share_of_error) == ("float32", 0.0)


def test_precision_stays_float32_unless_asked() -> None:
    scorer = Scorer([rounding(1)], [rounding(2)], SPEC, device=CPU)
    list(scorer.score(SAMPLES))
    assert scorer.conditions.precision == "float32"


def test_samples_are_decoded_ahead_in_their_order_and_no_further_than_asked() -> None:
    asked: list[int] = []

    def source() -> Any:  # noqa: ANN401
        for i in range(20):
            asked.append(i)
            yield Sample(f"{i}.png", str(i), SAMPLES[0].data)

    decoded = decode_ahead(source(), 4)
    assert next(decoded).name == "0.png"
    assert len(asked) <= 5
    assert [one.name for one in decoded] == [f"{i}.png" for i in range(1, 20)]


def test_second_stage_takes_the_highest_scores_and_never_the_skipped() -> None:
    scores = [SampleScore(str(i), str(i), score=s) for i, s in enumerate([0.1, 0.5, -0.2, 0.3, 0.0])]
    scores.append(SampleScore("5", "5", skipped="damaged"))
    assert choose(scores, Refine(share=0.4)) == [1, 3]
    assert choose(scores, Refine(share=1.0)) == [0, 1, 2, 3, 4]


def test_number_of_forwards_counts_both_stages_and_the_original() -> None:
    refine = Refine(views=100, share=0.1)
    assert num_forwards(1000, ScoreSpec(input_size=8)) == 10_000
    assert num_forwards(1000, ScoreSpec(input_size=8, refine=refine)) == 20_000
    assert num_forwards(1000, ScoreSpec(input_size=8, pairing="original")) == 11_000


# Runs put together


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for one in SAMPLES:
        (tmp_path / "images" / one.name).write_bytes(one.data)
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    return tmp_path


def stored(
    folder: Path,
    name: str,
    references: Sequence[int],
    *,
    only: str = "",
    spec: ScoreSpec = SPEC,
    add_to: Path | None = None,
    keep: bool = True,
) -> Path:
    """The file of a run with references of these seeds, on the samples whose name holds ``only``."""
    encoders = [encoder_of(small_module(seed), digest=f"sha256:{seed}") for seed in (1, *references)]
    with open_dataset(folder / "images") as dataset:
        roles: dict[str, Role] = {s.path: "candidate" for s in dataset.samples if only in s.path}
        found = score_dataset(
            encoders[:1],
            encoders[1:],
            dataset,
            spec,
            device=CPU,
            roles=roles,
            keep_distances=True,
            keep_representations=keep,
            earlier=None if add_to is None else earlier_of(add_to, spec, references),
        )
    write_parquet(folder / name, found.rows, NOTHING, [("summary", found.summary.model_dump_json())])
    return folder / name


def earlier_of(file: Path, spec: ScoreSpec, references: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    return representations_of(read_scores(file), spec, ["sha256:1"], [f"sha256:{seed}" for seed in references])


def merged(*files: Path) -> LocalScores:
    return merge_scores([read_scores(file) for file in files])


def floats(value: float | None) -> float:
    return float("nan") if value is None else value


def assert_same(a: LocalScores, b: LocalScores) -> None:
    key = {row.sample: row for row in b.rows}
    assert key.keys() == {row.sample for row in a.rows}
    for row in a.rows:
        other = key[row.sample]
        assert (row.skipped, row.num_views, row.role) == (other.skipped, other.num_views, other.role)
        for name in ("score", "score_bounded", "standard_error", "reference_spread"):
            assert floats(getattr(row, name)) == pytest.approx(floats(getattr(other, name)), rel=1e-12, nan_ok=True), (
                name
            )
        assert list(row.alignment_references or ()) == pytest.approx(list(other.alignment_references or ()), rel=1e-12)
    assert a.summary.reference_digests == b.summary.reference_digests
    for ours, theirs in zip(a.summary.roles, b.summary.roles, strict=True):
        assert (ours.role, ours.n, ours.num_skipped) == (theirs.role, theirs.n, theirs.num_skipped)
        assert floats(ours.mean_score) == pytest.approx(floats(theirs.mean_score), nan_ok=True)


def test_references_added_later_give_what_one_run_with_all_gives(folder: Path) -> None:
    one, two = stored(folder, "one.parquet", [2, 3]), stored(folder, "two.parquet", [4])
    together = stored(folder, "all.parquet", [2, 3, 4])
    assert_same(merged(one, two), merged(together))


def test_samples_added_later_give_what_one_run_over_all_gives(folder: Path) -> None:
    files = [stored(folder, f"{i}.parquet", [2], only=str(i)) for i in range(6)]
    broken, together = stored(folder, "b.parquet", [2], only="broken"), stored(folder, "all.parquet", [2])
    assert_same(merged(*files, broken), merged(together))


@pytest.mark.parametrize("pairing", get_args(Pairing))
@pytest.mark.parametrize("stratify", [None, 2])
def test_views_added_later_give_what_one_run_with_all_gives(
    folder: Path, pairing: Pairing, stratify: Stratify | None
) -> None:
    few, many = (ScoreSpec(views=v, input_size=16, pairing=pairing, stratify=stratify) for v in (8, 14))
    earlier = stored(folder, "few.parquet", [2, 3], spec=few)
    added = stored(folder, "added.parquet", [2, 3], spec=many, add_to=earlier)
    together = stored(folder, "all.parquet", [2, 3], spec=many)
    ours, theirs = read_scores(added), read_scores(together)
    assert ours.summary.spec_digest == theirs.summary.spec_digest == many.digest
    for row, other in zip(ours.rows, theirs.rows, strict=True):
        assert (row.sample, row.skipped, row.num_views) == (other.sample, other.skipped, other.num_views)
        for name in ("score", "standard_error", "alignment_target"):
            assert floats(getattr(row, name)) == pytest.approx(floats(getattr(other, name)), rel=1e-5, nan_ok=True)
    again = stored(folder, "again.parquet", [2, 3], spec=many.model_copy(update={"views": 20}), add_to=added)
    assert read_scores(again).summary.spec.views == 20


def test_representations_of_different_sizes_are_not_kept() -> None:
    small = encoder_of(Function(lambda views: views.mean(dim=(2, 3))))
    assert len(run(SAMPLES, targets=[small])) == len(SAMPLES)
    with pytest.raises(SpecError, match="outputs of one size"):
        run(SAMPLES, targets=[small], keep_representations=True)


def test_views_added_later_make_only_the_further_ones() -> None:
    seen: list[int] = []

    def counting(seed: int) -> Encoder:
        module = small_module(seed)

        def count(views: Tensor) -> Tensor:
            seen.append(len(views))
            result: Tensor = module(views)
            return result

        return encoder_of(Function(count))

    few, many = SPEC, SPEC.model_copy(update={"views": 9})
    kept = {s.key: s.representations for s in run(SAMPLES, few, keep_representations=True)}
    assert {value.shape for value in kept.values() if value is not None} == {(2, 5, 32)}
    scorer = Scorer([counting(1)], [counting(2)], many, device=CPU, earlier=kept)  # type: ignore[arg-type]
    found = [one for batch in scorer.score(SAMPLES) for one in batch]
    looks = 2 * 4  # at four originals each, whether an encoder is collapsed
    assert sum(seen) == looks + 2 * 4 * len(SAMPLES)
    for one, other in zip(found, run(SAMPLES, many), strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-6)


def test_views_are_added_only_to_the_same_encoders_and_spec(folder: Path) -> None:
    many = SPEC.model_copy(update={"views": 9})
    earlier, without = stored(folder, "few.parquet", [2]), stored(folder, "without.parquet", [2], keep=False)
    with pytest.raises(IncompatibleScores, match="is of other encoders"):
        earlier_of(earlier, many, [3])
    for spec in (many.model_copy(update={"seed": 1}), SPEC):
        with pytest.raises(IncompatibleScores, match="nothing but fewer views"):
            earlier_of(earlier, spec, [2])
    with pytest.raises(IncompatibleScores, match="score with --keep-representations"):
        earlier_of(without, many, [2])


def test_views_are_not_added_to_samples_that_the_earlier_run_had_not(folder: Path) -> None:
    few = stored(folder, "few.parquet", [2], only="1")
    with pytest.raises(IncompatibleScores, match="no representations of the sample"):
        stored(folder, "added.parquet", [2], spec=SPEC.model_copy(update={"views": 9}), add_to=few)


def test_references_of_another_machine_merge_within_rounding(folder: Path) -> None:
    one, two = read_scores(stored(folder, "one.parquet", [2])), read_scores(stored(folder, "two.parquet", [3]))
    plain = merge_scores([one, two])

    def scaled(scale: float) -> StoredScores:
        rows = [
            row if row.distances is None else replace(row, distances=np.asarray(row.distances) * np.float32(scale))
            for row in two.rows
        ]
        return StoredScores(two.name, two.summary, rows)

    rounded = merge_scores([one, scaled(1 + 2e-5)])
    for row, other in zip(plain.rows, rounded.rows, strict=True):
        assert floats(row.score) == pytest.approx(floats(other.score), abs=1e-4, nan_ok=True)
    with pytest.raises(IncompatibleScores, match="beyond rounding"):
        merge_scores([one, scaled(1.01)])
    other_images = [replace(row, sample_key="other") for row in two.rows]
    with pytest.raises(IncompatibleScores, match="saw different images"):
        merge_scores([one, StoredScores(two.name, two.summary, other_images)])


def test_figures_by_role_are_of_the_first_of_two_stages(folder: Path) -> None:
    roles: dict[str, Role] = {s.name: ("candidate", "external")[i % 2] for i, s in enumerate(SAMPLES)}
    plain, refined = (
        score_in_stages(folder, roles, SPEC.model_copy(update={"refine": refine}))
        for refine in (None, Refine(views=20, share=0.5))
    )
    assert refined.summary.roles == plain.summary.roles
    assert refined.summary.contrasts == plain.summary.contrasts
    scores = {row.sample: row.score for row in refined.rows}
    assert [s.score for s in refined.summary.most_memorized] == [
        scores[s.sample] for s in refined.summary.most_memorized
    ]
    assert {row.num_views for row in refined.rows} == {5, 20}


def score_in_stages(folder: Path, roles: dict[str, Role], spec: ScoreSpec, **options: Any) -> LocalScores:  # noqa: ANN401
    with open_dataset(folder / "images") as dataset:
        return score_dataset(
            [small_encoder(1)], [small_encoder(2)], dataset, spec, device=CPU, roles=roles, batch_size=1, **options
        )


@pytest.mark.parametrize("option", ["keep_distances", "keep_representations"])
def test_two_stages_keep_nothing_for_other_runs(folder: Path, option: str) -> None:
    spec = SPEC.model_copy(update={"refine": Refine(views=20, share=0.5)})
    with pytest.raises(SpecError, match="not put together with others"):
        score_in_stages(folder, {SAMPLES[0].name: "candidate"}, spec, **{option: True})


def test_runs_of_different_specs_do_not_merge(folder: Path) -> None:
    one = stored(folder, "one.parquet", [2])
    other = stored(folder, "two.parquet", [2], spec=SPEC.model_copy(update={"seed": 1}))
    with pytest.raises(IncompatibleScores, match="different score specs"):
        merged(one, other)


def test_the_same_reference_twice_does_not_count_twice(folder: Path) -> None:
    with pytest.raises(IncompatibleScores, match="in several of the runs"):
        merged(stored(folder, "one.parquet", [2]), stored(folder, "two.parquet", [2, 3]))


def test_other_samples_and_other_references_do_not_merge(folder: Path) -> None:
    with pytest.raises(IncompatibleScores, match="different references and different samples"):
        merged(stored(folder, "one.parquet", [2], only="1"), stored(folder, "two.parquet", [3], only="2"))


def test_a_file_that_is_no_score_file_is_named(folder: Path) -> None:
    with pytest.raises(IncompatibleScores, match=r"broken\.png is none"):
        read_scores(folder / "images" / "broken.png")


def test_image_of_one_frame_repeated_scores_alike_in_any_batch() -> None:
    data = encoded(scene(16, 16))
    twins = [Sample("a.png", "k", data), *SAMPLES, Sample("b.png", "k", data)]
    found = [one for batch in score([small_encoder(1)], [small_encoder(2)], twins, SPEC, device=CPU) for one in batch]
    assert found[0].score == pytest.approx(found[-1].score, rel=1e-6)
