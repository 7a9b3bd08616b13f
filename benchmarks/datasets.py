"""``python -m benchmarks.datasets``: time and memory of a manifest of a million images, by kind of archive.

Each step runs in a process of its own, so that its peak of resident memory is its own. The images are tiny: what is
measured is the work for a member, not for a pixel.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from sslmem.datasets.source import open_dataset
from sslmem.roles import ROLES, match_roles, read_roles

KINDS = ("zip", "tar")
STEPS = ("import", "list", "roles", "read")


def make(kind: str, path: Path, count: int) -> None:
    """Writes an archive of so many tiny members, named as those of ImageNet are."""
    names = (f"train/n{i % 1000:08}/n{i % 1000:08}_{i:08}.JPEG" for i in range(count))
    data = b"P6\n1 1\n255\nabc"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, data)
        return
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            tar.members.clear()  # type: ignore[attr-defined]


def step(name: str, path: Path) -> None:
    """Makes one step and prints its seconds, and the peak of memory in MiB."""
    start = time.perf_counter()
    if name != "import":
        with open_dataset(path) as dataset:
            if name == "read":
                start = time.perf_counter()
                for sample in dataset.samples:
                    dataset.read(sample.path)
            if name == "roles":
                lines = (f"{s.path},{ROLES[i % 4]}\n" for i, s in enumerate(dataset.samples))
                text = "sample,role\n" + "".join(lines)
                start = time.perf_counter()
                match_roles(read_roles(text), dataset)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--step", choices=("make", *STEPS))
    parser.add_argument("--path", type=Path)
    arguments = parser.parse_args()
    if arguments.step:
        if arguments.step == "make":  # with its own memory, which a child would inherit as its peak
            make(arguments.path.name, arguments.path, arguments.members)
            print(json.dumps([0, 0]))
        else:
            step(arguments.step, arguments.path)
        return
    print(f"| {arguments.members:,} members | seconds | peak MiB |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = Path(folder) / kind
            for name in ("make", *STEPS):
                command = [sys.executable, "-m", "benchmarks.datasets", "--step", name, "--path", str(path)]
                command += ["--members", str(arguments.members)]
                seconds, peak = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603
                if name == "make":
                    continue
                print(f"| {kind}: {name} | {seconds:.1f} | {peak:.0f} |", flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
