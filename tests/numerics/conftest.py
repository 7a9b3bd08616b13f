"""The same settings as those of the unit tests."""

import tests.unit.conftest  # noqa: F401
