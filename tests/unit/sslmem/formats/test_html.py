"""The page for review: verdict, reasons, limits and the annex, in one file that needs nothing else."""

from typing import Any

import numpy as np
import pytest

from sslmem.formats.html import render_html
from sslmem.gate.case import make_case
from sslmem.report.evidence import gather_evidence
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import Summary, summarize
from sslmem.spec import ScoreSpec
from tests.unit.builders import encoded, noise, row
from tests.unit.cases import a_policy_file, a_report, a_rule, a_waiver
from tests.unit.sslmem.report.test_html import HOSTILE, Page

PNG = encoded(noise(8, 8))


def found(name: str = "0.png") -> tuple[list[ScoreRow], Summary]:
    """Sixty candidates far above sixty externals."""
    scores = np.random.default_rng(0).normal(0, 0.01, (2, 60))
    rows = [row(name if i == 0 else f"c{i}.png", "candidate", 1 + s) for i, s in enumerate(scores[0])]
    rows += [row(f"e{i}.png", "external", s) for i, s in enumerate(scores[1])]
    spec = ScoreSpec(input_size=32)
    return rows, summarize(rows, spec, target_digests=["sha256:t"], reference_digests=["sha256:r"])


def page(name: str = "0.png", *, images: bool = True, **policy: object) -> tuple[Page, str]:
    rows, summary = found(name)
    content = summary.model_dump(mode="json")
    case = make_case(gather_evidence(rows, summary).model_dump(mode="json"), content)
    text = render_html(a_report(case, **policy), content, (lambda _: PNG) if images else None, title="Gate of f")
    return Page(text), text


def test_page_needs_nothing_else() -> None:
    shown, text = page()
    assert {image["src"].partition(",")[0] for image in shown.all("img") if image["src"]} == {"data:image/png;base64"}
    assert shown.all("script") == shown.all("link") == []
    assert "http" not in text


@pytest.mark.parametrize(
    ("policy", "verdict", "words"),
    [
        ({"checks": [], "rules": [a_rule(value=1.0)]}, "passed", "Passed. the rule holds."),
        ({"checks": []}, "failed", "Failed. separation: candidate.auc is 1 "),
        ({"minimum": {"references": 2}}, "inconclusive", "Inconclusive. the evidence does not bear a verdict"),
    ],
)
def test_page_begins_with_the_verdict_and_its_reason(policy: dict[str, Any], verdict: str, words: str) -> None:
    shown, _ = page(**policy)
    assert [part["class"] for part in shown.all("p") if "verdict" in (part.get("class") or "")] == [
        f"verdict {verdict}"
    ]
    assert words in shown.text


def test_page_shows_histograms_rules_waivers_doubts_and_limits() -> None:
    shown, _ = page(checks=["no-such-check"], waivers=[a_waiver(days=-1)])
    assert len(shown.all("svg")) == 3
    for words in (
        "at most 0.6 is required",
        "no-such-check: the evidence has no such check",
        "does not count: it expired",
        "Limits of what was tested",
        "It rests on one reference",
        "60 candidates memorized one by one, at a false discovery rate of 0.05",
    ):
        assert words in shown.text


def test_waiver_is_shown_with_who_answers_for_it() -> None:
    shown, _ = page(checks=[], waivers=[a_waiver()])
    assert "Waived by Ada until 2026-12-24: Known since March" in shown.text


def test_annex_says_which_attacks_were_tested_and_which_were_not() -> None:
    shown, _ = page()
    assert "Opinion 28/2024" in shown.text
    assert "a candidate was told from an image that neither encoder has seen in 100.0% of pairs" in shown.text
    assert "60 of 60 candidates stand out" in shown.text
    for attack in ("attribute inference", "extraction or regurgitation", "model inversion", "queries without access"):
        assert attack in shown.text
    assert shown.text.count("not tested by this audit") == 5


def test_page_without_images_names_them() -> None:
    shown, _ = page(images=False)
    assert shown.all("img") == []
    assert "c1.png" in shown.text


def test_names_stay_text() -> None:
    shown, text = page(HOSTILE)
    assert shown.all("script") == []
    assert "<script" not in text


def test_policy_is_named_with_its_digest() -> None:
    shown, _ = page()
    assert a_policy_file().digest in shown.text
