"""What must hold before figures may decide a release; a check that fails, or cannot be made, leaves it undecided."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from sslmem.report.columns import ScoreColumns, Scores
from sslmem.report.effects import welch_p_value
from sslmem.report.summary import Summary
from sslmem.report.twins import twins_of
from sslmem.roles import ROLES

# Below these the intervals fall clearly short of the coverage they state (docs/statistics.md).
MIN_SAMPLES = {"candidate": 20, "external": 50}
MAX_SKIPPED = 0.05
MAX_TWINS = 0.05  # of the candidates; their names are in the detail
# Two encoders of one recipe differ by a few percent on images that neither was trained on (docs/statistics.md).
MAX_ALIGNMENT_RATIO = 1.25
MIN_RETRIEVAL_RATIO = 0.6
MIN_ALIGNMENT = 1e-3  # of unit vectors; what rounding alone makes is 1e-4
MAX_UNIFORMITY = -0.01  # 0: all images in one point
MIN_RETRIEVAL_OVER_CHANCE = 3.0
CONTRADICTION = 0.001  # so rare by chance that something else must be the matter
MIN_SPREAD = 0.005  # of encoders trained apart: a tenth in the demo; of a copy: rounding alone
FOR_SPREAD = 20
NUM_SHOWN = 3

Status = Literal["ok", "failed", "unknown"]


class Check(BaseModel):
    """One validity check.

    Attributes:
        id: its name, stable.
        status: ``unknown`` where what it needs was not given.
        detail: what was expected, what was found.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    status: Status
    detail: str


class EncoderFigures(BaseModel):
    """How good one encoder is on external images; see :mod:`sslmem.report.quality`.

    Attributes:
        alignment: mean squared distance between two views of an image, unit vectors.
        uniformity: log of the mean of exp(-2 squared distance) over pairs of different images; 0 is collapse.
        retrieval: share of views whose nearest neighbour among other views is one of the same image.
        chance: what ``retrieval`` would be by chance.
    """

    model_config = ConfigDict(frozen=True)

    alignment: float
    uniformity: float
    retrieval: float
    chance: float


class EncoderQuality(BaseModel):
    """Figures of all encoders of an audit, measured on the same external images."""

    model_config = ConfigDict(frozen=True)

    num_samples: int
    targets: tuple[EncoderFigures, ...]
    references: tuple[EncoderFigures, ...]


def run_checks(
    rows: Scores,
    summary: Summary,
    quality: EncoderQuality | None,
    read_image: Callable[[str], bytes] | None,
    suspicions: Sequence[str] = (),
) -> list[Check]:
    """Makes all checks, always the same ones in the same order.

    Args:
        rows: one per sample.
        summary: of these rows.
        quality: of the encoders, where it was measured.
        read_image: returns a sample's encoded bytes by its path.
        suspicions: what the probe of the encoders found, as sentences.
    """
    rows = ScoreColumns.of(rows)
    return [
        _enough_samples(rows),
        _few_skipped(rows),
        _roles_apart(rows),
        _few_twins(rows, read_image),
        _reference_matches(rows, quality),
        _not_collapsed(rows, summary, quality),
        _encoders_plausible(rows, summary, quality, suspicions),
    ]


def check_images(rows: Scores, read_image: Callable[[str], bytes] | None) -> list[Check]:
    """The checks of images against each other, which need no scores."""
    rows = ScoreColumns.of(rows)
    return [_roles_apart(rows), _few_twins(rows, read_image)]


def _enough_samples(rows: ScoreColumns) -> Check:
    # An image that is there many times counts once.
    images = np.where(rows.sample_key.astype(bool), rows.sample_key, rows.sample)
    ours = {role: (rows.role == role) & rows.has_score() for role in MIN_SAMPLES}
    found = {role: len(set(images[mask].tolist())) for role, mask in ours.items()}
    detail = "; ".join(f"{role}: expected at least {least}, found {found[role]}" for role, least in MIN_SAMPLES.items())
    enough = all(found[role] >= least for role, least in MIN_SAMPLES.items())
    return Check(id="enough-samples", status="ok" if enough else "failed", detail=f"different images: {detail}")


