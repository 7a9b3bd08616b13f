"""The sweeper's own loop."""

import threading

import pytest
from pydantic import SecretStr

from service.context import Context
from service.embedded.process import free_port
from tests.support import rows
from tests.support.queue import clear, messages
from tests.support.waiting import eventually
from worker import sweeper


def started(context: Context) -> tuple[threading.Thread, threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=sweeper.run, args=(context, stop))
    thread.start()
    return thread, stop


def test_sweeper_sends_lost_messages_until_it_is_stopped(context: Context) -> None:
    quick = Context.from_settings(rows.with_settings(context, sweep_seconds=0.02, resend_seconds=0.02))
    rows.request_audit(context, 16)
    clear(context.settings)
    thread, stop = started(quick)
    for _ in range(2):
        eventually(lambda: messages(context.settings))
        clear(context.settings)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    quick.close()


def test_sweeper_waits_for_a_database_that_is_away(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = SecretStr(f"postgresql://sslmem:x@127.0.0.1:{free_port()}/sslmem")
    stranded = Context.from_settings(rows.with_settings(context, sweep_seconds=0.02, database_url=nowhere))
    thread, stop = started(stranded)
    eventually(lambda: caplog.text.count("the sweep failed; trying again") >= 2)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    stranded.close()
