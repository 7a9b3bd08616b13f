"""Checkpoints that would run code, exhaust the machine or confuse the reader: nothing runs, everything ends."""

import copyreg
import io
import json
import pickle
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from sslmem.encoders import inert, reader
from sslmem.encoders.convert import CheckpointContents, convert_checkpoint
from sslmem.errors import CheckpointError, UnreadableCheckpoint, UnsafeCheckpoint
from tests.unit.sslmem.encoders import pickles as p

EXTENSION = 240
SECONDS = 20  # what any of these files may take at most; most take a tenth of one second

# Reads many files in one process, limited as for one of them.
DRIVER = """
import json, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).resolve().parents[2]))
from sslmem.encoders import reader
reader.limit(100_000)
for name in sys.argv[2:]:
    print(json.dumps(reader.answer(Path(name), Path(name + ".out"))), flush=True)
"""


def read(path: Path) -> CheckpointContents | CheckpointError:
    """Converts a file; what comes out of it, if anything, is a proper safetensors file."""
    destination = path.with_name("out")
    started = time.monotonic()
    try:
        found: CheckpointContents | CheckpointError = convert_checkpoint(path, destination)
        load_file(destination)
    except CheckpointError as error:
        found = error
    assert time.monotonic() - started < SECONDS
    if isinstance(found, CheckpointError):
        assert found.detail.isprintable()
        assert not destination.exists()
    return found


