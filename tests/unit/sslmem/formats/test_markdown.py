"""The job summary says why, and stays text whatever the names in it are."""

from sslmem.formats.markdown import SHOWN, render_markdown, render_not_evaluated
from sslmem.gate.case import SignificantSample
from tests.unit.cases import FAILING, a_case, a_report, a_rule, a_waiver


def test_summary_begins_with_the_verdict_and_the_reason() -> None:
    first, _, second = render_markdown(a_report(a_case(FAILING))).splitlines()[:3]
    assert first == "## ❌ Memorization gate: failed"
    assert second.startswith("Failed: separation: candidate.auc is 0.72")


def test_each_rule_has_a_row() -> None:
    rules = [a_rule(), a_rule(id="other", metric="candidate.excess")]
    lines = render_markdown(a_report(rules=rules)).splitlines()
    assert "| separation | ✅ passed | candidate.auc | \\<= 0.6 | 0.52 \\(0.5 to 0.54\\) |" in lines
    assert "| other | ❔ unknown | candidate.excess | \\<= 0.6 | - |" in lines


def test_doubts_warnings_limits_and_waivers_are_listed() -> None:
    waivers = [a_waiver(), a_waiver(days=-1)]
    text = render_markdown(a_report(a_case(FAILING), waivers=waivers, minimum={"references": 2}))
    assert "* Doubt: number of references: 1" in text
    assert "* Warning: the waiver of separation by Ada does not count: it expired" in text
    assert "* Limit: It rests on one reference." in text
    assert "* Waived: separation by Ada until 2026-12-24: Known since March" in text


def test_digests_say_what_it_rests_on() -> None:
    report = a_report()
    text = render_markdown(report)
    assert all(digest in text for digest in (report.digest, report.policy.digest, report.case.spec_digest))


def test_memorized_images_are_listed_most_certain_first() -> None:
    found = [SignificantSample(sample=f"{i}.png", score=0.1, p_value=0.01, q_value=i / 100) for i in range(30)]
    text = render_markdown(a_report(a_case(significant=found[::-1])))
    rows = [line for line in text.splitlines() if ".png" in line]
    assert "### 30 candidates memorized at a false discovery rate of 0.05" in text
    assert [row.split()[1] for row in rows] == [f"{i}.png" for i in range(SHOWN)]


def test_names_cannot_become_markup() -> None:
    name = "a|b\n# [x](http://evil) <img src=x> `c` @everyone *d*.png"
    found = [SignificantSample(sample=name, score=0.1, p_value=0.01, q_value=0.02)]
    (row,) = (line for line in render_markdown(a_report(a_case(significant=found))).splitlines() if "evil" in line)
    assert row.startswith(r"| a\|b \# \[x\]\(http://evil\) \<img src=x\> \`c\` \@everyone \*d\*.png | ")


def test_no_verdict_is_said_to_be_none() -> None:
    text = render_not_evaluated("no answer from <http://x>")
    assert text.startswith("## ❌ Memorization gate: not evaluated")
    assert r"no answer from \<http://x\>" in text
