"""What a campaign found: lines for the terminal, and the table in docs/reliability.md."""

import datetime as dt
import os
import platform
import statistics

from tests.chaos.campaign import Campaign, Hit
from tests.chaos.plan import KINDS
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- campaign: begin -->", "<!-- campaign: end -->"


def line_of(hit: Hit) -> str:
    """A fault and what became of it."""
    if hit.impossible is not None:
        became = f"NOT POSSIBLE HERE: {hit.impossible}"
    elif not hit.struck:
        became = "not done: no audit was running at its moment"
    else:
        became = f"recovered after {hit.recovery:.1f} s, audit {hit.delay:.1f} s late"
    return f"#{hit.fault.number:03} round {hit.round.number:3}  {hit.fault!s:75} {became}"


def table_of(campaign: Campaign, seed: int, count: int, minutes: float) -> str:
    """The recorded campaign as Markdown."""
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    all_struck = [hit for hit in campaign.hits if hit.struck]
    found = (
        f'`make chaos ARGS="--faults {count} --seed {seed} --write"`, {dt.datetime.now(dt.UTC):%Y-%m-%d}, {machine}: '
        f"{len(all_struck)} faults struck running audits in {minutes:.0f} minutes, "
        f"{len(campaign.hits) - len(all_struck)} did not. All audits succeeded by themselves, with the scores and "
        f"summary of an undisturbed run, bit for bit. An undisturbed audit took {campaign.undisturbed:.1f} s."
    )
    head = ("fault", "struck", "recovered", "recovery, median (s)", "worst (s)", "audit late, median (s)", "worst (s)")
    lines = [found, "", f"| {' | '.join(head)} | not done |", "|---" * (len(head) + 1) + "|"]
    for kind in KINDS:
        of_kind = [hit for hit in campaign.hits if hit.fault.kind == kind]
        struck = [hit for hit in of_kind if hit.struck]
        times = " | ".join(_median_and_worst([getattr(hit, name) for hit in struck]) for name in ("recovery", "delay"))
        lines.append(f"| {kind} | {len(struck)} | {len(struck)} | {times} | {len(of_kind) - len(struck)} |")
    return "\n".join(lines)


def _median_and_worst(times: list[float]) -> str:
    return f"{statistics.median(times):.1f} | {max(times):.1f}" if times else " | "


def write_page(campaign: Campaign, seed: int, count: int, minutes: float) -> None:
    """Replaces the part of the page that holds the table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    table = table_of(campaign, seed, count, minutes)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")