def read_all(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The answers of the reader to many files; none may end the process."""
    command = [sys.executable, "-I", "-c", DRIVER, reader.__file__, *map(str, paths)]
    run = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (run.returncode, run.stderr) == (0, b"")
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) == len(paths)
    for path, answer in zip(paths, answers, strict=True):
        if "code" not in answer and answer["container"] != "safetensors":
            load_file(f"{path}.out")
    return answers


# Code


def programs(canary: Path) -> dict[str, bytes]:
    """Programs that create the canary when a real unpickler runs them."""
    system, shell = p.named("os", "system"), p.text(f"touch {canary}")
    statement = p.text(f"__import__('pathlib').Path({str(canary)!r}).touch()")
    mapping = p.named("builtins", "map") + p.tuple_of(system, p.tuple_of(shell))
    namespace = p.call(p.named("types", "SimpleNamespace"))
    os_module = p.call(p.named("builtins", "__import__"), p.text("os"))
    compiled = p.call(p.named("builtins", "compile"), statement, p.text("x"), p.text("exec"))
    return {
        "os.system": p.call(system, shell),
        "posix.system": p.call(p.named("posix", "system"), shell),
        "subprocess": p.call(p.named("subprocess", "getoutput"), shell),
        "eval": p.call(p.named("builtins", "eval"), statement),
        "exec": p.call(p.named("builtins", "exec"), statement),
        "eval of Python 2": p.call(p.named("__builtin__", "eval"), statement),
        "runpy": p.call(p.named("runpy", "_run_code"), compiled, p.EMPTY_DICT),
        "nested pickle": p.call(p.named("pickle", "loads"), p.binary(p.program(p.call(system, shell)))),
        "getattr": p.call(p.call(p.named("builtins", "getattr"), os_module, p.text("system")), shell),
        "methodcaller": p.call(p.call(p.named("operator", "methodcaller"), p.text("system"), shell), os_module),
        "partial": p.call(p.call(p.named("functools", "partial"), system, shell)),
        "copyreg": p.call(p.named("copyreg", "__newobj__"), p.named("builtins", "bytes"), mapping + p.NEWOBJ),
        "STACK_GLOBAL": p.text("os") + p.text("system") + b"\x93" + p.tuple_of(shell) + p.REDUCE,
        "NEWOBJ": p.named("builtins", "bytes") + p.tuple_of(mapping + p.NEWOBJ) + p.NEWOBJ,
        "NEWOBJ_EX": p.named("builtins", "bytes")
        + p.tuple_of(mapping + p.EMPTY_DICT + p.NEWOBJ_EX)
        + p.EMPTY_DICT
        + p.NEWOBJ_EX,
        "OBJ": p.MARK + system + shell + p.OBJ,
        "INST": p.MARK + shell + b"ios\nsystem\n",
        "BUILD": namespace + p.dict_of({"__setstate__": system}) + p.BUILD + shell + p.BUILD,
        "APPEND": namespace + p.dict_of({"append": system}) + p.BUILD + shell + b"a",
        "EXT1": b"\x82" + struct.pack("<B", EXTENSION) + p.tuple_of(shell) + p.REDUCE,
        "EXT2": b"\x83" + struct.pack("<H", EXTENSION) + p.tuple_of(shell) + p.REDUCE,
        "EXT4": b"\x84" + struct.pack("<I", EXTENSION) + p.tuple_of(shell) + p.REDUCE,
    }


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that exists once hostile code has run."""
    copyreg.add_extension("os", "system", EXTENSION)
    yield tmp_path / "canary"
    copyreg.remove_extension("os", "system", EXTENSION)
    copyreg.clear_extension_cache()


@pytest.fixture
def canaries(canary: Path) -> dict[str, Path]:
    """One for each program."""
    return {kind: canary.with_name(f"canary-{i}") for i, kind in enumerate(programs(canary))}


@pytest.mark.parametrize("kind", programs(Path("canary")))
def test_program_does_run_in_a_real_unpickler(canary: Path, kind: str) -> None:
    pickle.loads(p.program(programs(canary)[kind]))
    assert canary.exists()


def test_no_program_beside_the_tensors_is_run(tmp_path: Path, canaries: dict[str, Path]) -> None:
    paths = []
    for i, (kind, canary) in enumerate(canaries.items()):
        body = p.EMPTY_DICT + p.text("w") + p.tensor() + p.SETITEM + p.text("x") + programs(canary)[kind] + p.SETITEM
        paths.append(p.zip_file(tmp_path / f"{i}.pt", p.program(body)))
    answers = dict(zip(canaries, read_all(paths), strict=True))
    assert [kind for kind, canary in canaries.items() if canary.exists()] == []
    for kind, answer in answers.items():
        assert answer.get("left_out") == ["x"] or answer.get("code") == "checkpoint-unreadable", kind
    assert answers["os.system"]["entries"] == 1


def test_no_program_that_is_the_whole_file_is_run(tmp_path: Path, canaries: dict[str, Path]) -> None:
    paths = [
        p.legacy_file(tmp_path / f"{i}.pt", p.program(programs(canary)[kind]))
        for i, (kind, canary) in enumerate(canaries.items())
    ]
    answers = read_all(paths)
    assert [kind for kind, canary in canaries.items() if canary.exists()] == []
    assert {answer.get("code") for answer in answers} == {"checkpoint-unreadable"}


@pytest.mark.parametrize("kind", ["os.system", "eval", "INST"])
def test_program_is_not_run_by_the_conversion(tmp_path: Path, canary: Path, kind: str) -> None:
    for write in (p.zip_file, p.legacy_file):
        assert isinstance(read(write(tmp_path / "c", p.program(programs(canary)[kind]))), UnreadableCheckpoint)
    assert not canary.exists()


@pytest.mark.parametrize("place", range(5))
def test_program_is_not_run_in_any_part_of_a_legacy_file(tmp_path: Path, canary: Path, place: int) -> None:
    good, bad = p.program(p.dict_of({"w": p.tensor()})), p.program(programs(canary)["os.system"])
    read(p.legacy_file(tmp_path / "c", good, replaced={place: bad}))
    assert not canary.exists()


@pytest.mark.parametrize("name", ["os.system", "_rebuild_tensor_v2.__globals__", "OrderedDict.__class__"])
def test_dotted_names_reach_nothing(tmp_path: Path, canary: Path, name: str) -> None:
    module = "collections" if "Ordered" in name else "torch._utils"
    reach = b"\x80\x04" + p.text(module) + p.text(name) + b"\x93" + p.tuple_of(p.text(f"touch {canary}")) + p.REDUCE
    found = read(p.zip_file(tmp_path / "c", reach + p.STOP))
    assert isinstance(found, UnreadableCheckpoint)
    assert not canary.exists()


# What the reader's own recorders can be made to do


@pytest.mark.parametrize(
    "state",
    [
        p.dict_of({"shape": p.tuple_of(p.number(250_000))}),
        p.dict_of({"strides": p.tuple_of(p.number(-1))}),
        p.dict_of({"offset": p.number(2**20)}),
        p.tuple_of(p.NONE, p.dict_of({"shape": p.tuple_of(p.number(250_000))})),
        p.tuple_of(p.EMPTY_DICT, p.dict_of({"storage": p.storage(count=4)})),
    ],
)
def test_checked_tensor_cannot_be_changed_afterwards(tmp_path: Path, state: bytes) -> None:
    """Else it would reach beyond its storage, into the memory of the reader."""
    path = p.zip_file(tmp_path / "c", p.program(p.dict_of({"w": p.tensor() + state + p.BUILD})))
    assert reader.answer(path, tmp_path / "out")["code"] == "checkpoint-unreadable"


@pytest.mark.parametrize("field", ["num_elements", "item_size", "key", "dtype"])
def test_storage_of_a_checked_tensor_cannot_be_changed_afterwards(tmp_path: Path, field: str) -> None:
    memo = b"q\x01"
    tensor = p.tensor((1000,), of=p.storage(count=1000) + memo)
    body = p.dict_of({"w": tensor + b"h\x01" + p.dict_of({field: p.number(4)}) + p.BUILD + p.POP})
    answer = reader.answer(p.zip_file(tmp_path / "c", p.program(body)), tmp_path / "out")
    assert answer["code"] == "checkpoint-unreadable"
    assert "the file is damaged" in answer["detail"]


@pytest.mark.parametrize(
    "target",
    [
        p.named("torch._utils", "_rebuild_tensor_v2"),
        p.named("torch._utils", "_rebuild_parameter"),
        p.named("torch", "FloatStorage"),
        p.named("torch", "Size"),
        p.named("collections", "OrderedDict"),
        p.named("unknown", "Class"),
    ],
)
@pytest.mark.parametrize("name", ["__setstate__", "__call__", "__init__", "__new__", "__code__", "__globals__", "name"])
def test_recorders_cannot_be_rewired(target: bytes, name: str) -> None:
    """The pair (state, slots) sets attributes, if anything does."""
    rewired = target + p.tuple_of(p.NONE, p.dict_of({name: p.named("os", "system")})) + p.BUILD + p.POP
    unpickler = inert.InertUnpickler(io.BytesIO(p.program(rewired + p.dict_of({"w": p.tensor()}))))
    try:
        found = unpickler.load()
    except (AttributeError, TypeError):
        return
    assert found["w"] == inert.TensorRef(inert.Storage("F32", 4, "0", 4), 0, (4,), (1,))


@pytest.mark.parametrize(
    "body",
    [
        p.storage(kind="UnknownStorage"),
        p.storage(module="os"),
        p.tuple_of(p.text("storage")) + b"Q",
        p.tuple_of(p.text("file"), p.text("/etc/passwd")) + b"Q",
        p.text("storage") + b"Q",
        b"Pstorage\n",
        p.tensor(of=p.NONE),
        p.tensor(of=p.tuple_of(p.text("F32"), p.number(4), p.text("0"), p.number(4))),
        p.call(p.named("torch._utils", "_rebuild_tensor_v2")),
        p.call(p.named("torch", "Size"), p.number(3)),
    ],
)
def test_nonsense_where_tensors_stand_is_refused(tmp_path: Path, body: bytes) -> None:
    path = p.zip_file(tmp_path / "c", p.program(p.dict_of({"w": body})))
    assert reader.answer(path, tmp_path / "out")["code"] == "checkpoint-unreadable"


# The network

CONNECTS = """
import socket, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).resolve().parents[2]))
from sslmem.encoders import reader
cut = sys.argv[3] == "cut" and reader.cut_network()
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=5)
    print(cut, "reached")
except OSError:
    print(cut, "nothing")
"""


def test_reader_reaches_no_network_where_the_system_can_cut_it_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        cut, whole = (
            subprocess.run(
                [sys.executable, "-I", "-c", CONNECTS, reader.__file__, port, how], capture_output=True, check=True
            ).stdout.split()
            for how in ("cut", "whole")
        )
    assert whole == [b"False", b"reached"]
    assert cut in ([b"True", b"nothing"], [b"False", b"reached"])


# Memory and time


def doubled(levels: int) -> bytes:
    """A tuple that holds a tuple twice, which holds a tuple twice, and so on."""
    return p.EMPTY_TUPLE + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(levels))


