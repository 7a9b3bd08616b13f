"""The verdict as one HTML page: reasons, histograms, images, limits, and an annex for data-protection review."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sslmem.gate.report import Report
from sslmem.gate.rules import level
from sslmem.report.html import render_report
from sslmem.report.summary import Summary

SHOWN = 50


class _Attack(NamedTuple):
    attack: str
    tested: str
    said: str


def render_html(
    report: Report, summary: Mapping[str, Any], read_image: Callable[[str], bytes] | None, *, title: str
) -> str:
    """Renders a report and the audit's summary as one page that needs nothing else.

    Args:
        report: of the gate.
        summary: of the audit, in its JSON form.
        read_image: returns the encoded bytes of a sample by its path; None where the images are not at hand.
        title: heading of the page.
    """
    more = {
        "decision": report.decision,
        "case": report.case,
        "policy": report.policy,
        "digest": report.digest,
        "day": report.day,
        "version": report.sslmem_version,
        "annex": _annex(report),
        "shown": SHOWN,
    }
    return render_report(
        Summary.model_validate(dict(summary)), read_image, title=title, template="gate.html", more=more
    )


def _annex(report: Report) -> list[_Attack]:
    """Which attacks on anonymity were tested, and which were not."""
    case = report.case
    auc = case.metrics.get("candidate.auc")
    told = "Not computed."
    if auc is not None and auc.interval is not None:
        low, estimate, high = auc.interval
        told = (
            f"By its score a candidate was told from an image that neither encoder has seen in {estimate:.1%} of pairs "
            f"({level(auc.confidence)} confidence: {low:.1%} to {high:.1%}; chance is 50 %)."
        )
    single = (
        f"{len(case.significant)} of {case.samples.get('candidate', 0)} candidates stand out, "
        f"at a false discovery rate of {case.fdr:.3g}."
    )
    no = "Nothing: not tested by this audit."
    return [
        _Attack("membership inference by alignment, over all candidates", "yes", told),
        _Attack("membership inference by alignment, of single images", "yes", single),
        _Attack("membership inference by other signals (gradients, other representations, shadow models)", "no", no),
        _Attack("attribute inference", "no", no),
        _Attack("extraction or regurgitation of training images", "no", no),
        _Attack("model inversion and reconstruction from representations", "no", no),
        _Attack("queries without access to the weights", "no", no),
    ]
