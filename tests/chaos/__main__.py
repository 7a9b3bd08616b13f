"""``python -m tests.chaos``: a campaign of faults, printed fault by fault; see docs/reliability.md."""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.chaos.campaign import Campaign
from tests.chaos.page import line_of, write_page
from tests.chaos.plan import plan
from tests.chaos.rig import Rig
from tests.support import materials

PER_ROLE = 60
CHECK_EVERY = 10  # rounds


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Runs a campaign; status 1 if a fault cost something."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="of an earlier campaign, to do the same again")
    parser.add_argument("--write", action="store_true", help="writes the table into docs/reliability.md")
    parser.add_argument("--keep", action="store_true", help="keeps the folder with data and logs")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    say(f"seed {seed}: the same faults again with python -m tests.chaos --faults {options.faults} --seed {seed}")
    for name in [name for name in os.environ if name.startswith("SSLMEM_")]:
        del os.environ[name]
    folder = Path(tempfile.mkdtemp(prefix="sslmem-chaos-"))
    try:
        return run(folder, options.faults, seed, write=options.write)
    finally:
        if options.keep:
            say(f"data and logs are in {folder}")
        else:
            shutil.rmtree(folder)


def run(folder: Path, count: int, seed: int, *, write: bool) -> int:
    """Runs a campaign in a folder."""
    failures, began = 0, time.monotonic()
    material = materials.make_images(folder, per_role=PER_ROLE)
    encoders = [materials.make_encoder(folder, seed=number) for number in (1, 2)]
    with Rig(folder / "home") as rig:
        campaign = Campaign(rig, material, encoders[0], encoders[1], folder)
        say(f"an undisturbed audit takes {campaign.undisturbed:.1f} s")
        for round_ in plan(seed, count):
            try:
                for hit in campaign.run(round_):
                    say(line_of(hit))
                if round_.number % CHECK_EVERY == 0:
                    campaign.all_workers_work()
            except AssertionError:
                failures += 1
                say(f"round {round_.number} FAILED: {'; '.join(map(str, round_.faults))}\n{traceback.format_exc()}")
        campaign.all_workers_work()
        mistakes, (asked, made) = campaign.mistakes(), campaign.num_audits()
    for line in mistakes:
        say(f"in a log: {line}")
    minutes = (time.monotonic() - began) / 60
    struck = [hit for hit in campaign.hits if hit.struck]
    impossible = sum(hit.impossible is not None for hit in campaign.hits)
    say(
        f"{len(struck)} faults in {minutes:.1f} minutes, {len(campaign.hits) - len(struck)} not done "
        f"({impossible} not possible here); {asked} audits requested, {made} made; {failures} rounds failed"
    )
    if failures or mistakes or asked != made:
        return 1
    if write:
        write_page(campaign, seed, count, minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
