"""Finds the state dicts in what an untrusted file holds: mappings from names to tensors, and pickled modules."""

from typing import Any

from sslmem.encoders.inert import Inert, Refused, TensorRef

MAX_NAME = 500  # characters
MAX_DEPTH = 6  # of mappings in mappings
MAX_PARTS = 64
MAX_LEFT_OUT = 100_000
MAX_MODULES = 100_000
MAX_MODULE_DEPTH = 100
MAX_FACTS = 64
# Keys of a training checkpoint under which optimizers and the like keep tensors that belong to no encoder.
NO_ENCODERS = frozenset({
    "optimizer", "optimizers", "optimizer_state_dict", "optimizer_states", "opt", "optim", "optimizer_probes", "probes",
    "scheduler", "lr_scheduler", "lr_schedulers", "scaler", "fp16_scaler", "grad_scaler", "amp", "callbacks", "loops",
    "args", "hyper_parameters", "dino_loss", "ibot_loss", "queue", "rng_state",
})  # fmt: skip


def find_entries(root: object) -> tuple[list[str], dict[str, TensorRef], list[str]]:
    """Finds all state dicts: mappings from names to tensors, at most some keys deep, and pickled modules.

    Returns:
        The keys under which they were (an empty one for the whole file), their tensors, and what was left out.
        With several of them an entry is called ``KEY/NAME``.
    """
    parts: dict[str, dict[str, TensorRef]] = {}
    left_out: list[str] = []
    if isinstance(root, Inert):
        parts[""] = module_entries(root)
    elif isinstance(root, dict):
        _collect(root, "", parts, left_out, 0)
    else:
        raise Refused(
            "checkpoint-unreadable",
            f"expected a state dict or a module; found an object of the type {type(root).__name__}",
        )
    parts = {place: entries for place, entries in parts.items() if entries}
    if not parts:
        keys = sorted(one_line(str(key))[:60] for key in list(root)[:12]) if isinstance(root, dict) else []
        found = f"a mapping with the keys {', '.join(keys)}" if keys else "an object without any"
        raise Refused("checkpoint-unreadable", f"expected a state dict, bare or under a key; found {found}")
    if len(parts) == 1:
        ((place, entries),) = parts.items()
        return [place], entries, sorted(left_out)
    named = {f"{place}/{name}": ref for place, entries in parts.items() for name, ref in entries.items()}
    return sorted(parts), named, sorted(left_out)


def _collect(
    mapping: dict[Any, Any], place: str, parts: dict[str, dict[str, TensorRef]], left_out: list[str], depth: int
) -> None:
    if len(left_out) > MAX_LEFT_OUT:
        raise Refused("checkpoint-unsafe", f"more than {MAX_LEFT_OUT} things beside the tensors")
    tensors: dict[str, TensorRef] = {}
    below = len(parts)
    for key, value in mapping.items():
        path = f"{place}/{key}" if place else str(key)
        if isinstance(key, str) and isinstance(value, TensorRef):
            tensors[key] = value
        elif isinstance(key, str) and key not in NO_ENCODERS and depth < MAX_DEPTH and len(parts) < MAX_PARTS:
            if isinstance(value, dict):
                _collect(value, path, parts, left_out, depth + 1)
            elif isinstance(value, Inert) and (entries := module_entries(value)):
                parts[path] = entries
            else:
                left_out.append(one_line(path))
        else:
            left_out.append(one_line(path))
    if tensors and len(parts) == below:
        parts[place] = tensors
    else:  # tensors beside state dicts are counters and queues of the training
        left_out += [one_line(f"{place}/{key}" if place else key) for key in tensors]
        if place:
            left_out.append(one_line(place))


def module_entries(root: Inert) -> dict[str, TensorRef]:
    """The state dict of a pickled module, or of one that TorchScript wrote, whose attributes are its entries."""
    entries: dict[str, TensorRef] = {}
    waiting = [("", root, 0)]
    seen = 0
    while waiting:
        prefix, module, depth = waiting.pop()
        seen += 1
        if seen > MAX_MODULES or depth > MAX_MODULE_DEPTH:
            raise Refused("checkpoint-unsafe", f"a module of more than {MAX_MODULES} parts, or one that holds itself")
        state = module.state
        if not isinstance(state, dict):
            continue
        if isinstance(state.get("_modules"), dict):
            temporary = _names(state.get("_non_persistent_buffers_set"))
            buffers = {k: v for k, v in _mapping(state.get("_buffers")).items() if k not in temporary}
            own = {**_mapping(state.get("_parameters")), **buffers, **state["_modules"]}
        else:
            own = state
        for name, value in own.items():
            if isinstance(name, str) and isinstance(value, TensorRef):
                entries[prefix + name] = value
            elif isinstance(name, str) and isinstance(value, Inert):
                waiting.append((f"{prefix}{name}.", value, depth + 1))
    return entries


def _mapping(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _names(value: object) -> set[str]:
    """The members of a pickled set of names."""
    found = value.arguments[0] if isinstance(value, Inert) and value.arguments else value
    return {name for name in found if isinstance(name, str)} if isinstance(found, (list, set, tuple)) else set()


def find_facts(root: object) -> dict[str, str]:
    """What the file says of itself besides its tensors: numbers and words at its top and in its arguments."""
    facts: dict[str, str] = {}
    for key, value in _mapping(root).items():
        inner = value.state if isinstance(value, Inert) else value
        within = _mapping(inner) if key in ("args", "hyper_parameters", "config", "meta") else {}
        for name, found in ((key, value), *((f"{key}.{name}", found) for name, found in within.items())):
            if isinstance(name, str) and type(found) in (str, int, float, bool) and len(facts) < MAX_FACTS:
                if type(found) is int and found.bit_length() > 64:
                    continue
                facts[one_line(name)[:60]] = one_line(str(found))[:100]
    return facts


def one_line(text: str) -> str:
    """What a message or a name can show of a text from an untrusted file."""
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_NAME])


def check_names(names: list[str]) -> None:
    """Refuses names that would not go through messages, JSON and the database unharmed."""
    for name in names:
        if one_line(name) != name:
            raise Refused("checkpoint-unreadable", f"the name of the entry {name[:80]!a} is too long or does not print")


def find_normalisation(root: object) -> dict[str, list[float]]:
    """The normalisation that a training checkpoint keeps: LightlyTrain's, or among timm's arguments."""
    arguments = _mapping(root).get("args")
    places = (
        _mapping(_mapping(_mapping(root).get("lightly_train")).get("normalize_args")),
        _mapping(arguments.state if isinstance(arguments, Inert) else arguments),
    )
    for place in places:
        found = {name: _three(place.get(name)) for name in ("mean", "std")}
        if found["mean"] and found["std"]:
            return {name: values for name, values in found.items() if values}
    return {}


def _three(value: object) -> list[float] | None:
    if isinstance(value, (list, tuple)) and len(value) == 3 and all(type(part) in (int, float) for part in value):
        return [float(part) for part in value]
    return None
