"""Deliveries to webhooks, to real receivers on this machine."""

import asyncio
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from models.webhook import Webhook, WebhookAttempt, WebhookDelivery
from service import deliveries, webhooks
from service.addresses import Allowed, check_url, is_public
from service.context import Context
from service.errors import InvalidRequest
from service.jobs import LeaseLost
from service.outgoing import AddressRefused, post
from service.settings import Settings
from tests.support import rows
from tests.support.processes import ROOT
from tests.support.receiver import Receiver, receiving
from tests.support.waiting import eventually
from worker import courier

EVENTS = ["audit.succeeded", "audit.failed", "audit.cancelled"]
HERE = Allowed.of("127.0.0.1")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving(Receiver()) as receiver:
        yield receiver


@pytest.fixture
def quick(context: Context) -> Iterator[Context]:
    """Short times, and this machine may be called."""
    changes = {"webhook_allow": "127.0.0.1", "webhook_retry_seconds": 0.05, "webhook_timeout_seconds": 2.0}
    quick = Context.from_settings(rows.with_settings(context, webhook_attempts=3, **changes))
    yield quick
    quick.close()


@pytest.fixture
def delivering(quick: Context) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=courier.run, args=(quick, stop))
    thread.start()
    yield
    stop.set()
    thread.join()


def add(context: Context, url: str, project: str = "") -> Webhook:
    with context.sessions.begin() as session:
        webhook = Webhook(project=project, url=url, secret="whsec_" + "c2VjcmV0" * 4, events=EVENTS)
        session.add(webhook)
        session.flush()
        return webhook


def delivered(context: Context, *states: str) -> list[WebhookDelivery]:
    """The deliveries, once all are in one of the states."""

    def look() -> list[WebhookDelivery]:
        with context.sessions.begin() as session:
            found = list(session.scalars(select(WebhookDelivery)))
        return found if found and all(row.state in states for row in found) else []

    return eventually(look)


def attempts(context: Context) -> list[tuple[int | None, str | None]]:
    with context.sessions.begin() as session:
        found = session.scalars(select(WebhookAttempt).order_by(WebhookAttempt.number))
        return [(attempt.status, attempt.error) for attempt in found]


@pytest.mark.usefixtures("delivering")
def test_end_of_an_audit_is_told_signed_and_once(quick: Context, receiver: Receiver) -> None:
    webhook = add(quick, receiver.url)
    add(quick, receiver.url, project="another")
    audit = rows.succeeded_audit(quick)
    delivered(quick, "delivered")
    ((headers, body),) = receiver.came
    message: Any = Verifier(webhook.secret).verify(body, headers)
    assert message["type"] == "audit.succeeded"
    assert message["data"]["audit_id"] == str(audit.id)
    assert message["data"]["finding"] == (audit.summary or {})["finding"]["sentence"]
    with pytest.raises(WebhookVerificationError):
        Verifier(webhook.secret).verify(body.replace(b"succeeded", b"cancelled"), headers)


@pytest.mark.usefixtures("delivering")
def test_receiver_that_recovers_gets_it_with_the_same_id(quick: Context, receiver: Receiver) -> None:
    receiver.statuses = [500, 302, 204]
    receiver.location = receiver.url + "/elsewhere"
    add(quick, receiver.url)
    rows.fail_first_chunk(quick, rows.request_audit(quick).id)
    delivered(quick, "delivered")
    assert len({headers["webhook-id"] for headers, _ in receiver.came}) == 1
    assert [status for status, _ in attempts(quick)] == [500, 302, 204]


@pytest.mark.usefixtures("delivering")
def test_tries_are_bounded(quick: Context, receiver: Receiver) -> None:
    receiver.statuses = [500]
    add(quick, receiver.url)
    rows.fail_first_chunk(quick, rows.request_audit(quick).id)
    (delivery,) = delivered(quick, "failed")
    assert (len(receiver.came), delivery.attempts) == (3, 3)


@pytest.mark.usefixtures("delivering")
def test_receiver_that_is_gone_is_not_called_again(quick: Context, receiver: Receiver) -> None:
    receiver.statuses = [410]
    webhook = add(quick, receiver.url)
    rows.fail_first_chunk(quick, rows.request_audit(quick).id)
    delivered(quick, "failed")
    rows.fail_first_chunk(quick, rows.request_audit(quick).id)
    with quick.sessions.begin() as session:
        assert session.get_one(Webhook, webhook.id).disabled_at is not None
        assert len(list(session.scalars(select(WebhookDelivery)))) == 1