def _few_skipped(rows: ScoreColumns) -> Check:
    parts, worst = [], 0.0
    for role in ROLES:
        ours = rows.role == role
        num, skipped = int(ours.sum()), int((ours & ~rows.has_score()).sum())
        if skipped:
            parts.append(f"{role}: {skipped} of {num}")
            worst = max(worst, skipped / num)
    detail = f"expected at most {MAX_SKIPPED:.0%} of a role without a score; found {'; '.join(parts) or 'none'}"
    return Check(id="skipped-samples", status="failed" if worst > MAX_SKIPPED else "ok", detail=detail)


def _roles_apart(rows: ScoreColumns) -> Check:
    expected = "expected each image in one role"
    known = rows.take((rows.sample_key != None) & (rows.role != None) & rows.has_score())  # noqa: E711  elementwise
    if not len(known):
        return Check(id="roles-apart", status="unknown", detail=f"{expected}; the rows carry no sample keys or roles")
    keys, first, twice = known.sample_key.tolist(), dict[str, str](), dict[str, None]()
    for key, role in zip(keys, known.role.tolist(), strict=True):
        if first.setdefault(key, role) != role:
            twice[key] = None
    shown = "; ".join(" = ".join(known.sample[known.sample_key == key][:2]) for key in list(twice)[:NUM_SHOWN])
    detail = f"{expected}; found {len(twice)} in several" + (f", first {shown}" if twice else "")
    return Check(id="roles-apart", status="failed" if twice else "ok", detail=detail)


def _few_twins(rows: ScoreColumns, read_image: Callable[[str], bytes] | None) -> Check:
    expected = f"expected at most {MAX_TWINS:.0%} of the candidates to have a twin, which hides or mimics training"
    scored = rows.take(rows.has_score())
    candidates = scored.take(scored.role == "candidate")
    if (candidates.sample_key == None).any():  # noqa: E711  elementwise
        return Check(id="few-twins", status="unknown", detail=f"{expected}; the rows carry no sample keys")
    times = Counter(scored.sample_key.tolist())
    names, keys = candidates.sample.tolist(), candidates.sample_key.tolist()
    found = [name for name, key in zip(names, keys, strict=True) if times[key] > 1]
    looked = "equal files only"
    if read_image is not None:
        others = scored.sample[(scored.role != "candidate") & (scored.role != None)].tolist()  # noqa: E711  elementwise
        near = twins_of(names, others, read_image)
        found = sorted({*found, *(name for name, _ in near)})
        looked = "equal files and near duplicates"
    shown = f", first {', '.join(found[:NUM_SHOWN])}" if found else ""
    detail = f"{expected}; {looked}: found {len(found)} of {len(candidates)}{shown}"
    return Check(id="few-twins", status="failed" if len(found) > MAX_TWINS * len(candidates) else "ok", detail=detail)


def _alignments(rows: ScoreColumns) -> tuple[float, float] | None:
    """Mean alignment distances of targets and references on external images."""
    external = rows.take(rows.role == "external")
    known = external.take(~np.isnan(external.alignment_target) & ~np.isnan(external.alignment_reference))
    if not len(known):
        return None
    return float(known.alignment_target.mean()), float(known.alignment_reference.mean())


def _reference_matches(rows: ScoreColumns, quality: EncoderQuality | None) -> Check:
    expected = f"expected target and reference to be alike on external images: alignment within {MAX_ALIGNMENT_RATIO}x"
    alignments = _alignments(rows)
    if alignments is None:
        return Check(id="reference-matches", status="unknown", detail=f"{expected}; there are no external images")
    target, reference = alignments
    low, high = sorted(alignments)
    alike = high <= MAX_ALIGNMENT_RATIO * low or high == 0
    detail = f"{expected}; found {target:.4f} and {reference:.4f}"
    if quality is None:
        return Check(
            id="reference-matches",
            status="ok" if alike else "failed",
            detail=f"{detail}; nearest neighbours not measured",
        )
    f, g = (float(np.mean([one.retrieval for one in part])) for part in (quality.targets, quality.references))
    alike = alike and min(f, g) >= MIN_RETRIEVAL_RATIO * max(f, g)
    detail += (
        f"; the nearest neighbour of a view being of the same image about as often, the rarer at least "
        f"{MIN_RETRIEVAL_RATIO} times; found {f:.3f} and {g:.3f}"
    )
    return Check(id="reference-matches", status="ok" if alike else "failed", detail=detail)