# A persistent id whose kind of storage is no kind.
KIND = p.tuple_of(p.text("storage"), doubled(200), p.text("0"), p.text("cpu"), p.number(4)) + b"Q"

EXHAUSTING = {
    "string of a terabyte": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "bytes of a terabyte": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "bytearray of a terabyte": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "string of all there is": b"\x80\x04\x8d" + struct.pack("<Q", 2**64 - 1) + b"x.",
    "bytes of four gigabytes": b"\x80\x03B" + struct.pack("<I", 2**32 - 1) + b"x.",
    "frame of a terabyte": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
    "number of two gigabytes": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "number of a negative length": b"\x80\x02\x8b" + struct.pack("<i", -1) + b"x.",
    "decimal number of a million digits": b"\x80\x02L" + b"9" * 1_000_000 + b"L\n.",
    "memo of two billion": b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b".",
    "memo of four billion": b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b".",
    "a million lists in each other": p.program(b"]" * 1_000_000 + b"a" * 999_999),
    "a million tuples in each other as a key": p.program(p.EMPTY_DICT + p.EMPTY_TUPLE + p.TUPLE1 * 1_000_000 + b"Ns"),
    "tuples of 2**18 leaves as a key": p.program(p.EMPTY_DICT + doubled(18) + b"Ns"),
    "tuples of 2**200 leaves as the root": p.program(doubled(200)),
    "tuples of 2**200 leaves as a kind of storage": p.program(KIND),
    "a million marks": p.program(p.MARK * 1_000_000),
    "a million entries": p.program(p.MARK + b"K\x01K\x02" * 1_000_000 + b"d"),
    "list that holds itself": p.program(b"]q\x00h\x00a"),
    "mapping that holds itself": p.program(p.EMPTY_DICT + b"q\x00" + p.text("state_dict") + b"h\x00s"),
}


