"""The tree of errors."""

from collections.abc import Iterator

import pytest

from sslmem import errors
from sslmem.errors import SslmemError


def leaves(kind: type[SslmemError] = SslmemError) -> Iterator[type[SslmemError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from leaves(child)


@pytest.mark.parametrize("kind", list(leaves()))
def test_docstring_is_the_default_message(kind: type[SslmemError]) -> None:
    assert kind().detail == str(kind()) == kind.__doc__
    assert kind("because").detail == str(kind("because")) == "because"


def test_codes_are_distinct() -> None:
    codes = [kind.code for kind in leaves()]
    assert len(codes) == len(set(codes)) > 15
