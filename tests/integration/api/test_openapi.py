"""The documentation of the API is complete, and sound as OpenAPI 3.1."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from service.settings import Settings

METHODS = {"get", "put", "post", "delete", "head"}


@pytest.fixture
def document(settings: Settings) -> dict[str, Any]:
    return create_app(settings).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, item[method]) for path, item in document["paths"].items() for method in item]


def nodes(value: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401  any part of the document
    """Every object of the document."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(item)


def resolve(document: dict[str, Any], reference: str) -> object:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_document_is_served_as_it_is(anonymous: TestClient, document: dict[str, Any]) -> None:
    assert anonymous.get("/openapi.json").json() == document


def test_document_has_the_parts_that_openapi_requires(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"] == "sslmem"
    assert document["info"]["version"]
    assert "problem details" in document["info"]["description"]


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    references = [node["$ref"] for node in nodes(document) if "$ref" in node]
    assert references
    for reference in references:
        assert isinstance(resolve(document, reference), dict), reference


def test_schemas_use_no_words_of_earlier_versions(document: dict[str, Any]) -> None:
    """3.1 is JSON Schema 2020-12: no ``nullable``, and exclusive bounds are numbers."""
    for node in nodes(document["components"]["schemas"]):
        assert "nullable" not in node
        assert not isinstance(node.get("exclusiveMinimum"), bool)
        assert isinstance(node.get("type", ""), str | list | dict)
        assert node.get("type") != "array" or "items" in node or "prefixItems" in node


def test_operations_are_named_once_and_described(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for path, method, operation in operations(document):
        assert method in METHODS
        assert operation["summary"], path
        assert operation["description"], path
        assert operation["tags"], path


def test_parameters_are_those_of_the_path_and_are_named_once(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        parameters = operation.get("parameters", [])
        names = [(p["in"], p["name"]) for p in parameters]
        assert len(names) == len(set(names)), (method, path)
        assert {p["name"] for p in parameters if p["in"] == "path"} == set(re.findall(r"{(\w+)}", path))
        assert all(p["required"] for p in parameters if p["in"] == "path")
        assert all("schema" in p for p in parameters)
        assert {p["in"] for p in parameters} <= {"path", "query", "header"}
        assert {p["name"] for p in parameters if p["in"] == "header"} <= {"Idempotency-Key", "last-event-id"}


def test_every_route_documents_its_success_and_its_errors_as_problems(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        responses = operation["responses"]
        assert any(status.startswith("2") for status in responses), (method, path)
        if path == "/v1/health":
            assert set(responses) == {"200", "503"}
            continue
        assert {"401", "422", "500", "503"} <= set(responses), (method, path)
        for status, response in responses.items():
            assert response["description"]
            if not status.startswith("2"):
                reference = {"$ref": "#/components/schemas/Problem"}
                assert response["content"] == {"application/problem+json": {"schema": reference}}, (method, path)


def test_routes_below_an_id_document_that_it_may_not_be_there(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        if "{" in path:
            assert "404" in operation["responses"], (method, path)


# Delivers what is there once more; nothing is made.
NOT_CREATING = {"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"}


def test_every_creating_request_takes_a_key_and_says_what_comes_of_it(document: dict[str, Any]) -> None:
    creating = [
        (path, operation)
        for path, method, operation in operations(document)
        if method in ("put", "post") and {"201", "202"} & set(operation["responses"]) and path not in NOT_CREATING
    ]
    assert len(creating) >= 8
    for path, operation in creating:
        names = {(p["in"], p["name"]) for p in operation["parameters"]}
        assert ("header", "Idempotency-Key") in names, path
        assert {"200", "410", "422"} <= set(operation["responses"]), path


def test_uploads_document_their_bodies_and_their_limits(document: dict[str, Any]) -> None:
    uploads = [(path, operation) for path, method, operation in operations(document) if method == "put"]
    assert len(uploads) == 3
    for path, operation in uploads:
        assert operation["requestBody"]["required"], path
        assert "413" in operation["responses"], path


def test_every_request_but_health_is_documented_to_need_a_token(document: dict[str, Any]) -> None:
    assert document["security"] == [{"token": []}]
    assert document["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    exempt = [path for path, _, operation in operations(document) if operation.get("security") == []]
    assert exempt == ["/v1/health"]