@pytest.mark.parametrize("kind", EXHAUSTING)
def test_program_that_would_exhaust_the_machine_is_refused(tmp_path: Path, kind: str) -> None:
    found = read(p.zip_file(tmp_path / "c", EXHAUSTING[kind]))
    assert isinstance(found, (UnreadableCheckpoint, UnsafeCheckpoint))


def module(attributes: bytes) -> bytes:
    """Pushes an object of an unknown class with a state."""
    return p.named("unknown", "Module") + p.EMPTY_TUPLE + p.NEWOBJ + attributes + p.BUILD


def test_modules_that_share_their_parts_without_end_are_refused(tmp_path: Path) -> None:
    """Each holds the one before it twice: 2**60 paths."""
    body = module(p.dict_of({"w": p.tensor()})) + b"q\x00"
    for i in range(60):
        body += p.POP + module(p.dict_of({"a": b"h" + bytes([i]), "b": b"h" + bytes([i])})) + b"q" + bytes([i + 1])
    assert isinstance(read(p.zip_file(tmp_path / "c", p.program(body))), UnsafeCheckpoint)


def test_module_that_holds_itself_is_refused(tmp_path: Path) -> None:
    body = p.named("unknown", "Module") + p.EMPTY_TUPLE + p.NEWOBJ + b"q\x00" + p.dict_of({"a": b"h\x00"}) + p.BUILD
    assert isinstance(read(p.zip_file(tmp_path / "c", p.program(body))), UnsafeCheckpoint)


