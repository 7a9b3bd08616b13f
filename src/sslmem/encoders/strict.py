"""Loads a module strictly: every entry is matched, or dropped for a reason that is known, or an error."""

import re
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from sslmem.encoders.encoder import LoadReport
from sslmem.encoders.layouts import Entries
from sslmem.encoders.producers import Producer, reason_to_drop
from sslmem.encoders.recognise import SHOWN, Match, is_counter
from sslmem.errors import StateDictMismatch

# Heads that come after the representation; an entry whose name holds one of these parts is dropped and reported.
HEADS = frozenset({
    "fc", "head", "heads", "classifier", "projector", "projection_head", "projection", "predictor",
    "prediction_head", "projector_head", "prototypes", "mlp_head", "contrastive_head", "online_classifier",
    "linear_classifier",
})  # fmt: skip


def load_strictly(match: Match, entries: Entries) -> LoadReport:
    """Loads the weights into the module that was found, and says what became of every entry.

    Raises:
        StateDictMismatch: an entry is missing, left over, of another shape or no floating-point number.
    """
    module, found, prefix = match.module, match.found, match.prefix
    wanted = module.state_dict()
    loaded = _fitting(wanted, found.entries, entries, match)
    used = {prefix + source for name in loaded for source in found.sources[name]}
    reasons = {
        name: found.unused.get(name[len(prefix) :] if name.startswith(prefix) else "")
        or _reason(match.producer, name, match.others)
        for name in entries
        if name not in used
    }
    unexpected = [name for name, reason in reasons.items() if reason is None]
    if unexpected:
        raise StateDictMismatch(
            f"{len(unexpected)} entries belong neither to {match.architecture} nor to a known head: "
            f"{', '.join(unexpected[:SHOWN])}; expected only the encoder and heads named {', '.join(sorted(HEADS))}"
        )
    absent = [name for name in wanted if name not in loaded]
    module.load_state_dict({**loaded, **{name: wanted[name] for name in absent}}, strict=True)
    return LoadReport(
        architecture=match.architecture,
        inferred=match.notes,
        prefix=prefix,
        matched=len(loaded),
        loaded={name: [prefix + source for source in found.sources[name]] for name in loaded},
        dropped=list(reasons),
        absent_counters=len(absent),
        producer=match.producer.name,
        branch=match.branch,
        other_branches=sorted(match.others.values()),
        renamed=sum(found.sources[name] != (name,) for name in loaded),
        dropped_because=dict(Counter(reason for reason in reasons.values() if reason)),
        method=match.producer.method,
    )


def _fitting(wanted: Entries, found: Entries, entries: Entries, match: Match) -> dict[str, Tensor]:
    """The entries that the module wants, all there and of the right kind and shape."""
    architecture, prefix = match.architecture, match.prefix
    if missing := [name for name in wanted if name not in found and not is_counter(name)]:
        raise StateDictMismatch(
            f"{len(missing)} of {len(wanted)} entries of {architecture} are missing, first "
            f"{', '.join(missing[:SHOWN])}; the file's entries begin with {', '.join(list(entries)[:SHOWN])}"
        )
    loaded = {name: found[name] for name in wanted if name in found}
    integers = [
        k for k, v in loaded.items() if not (is_counter(k) or v.is_floating_point() or v.dtype == wanted[k].dtype)
    ]
    if integers:
        name = integers[0]
        raise StateDictMismatch(
            f"{len(integers)} entries hold no floating-point numbers: {prefix}{name} is {loaded[name].dtype}, "
            f"expected {wanted[name].dtype}; quantised encoders are not read"
        )
    wrong = [name for name, tensor in loaded.items() if tensor.shape != wanted[name].shape]
    if wrong:
        name = wrong[0]
        raise StateDictMismatch(
            f"{len(wrong)} entries have another shape than in {architecture}: {prefix}{name} is "
            f"{list(loaded[name].shape)}, expected {list(wanted[name].shape)}; name another architecture or input size"
        )
    return loaded


def _reason(producer: Producer, name: str, others: Mapping[str, str]) -> str | None:
    """Why an entry that is not loaded may be left out; None if it may not."""
    if said := reason_to_drop(producer, name):
        return said
    if HEADS.intersection(re.split(r"[./]", name)):
        return "a head"
    within = [prefix for prefix in others if prefix and name.startswith(prefix)]
    return f"another encoder: {others[max(within, key=len)]}" if within else None