@pytest.mark.usefixtures("delivering")
def test_receiver_that_hangs_costs_its_time_and_holds_up_no_other(quick: Context, receiver: Receiver) -> None:
    with receiving(Receiver(pause=threading.Event())) as silent:
        add(quick, silent.url)
        add(quick, receiver.url)
        rows.fail_first_chunk(quick, rows.request_audit(quick).id)
        eventually(lambda: receiver.came)
        eventually(lambda: (None, "expected an answer within 2 seconds; none came") in attempts(quick))


def test_sender_that_is_lost_is_followed_by_another(quick: Context, receiver: Receiver) -> None:
    add(quick, receiver.url)
    rows.fail_first_chunk(quick, rows.request_audit(quick).id)
    with quick.sessions.begin() as session:
        (lost,) = deliveries.claim_due(session, "lost", 0.01, 10)
    time.sleep(0.05)
    with quick.sessions.begin() as session:
        assert list(deliveries.tidy(session, quick.settings)) == [lost.delivery_id]
        (again,) = deliveries.claim_due(session, "next", 60, 10)
    assert (again.delivery_id, again.number) == (lost.delivery_id, 2)
    with pytest.raises(LeaseLost), quick.sessions.begin() as session:
        deliveries.settle(session, lost, "lost", quick.settings, status=200, error=None)