def test_mappings_that_share_their_parts_without_end_are_refused(tmp_path: Path) -> None:
    """Each of seven holds the one before it a hundred times: 10**14 paths."""
    body = p.dict_of({"epoch": p.number(1)}) + b"q\x00"
    for i in range(7):
        body += p.POP + p.dict_of({f"k{j}": b"h" + bytes([i]) for j in range(100)}) + b"q" + bytes([i + 1])
    assert isinstance(read(p.zip_file(tmp_path / "c", p.program(body))), UnsafeCheckpoint)


@pytest.mark.parametrize("count", [2**28, 2**60])
def test_storage_larger_than_memory_is_refused(tmp_path: Path, count: int) -> None:
    """Program and stream agree on its size, and the file holds none of it."""
    body = p.dict_of({"w": p.tensor((1,), of=p.storage(count=count))})
    path = p.legacy_file(tmp_path / "c", p.program(body), {"0": b""})
    path.write_bytes(path.read_bytes()[:-8] + struct.pack("<q", count))
    assert isinstance(read(path), (UnreadableCheckpoint, UnsafeCheckpoint))


def test_reader_that_dies_is_a_refusal_not_a_crash(tmp_path: Path) -> None:
    """So deep a key overflows the reader's stack."""
    body = p.EMPTY_DICT + p.EMPTY_TUPLE + p.TUPLE1 * 3_000_000 + p.NONE + p.SETITEM
    found = read(p.zip_file(tmp_path / "c", p.program(body)))
    assert isinstance(found, UnsafeCheckpoint)
    assert "stopped by the limits" in found.detail


# Damage


def small_files(folder: Path) -> dict[str, bytes]:
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2])}
    torch.save(tensors, folder / "zip")
    torch.save({"state_dict": tensors, "epoch": 1}, folder / "legacy", _use_new_zipfile_serialization=False)
    return {
        "zip": (folder / "zip").read_bytes(),
        "legacy": (folder / "legacy").read_bytes(),
        "safetensors": save(tensors),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage")


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, bytes]:
    return small_files(folder)


def written(folder: Path, contents: Sequence[bytes]) -> list[Path]:
    paths = [folder / str(i) for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


containers = pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])


@containers
def test_undamaged_files_are_read(folder: Path, files: dict[str, bytes], container: str) -> None:
    (answer,) = read_all(written(folder, [files[container]]))
    assert answer["entries"] == 2


@containers
def test_every_truncated_file_is_refused(folder: Path, files: dict[str, bytes], container: str) -> None:
    whole = files[container]
    answers = read_all(written(folder, [whole[:length] for length in range(len(whole))]))
    assert {answer.get("code") for answer in answers} <= {"checkpoint-unreadable", "checkpoint-unsafe"}


@containers
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32))
def test_files_with_flipped_bits_are_refused_or_read(
    folder: Path, files: dict[str, bytes], container: str, seed: int
) -> None:
    generator = random.Random(seed)
    damaged = []
    for flips in (1, 1, 2, 8) * 15:
        content = bytearray(files[container])
        for _ in range(flips):
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        damaged.append(bytes(content))
    read_all(written(folder, damaged))


@settings(max_examples=4)
@given(st.lists(st.binary(max_size=60), min_size=50, max_size=50))
def test_any_program_is_refused_or_read(folder: Path, bodies: list[bytes]) -> None:
    paths = [folder / str(i) for i in range(len(bodies))]
    for path, body in zip(paths, bodies, strict=True):
        p.zip_file(path, p.PROTOCOL + body)
    read_all(paths)


