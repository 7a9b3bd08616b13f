"""What the default policy makes of evidence as it is really gathered."""

import json

import numpy as np
import pytest

from sslmem.gate.case import make_case
from sslmem.gate.decide import Decision, decide
from sslmem.policy import load_policy
from sslmem.report.evidence import gather_evidence
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import summarize
from sslmem.spec import ScoreSpec
from tests.unit.cases import TODAY


def row(name: str, role: str, score: float) -> ScoreRow:
    return ScoreRow(name, role, score, score / 2, 0.01, 1 - score / 2, 1 + score / 2, None, sample_key=name)


def decided(seed: int, *, shift: float = 0.0, share: float = 1.0, n: int = 500, m: int = 1000) -> Decision:
    """Of n candidates and m externals with standard normal scores, a share of the candidates being shifted."""
    generator = np.random.default_rng(seed)
    candidates = generator.normal(size=n) + shift * (np.arange(n) < round(share * n))
    rows = [row(f"c{i}", "candidate", 0.05 * score) for i, score in enumerate(candidates.tolist())]
    rows += [row(f"e{i}", "external", 0.05 * score) for i, score in enumerate(generator.normal(size=m).tolist())]
    summary = summarize(rows, ScoreSpec(input_size=32), target_digests=["sha256:t"], reference_digests=["sha256:r"])
    policy = load_policy("default").policy
    evidence = gather_evidence(rows, summary, confidence=policy.confidence, fdr=policy.fdr)
    case = make_case(json.loads(evidence.model_dump_json()), summary.model_dump(mode="json"))
    return decide(case, policy, TODAY)


@pytest.mark.parametrize("seed", range(5))
def test_encoder_that_memorized_nothing_passes(seed: int) -> None:
    assert decided(seed).headline == "Passed: all 3 rules hold."


@pytest.mark.parametrize("seed", range(5))
def test_encoder_that_memorized_all_candidates_a_little_fails(seed: int) -> None:
    decision = decided(seed, shift=1.0)
    assert decision.verdict == "failed"
    assert decision.rules[0].outcome == "failed"


@pytest.mark.parametrize("seed", range(5))
def test_encoder_that_memorized_some_candidates_a_lot_fails(seed: int) -> None:
    decision = decided(seed, shift=4.0, share=0.1)
    assert decision.verdict == "failed"
    assert "failed" in (decision.rules[1].outcome, decision.rules[2].outcome)


def test_audit_of_too_few_images_is_inconclusive_whatever_it_found() -> None:
    for shift in (0.0, 1.0):
        decision = decided(0, shift=shift, n=200, m=200)
        assert (decision.verdict, decision.status) == ("inconclusive", 3)
        assert "200 candidate samples were scored; the policy asks for 500" in decision.doubts


@pytest.mark.parametrize("seed", range(5))
def test_few_images_memorized_strongly_do_not_pass(seed: int) -> None:
    """15 of 500, where two in a hundred are allowed; at the policy's minimum of externals they can be found."""
    decision = decided(seed, shift=100.0, share=0.03)
    assert decision.verdict != "passed"
    assert decision.rules[2].outcome in ("failed", "undecided")


def test_what_so_few_externals_cannot_find_is_not_called_absent() -> None:
    decision = decided(0, shift=100.0, share=0.03, m=500)
    assert decision.rules[2].outcome == "undecided"
    assert decision.rules[2].high == pytest.approx(19 / 500)
