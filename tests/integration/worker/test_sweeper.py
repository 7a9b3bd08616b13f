"""The sweeper's own loop."""

import os
import threading

import pytest
from pydantic import SecretStr

from service import health
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
    eventually(lambda: health.sweeper_lives(context))
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


def test_sweeper_applies_the_policies_and_removes_what_nothing_names(context: Context) -> None:
    quick = Context.from_settings(rows.with_settings(context, sweep_seconds=0.02, retention_seconds=0.02))
    audit, digest = rows.succeeded_audit(context), rows.store(context, b"left over")
    os.utime(context.store.path(digest), (0, 0))
    thread, stop = started(quick)
    eventually(lambda: not list(context.store.files()))
    assert rows.audit_of(context, audit.id).scores_deleted_at is None
    stop.set()
    thread.join(10)
    quick.close()
    strict = Context.from_settings(rows.with_settings(quick, keep_scores_days=1e-9))
    thread, stop = started(strict)
    eventually(lambda: rows.audit_of(context, audit.id).scores_deleted_at)
    stop.set()
    thread.join(10)
    strict.close()