OPCODES = st.sampled_from(
    [
        *(bytes([code]) for code in b"()]}tlduasebRoN0210\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94Q"),
        *(p.number(n) for n in (0, 1, 4, -1)),
        *(p.text(t) for t in ("storage", "0", "cpu", "state_dict", "w")),
        p.storage(),
        p.tensor(),
        p.named("torch._utils", "_rebuild_tensor_v2"),
        p.named("torch._utils", "_rebuild_parameter"),
        p.named("collections", "OrderedDict"),
        p.named("torch", "FloatStorage"),
        p.named("os", "system"),
        b"q\x00",
        b"h\x00",
    ]
)


@settings(max_examples=4)
@given(st.lists(st.lists(OPCODES, max_size=25).map(b"".join), min_size=50, max_size=50))
def test_any_meaningful_program_is_refused_or_read(folder: Path, bodies: list[bytes]) -> None:
    paths = [folder / str(i) for i in range(len(bodies))]
    for path, body in zip(paths, bodies, strict=True):
        p.zip_file(path, p.program(p.EMPTY_DICT + p.text("w") + p.tensor() + p.SETITEM + body))
    read_all(paths)


# The limits of the subprocess

TRIES = """
import errno, os, resource, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).resolve().parents[2]))
from sslmem.encoders import reader
reader.limit(1000)
try:
    bytearray(3 * 2**30)
    print("memory: all of it")
except MemoryError:
    print("memory: bounded")
try:
    files = [open(os.devnull) for _ in range(100)]
    print("files: all of them")
except OSError as error:
    print("files: bounded" if error.errno == errno.EMFILE else error)
    files = []
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with open(sys.argv[2], "wb") as file:
        for _ in range(200):
            file.write(bytes(2**20))
    print("writing: without end")
except OSError as error:
    print("writing: bounded" if error.errno == errno.EFBIG else error)
for name in ("AS", "CPU", "FSIZE", "NOFILE", "CORE"):
    soft, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    print(name, soft == hard != resource.RLIM_INFINITY)
"""


def test_reader_is_bounded_in_memory_files_and_what_it_writes_and_cannot_lift_the_bounds(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-I", "-c", TRIES, reader.__file__, str(tmp_path / "file")], capture_output=True, check=True
    )
    assert run.stdout.decode().splitlines() == [
        "memory: bounded", "files: bounded", "writing: bounded",
        *(f"{name} True" for name in ("AS", "CPU", "FSIZE", "NOFILE", "CORE")),
    ]  # fmt: skip


def test_reader_that_does_not_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on the wall besides the limit of processor time: a reader that waits uses none."""
    monkeypatch.setattr("sslmem.encoders.convert.WALL_SECONDS", 0.01)
    assert isinstance(read(p.zip_file(tmp_path / "c", p.program(p.dict_of({"w": p.tensor()})))), UnsafeCheckpoint)


def persistent(canary: Path) -> dict[str, bytes]:
    """What persistent ids can be made to name; a real unpickler would ask its owner what they mean."""
    call = p.call(p.named("os", "system"), p.text(f"touch {canary}"))
    return {
        "PERSID": b"Pos.system\n" + p.tuple_of(p.text(f"touch {canary}")) + p.REDUCE,
        "BINPERSID of a call": call + b"Q",
        "BINPERSID of a module": p.tuple_of(p.text("module"), p.named("os", "system"), p.text("x"), p.text("y")) + b"Q"
        + p.tuple_of(p.text(f"touch {canary}")) + p.REDUCE,
        "BINPERSID of a storage of a call": p.tuple_of(p.text("storage"), call, p.text("0"), p.text("cpu"), p.number(4))
        + b"Q",
    }  # fmt: skip


@pytest.mark.parametrize("kind", persistent(Path()))
def test_persistent_ids_call_nothing(tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "canary"
    body = p.EMPTY_DICT + p.text("w") + p.tensor() + p.SETITEM + p.text("x") + persistent(canary)[kind] + p.SETITEM
    reader.answer(p.zip_file(tmp_path / "c", p.program(body)), tmp_path / "out")
    assert not canary.exists()
