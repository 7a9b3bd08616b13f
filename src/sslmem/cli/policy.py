"""``sslmem check-policy``: whether policies are usable, before the gate needs them."""

from typing import Annotated

import typer

from sslmem.policy import load_policy


def check_policy(files: Annotated[list[str], typer.Argument(help="YAML files of policies.")]) -> None:
    """Reads policies as the gate would; status 2 and the fault if one is not usable."""
    for name in files:
        policy = load_policy(name)
        print(f"{name}: {len(policy.policy.rules)} rules, {len(policy.policy.waivers)} waivers")
