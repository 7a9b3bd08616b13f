"""``sslmem storage`` and ``sslmem retention``: what a service stores, and what it deletes next."""

from sslmem.cli.connection import Token, Url, connect
from sslmem.cli.tables import print_resources


def storage(url: Url = None, token: Token = None) -> None:
    """Shows how much the service stores: files by kind, tables, and the room that is left."""
    with connect(url, token) as client:
        found = client.get("/v1/storage")
    files = [
        {"files": row["kind"], "number": row["num_files"], "size": _size(row["num_bytes"])} for row in found["files"]
    ]
    print_resources(files, ("files", "number", "size"))
    tables = [
        {"table": row["table"], "rows": f"~{row['num_rows_estimated']}", "size": _size(row["num_bytes"])}
        for row in found["tables"]
    ]
    print_resources(tables, ("table", "rows", "size"))
    print(f"free: {_size(found['free_bytes'])}")


def retention(url: Url = None, token: Token = None) -> None:
    """Shows for how long the service keeps what, and what it deletes next."""
    with connect(url, token) as client:
        found = client.get("/v1/retention")
    for what, name in (
        ("scores of audits that have ended", "keep_scores_days"),
        ("audits that have ended", "keep_audits_days"),
        ("encoders and datasets that no audit uses", "keep_unused_days"),
        ("files that nothing names", "keep_unnamed_files_days"),
    ):
        print(f"{what}: " + ("for ever" if found[name] is None else f"{found[name]:g} days"))
    print(f"audits that are kept whatever the policies say: {found['num_audits_kept']}")
    for due in found["items"]:
        print(due["due_at"], due["kind"], due["id"], due["name"])


def _size(num_bytes: int) -> str:
    """Bytes as people read them."""
    size, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
