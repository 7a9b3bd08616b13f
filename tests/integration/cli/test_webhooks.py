"""``sslmem webhooks`` and ``sslmem audits events``, with a real receiver."""

import json
import threading
from collections.abc import Iterator

import pytest

from service.context import Context
from service.settings import Settings
from sslmem.client.http import Client
from sslmem.client.notebook import Audit
from tests.integration.cli.conftest import Run
from tests.support import rows
from tests.support.receiver import Receiver, receiving
from tests.support.waiting import eventually
from worker import courier


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """This machine may be called."""
    return settings.model_copy(update={"webhook_allow": "127.0.0.1"})


@pytest.fixture
def delivering(context: Context) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=courier.run, args=(context, stop))
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("delivering")
def test_webhook_from_adding_to_removing(sslmem: Run) -> None:
    with receiving(Receiver()) as receiver:
        webhook_id, secret = sslmem("webhooks", "add", receiver.url).out.split()
        assert secret.startswith("whsec_")
        listed = sslmem("webhooks", "list").out
        assert webhook_id in listed
        assert secret not in listed
        delivery_id = sslmem("webhooks", "test", webhook_id).id
        log = eventually(lambda: [line for line in [sslmem("webhooks", "log", webhook_id).out] if "delivered" in line])
        assert log[0].startswith(f"{delivery_id} webhook.ping delivered ")
        assert log[0].splitlines()[1].endswith(" 200")
        assert sslmem("webhooks", "redeliver", webhook_id, delivery_id).out == "waiting\n"
        eventually(lambda: len(receiver.came) == 2)
        assert {headers["webhook-id"] for headers, _ in receiver.came} == {delivery_id}
        assert sslmem("webhooks", "remove", webhook_id).status == 0
        assert "[webhook-not-found, HTTP 404]" in sslmem("webhooks", "log", webhook_id).line


def test_url_that_may_not_be_called_is_one_line(sslmem: Run) -> None:
    assert "expected a URL that begins with https://" in sslmem("webhooks", "add", "ftp://hooks.example/").line


def test_events_of_an_audit_are_printed_to_its_end(sslmem: Run, context: Context, url: str, token: str) -> None:
    audit = rows.succeeded_audit(context, 16)
    told = ["audit.queued", "audit.running", "chunk.done", "audit.finalising", "audit.succeeded"]
    assert [json.loads(line)["type"] for line in sslmem("audits", "events", audit.id).out.splitlines()] == told
    with Client(url, token) as client:
        events = Audit(client, str(audit.id)).events(after=2)
        assert [event["type"] for event in events] == told[2:]
