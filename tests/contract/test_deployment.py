"""What can be said of the compose file and the images without a container engine."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.support.schemas import schema_named

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
OURS = sorted(name for name, service in COMPOSE["services"].items() if "build" in service)
STAGES = {
    part.splitlines()[0].split()[-1]: part
    for part in (ROOT / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")[1:]
}


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.gpu.yml"])
def test_compose_files_are_valid_by_the_compose_specification(name: str) -> None:
    schema = "https://raw.githubusercontent.com/compose-spec/compose-spec/master/schema/compose-spec.json"
    schema_named(schema).validate(yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))


def test_compose_runs_the_four_programs_on_two_servers() -> None:
    assert OURS == ["api", "migrate", "sweeper", "worker"]
    assert sorted(set(COMPOSE["services"]) - set(OURS)) == ["postgres", "redis"]


@pytest.mark.parametrize("name", OURS)
def test_compose_starts_an_entry_point_that_exists(name: str) -> None:
    command = COMPOSE["services"][name]["command"]
    assert command[:2] == ["python", "-m"]
    module = command[2]
    spec = importlib.util.find_spec(module)
    assert spec is not None
    if spec.submodule_search_locations is not None:
        assert importlib.util.find_spec(f"{module}.__main__") is not None


@pytest.mark.parametrize("name", OURS)
def test_compose_sets_only_settings_that_exist(name: str) -> None:
    known = {f"SSLMEM_{field.upper()}" for field in Settings.model_fields}
    assert set(COMPOSE["services"][name]["environment"]) <= known


@pytest.mark.parametrize("name", OURS)
def test_compose_waits_for_the_migration_before_it_serves(name: str) -> None:
    waits = COMPOSE["services"][name]["depends_on"]
    expected = {"postgres": "service_healthy"} if name == "migrate" else {"migrate": "service_completed_successfully"}
    assert {key: waits[key]["condition"] for key in expected} == expected


def test_servers_and_api_have_health_checks() -> None:
    assert all("healthcheck" in COMPOSE["services"][name] for name in ("postgres", "redis", "api"))


def test_only_the_api_is_published_and_on_loopback_alone() -> None:
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert list(published) == ["api"]
    assert all(port.startswith("127.0.0.1:") for port in published["api"])


def test_only_the_worker_image_has_torch() -> None:
    assert set(STAGES) == {"base", "api", "worker"}
    assert "[score]" in STAGES["worker"]
    assert "[score]" not in STAGES["base"] + STAGES["api"]
