"""The one table of legal moves between states; triggers in the database hold every writer to it.

docs/states.md draws it. A state may always stay as it is.
"""

from collections.abc import Mapping

Moves = Mapping[str, tuple[str, ...]]

AUDIT_MOVES: Moves = {
    "queued": ("running", "paused", "failed", "cancelled"),
    "running": ("finalising", "paused", "failed", "cancelled"),
    "paused": ("queued", "running", "finalising", "failed", "cancelled"),  # running chunks may be its last ones
    "finalising": ("succeeded", "failed", "cancelled"),
    "succeeded": (),
    "failed": ("queued", "finalising"),  # tried again: what is missing is computed, or only summarised
    "cancelled": ("queued", "finalising"),
}
CHUNK_MOVES: Moves = {
    "queued": ("running", "cancelled"),
    "running": ("done", "queued", "failed", "cancelled"),
    "done": (),
    "failed": ("queued",),
    "cancelled": ("queued",),
}
INTAKE_MOVES: Moves = {
    "received": ("checking", "refused"),  # nobody checked it in time
    "checking": ("ready", "refused", "received"),
    "ready": (),
    "refused": ("received",),  # registered again after a failure that was not its own
}
DELIVERY_MOVES: Moves = {
    "waiting": ("sending", "failed"),
    "sending": ("delivered", "waiting", "failed"),
    "delivered": ("waiting",),  # delivered again because somebody asked
    "failed": ("waiting",),
}
TABLES: Mapping[str, Moves] = {
    "audits": AUDIT_MOVES,
    "chunks": CHUNK_MOVES,
    "encoders": INTAKE_MOVES,
    "datasets": INTAKE_MOVES,
    "webhook_deliveries": DELIVERY_MOVES,
}
ENDED = ("succeeded", "failed", "cancelled")  # an audit that does not move unless somebody asks for it


def pairs(moves: Moves) -> list[str]:
    """The moves as ``before>after``, as the triggers have them."""
    return [f"{before}>{after}" for before, afters in moves.items() for after in afters]