def _not_collapsed(rows: ScoreColumns, summary: Summary, quality: EncoderQuality | None) -> Check:
    name = "not-collapsed"
    expected = "expected encoders that tell images and views apart"
    alignments, spec = _alignments(rows), summary.spec
    if alignments is None:
        return Check(id=name, status="unknown", detail=f"{expected}; there are no external images")
    scaled = spec.normalize or spec.distance in ("cosine", "angular")
    lowest = min(alignments)
    if lowest <= (MIN_ALIGNMENT if scaled else 0.0):
        return Check(id=name, status="failed", detail=f"{expected}; the mean alignment distance is {lowest:.2g}")
    if quality is None and not scaled:
        return Check(id=name, status="unknown", detail=f"{expected}; distances have no scale without unit vectors")
    detail = f"{expected}; the mean alignment distances are {alignments[0]:.4f} and {alignments[1]:.4f}"
    if quality is None:
        return Check(id=name, status="ok", detail=detail)
    worst = max(one.uniformity for one in (*quality.targets, *quality.references))
    detail += f", uniformity at most {worst:.4f} (expected below {MAX_UNIFORMITY})"
    return Check(id=name, status="ok" if worst < MAX_UNIFORMITY else "failed", detail=detail)


def _encoders_plausible(
    rows: ScoreColumns, summary: Summary, quality: EncoderQuality | None, suspicions: Sequence[str]
) -> Check:
    faults = [*suspicions, *_digest_faults(summary)]
    spread = _spread_of_scores(rows)
    if spread is not None and spread < MIN_SPREAD:
        faults.append(
            f"target and reference align every image alike (scores spread by {spread:.1g} of the alignment; by more "
            f"than {MIN_SPREAD:g} if trained apart): one is made of the other, or both are the same"
        )
    p = _p_value_of_contradiction(rows)
    if p is not None and p < CONTRADICTION:
        faults.append(
            f"candidates score below external images (p = {p:.1g}), which training on them does not explain: "
            "roles exchanged, or an encoder made to look clean"
        )
    for kind, figures in (("target", quality.targets), ("reference", quality.references)) if quality else ():
        faults += [
            f"a {kind} finds the same image among others no better than chance ({one.retrieval:.3f}): untrained?"
            for one in figures
            if one.retrieval < min(1.0, MIN_RETRIEVAL_OVER_CHANCE * one.chance)
        ]
    detail = "expected different, trained encoders whose scores agree with the roles; found "
    return Check(
        id="encoders-plausible",
        status="failed" if faults else "ok",
        detail=detail + ("; ".join(faults) or "nothing against it"),
    )


def _spread_of_scores(rows: ScoreColumns) -> float | None:
    """Standard deviation of the scores, as a part of the reference's mean alignment distance."""
    scores = rows.score[rows.has_score()]
    alignments = _alignments(rows)
    if len(scores) < FOR_SPREAD or alignments is None or alignments[1] <= 0:
        return None
    return float(np.std(scores, ddof=1)) / alignments[1]


def _digest_faults(summary: Summary) -> list[str]:
    targets, references = summary.target_digests, summary.reference_digests
    faults = []
    if set(targets) & set(references):
        faults.append("a target that is also a reference")
    if len(set(targets)) < len(targets) or len(set(references)) < len(references):
        faults.append("the same encoder given twice")
    return faults


def _p_value_of_contradiction(rows: ScoreColumns) -> float | None:
    """One-sided p-value of candidates scoring below externals (Welch); None where it cannot be told."""
    ours, null = (rows.score[(rows.role == role) & rows.has_score()] for role in ("candidate", "external"))
    if len(ours) < 2 or len(null) < 2:
        return None
    return welch_p_value(null, ours)