@contextmanager
def sweeper(settings: Settings) -> Iterator["subprocess.Popen[bytes]"]:
    """``python -m worker.sweeper``, killed at the end."""
    environment = {
        **os.environ,
        "SSLMEM_HOME": str(settings.home),
        "SSLMEM_DATABASE_URL": settings.require_database_url(),
        "SSLMEM_BROKER_URL": settings.require_broker_url(),
        "SSLMEM_WEBHOOK_ALLOW": settings.webhook_allow,
        "SSLMEM_WEBHOOK_TIMEOUT_SECONDS": str(settings.webhook_timeout_seconds),
        "SSLMEM_WEBHOOK_RETRY_SECONDS": str(settings.webhook_retry_seconds),
    }
    process = subprocess.Popen([sys.executable, "-m", "worker.sweeper"], cwd=ROOT, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_delivery_in_the_middle_of_which_the_sweeper_ends_is_made_by_the_next_one(
    quick: Context, number: signal.Signals
) -> None:
    with receiving(Receiver(pause=threading.Event())) as receiver:
        add(quick, receiver.url)
        rows.succeeded_audit(quick, 16)
        with sweeper(quick.settings) as process:
            eventually(lambda: receiver.came)
            process.send_signal(number)
            process.wait(20)
        assert receiver.pause is not None
        receiver.pause.set()
        receiver.pause = None
        with sweeper(quick.settings):
            (delivery,) = delivered(quick, "delivered")
        assert {headers["webhook-id"] for headers, _ in receiver.came} == {str(delivery.id)}
        assert attempts(quick)[-1] == (200, None)


def test_removed_webhook_is_told_nothing(quick: Context, receiver: Receiver) -> None:
    webhook = add(quick, receiver.url)
    rows.fail_first_chunk(quick, rows.request_audit(quick).id)
    with quick.sessions.begin() as session:
        webhooks.remove(session, "", webhook.id)
        assert deliveries.claim_due(session, "x", 60, 10) == []


def send(url: str, allowed: Allowed, trusted: ssl.SSLContext | None = None) -> int:
    return asyncio.run(post(url, {}, b"{}", allowed=allowed, seconds=5, trusted=trusted))


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Lets names lead where the answers say, one after the other."""
    asked: list[str] = []
    real, left = socket.getaddrinfo, list(answers)

    def getaddrinfo(host: Any, port: Any, *more: Any, **named: Any) -> Any:  # noqa: ANN401
        if str(host).endswith(".example"):
            asked.append(str(host))
            kind = socket.SOCK_STREAM
            return [(socket.AF_INET, kind, 6, "", (a, port)) for a in (left.pop(0) if len(left) > 1 else left[0])]
        return real(host, port, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("inside", ["10.0.0.1", "169.254.169.254", "127.0.0.2", "100.100.100.200", "168.63.129.16"])
def test_name_that_leads_inside_is_refused_even_beside_a_public_one(
    monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    resolving(monkeypatch, ["8.8.8.8", inside])
    with pytest.raises(AddressRefused) as refused:
        send("https://hooks.example:8443/x", HERE)
    assert inside not in str(refused.value)


def test_answer_that_changes_after_the_check_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    port = int(receiver.url.split(":")[2].split("/")[0])
    with receiving(Receiver(), "127.0.0.2", port) as inside:
        asked = resolving(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
        assert send(f"http://hooks.example:{port}/x", HERE) == 200
        assert (len(asked), len(receiver.came), len(inside.came)) == (1, 1, 0)


def test_certificate_must_be_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    tls, trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("hooks.example").configure_cert(tls)
    authority.configure_trust(trusted)
    resolving(monkeypatch, ["127.0.0.1"])
    with receiving(Receiver(), tls=tls) as receiver:
        port = receiver.url.split(":")[2]
        assert send(f"https://hooks.example:{port}", HERE, trusted) == 200
        with pytest.raises(Exception, match="certificate verify failed"):
            send(f"https://other.example:{port}", HERE, trusted)
    assert len(receiver.came) == 1


def test_answer_that_never_ends_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                try:
                    while True:
                        connection.sendall(b"H")
                        time.sleep(0.05)
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(TimeoutError):
            asyncio.run(post(url, {}, b"{}", allowed=HERE, seconds=0.5))
        thread.join()


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/", "ftp://hooks.example/", "https://127.0.0.1/", "https://2130706433/", "https://0x7f.1/",
        "https://0177.0.0.1/", "https://127.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://10.0.0.1/",
        "https://user:pass@hooks.example/", "https://hooks.example:22/", "https://hooks.example:0/",
        "https://1.1.1.1:99999/", "https://[fe80::1%25eth0]/", "https:///x",
        "https://hooks.example\\@10.0.0.1/", "https://h\u00f6oks.example/", "https://[64:ff9b::7f00:1]/",
    ],
)  # fmt: skip
def test_url_that_may_not_be_called_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        check_url(url, Allowed.of(""))


@given(st.ip_addresses(v=4))
def test_inside_address_stays_inside_however_it_is_wrapped(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved
        assert is_public(ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | number))
        return
    nat64, teredo = (int(ipaddress.IPv6Address(a)) | number for a in ("64:ff9b::", "2001::"))
    six = (int(ipaddress.IPv6Address("2002::")) | number << 80, 0xFFFF << 32 | number, number, nat64, teredo)
    assert not any(is_public(ipaddress.IPv6Address(wrapped)) for wrapped in six)


@pytest.mark.parametrize("text", ["10.0.0.0/8/8", "a b", "10.1.2.3/8"])
def test_own_network_that_cannot_be_read_stops_the_start(text: str) -> None:
    with pytest.raises(ValueError, match="expected a host, an address or a network"):
        Settings(webhook_allow=text)


def test_secret_is_in_no_representation() -> None:
    letter = deliveries.Letter(uuid.uuid4(), uuid.uuid4(), 1, "https://x/?password", "whsec_c2VjcmV0", b"{}")
    assert "c2VjcmV0" not in repr(letter)
    assert "password" not in repr(letter)


def test_lookups_that_hang_hold_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    hang, began = threading.Event(), threading.Semaphore(0)

    def getaddrinfo(*_: object, **__: object) -> Any:  # noqa: ANN401
        began.release()
        hang.wait(60)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def work() -> str:
        hooks = [
            asyncio.create_task(post(f"https://{i}.example/x", {}, b"", allowed=HERE, seconds=60)) for i in range(40)
        ]
        for _ in hooks:
            await asyncio.to_thread(began.acquire)
        answer = await asyncio.to_thread(lambda: "the database was asked")
        hang.set()
        refused = await asyncio.gather(*hooks, return_exceptions=True)
        assert {type(one) for one in refused} == {AddressRefused}
        return answer

    assert asyncio.run(work()) == "the database was asked"
