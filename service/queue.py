"""The doorbell: messages that carry ids, sent only after the transaction that made the work has committed."""

import logging

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from models.audit import QUEUES
from service.settings import Settings

logger = logging.getLogger(__name__)

CHECK_ENCODER = "encoder.check"
CHECK_DATASET = "dataset.check"
SCORE_CHUNK = "chunk.score"
FINALISE_AUDIT = "audit.finalise"

DEFAULT, GPU = QUEUES

_PENDING = "sslmem.messages"


def list_name(settings: Settings, queue: str) -> str:
    """What a queue is called in the broker."""
    return settings.queue if queue == DEFAULT else f"{settings.queue}-{queue}"


def create_celery(settings: Settings) -> Celery:
    """Creates the Celery application.

    A message is gone from Redis when a worker takes it, and no results are kept: the database knows what is to be
    done, and the sweeper sends again what was lost. So there is nothing to deliver twice after a visibility timeout,
    and no acknowledgement that a broker going away could swallow: a worker would wait for that one for ever.
    """
    app = Celery("sslmem", broker=settings.require_broker_url(), set_as_current=False)
    app.conf.update(
        task_default_queue=list_name(settings, DEFAULT),
        task_create_missing_queues=True,
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=3,
        broker_transport_options={
            "ack_emulation": False,
            "max_retries": 0,  # of sending: a request does not wait for a broker that is down, the sweeper does
            "socket_timeout": 10,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        task_serializer="json",
        accept_content=["json"],
    )
    return app


class JobQueue:
    """Sends messages to workers."""

    def __init__(self, settings: Settings) -> None:
        self.app = create_celery(settings)
        self._names = {queue: list_name(settings, queue) for queue in QUEUES}

    def send(self, name: str, row_id: object, queue: str = DEFAULT) -> bool:
        """Sends a message now. A broker that is down is logged only, and False: the sweeper sends again."""
        try:
            self.app.send_task(name, args=[str(row_id)], queue=self._names[queue], retry=False)
        except (OperationalError, OSError) as error:
            logger.warning("%s %s not sent, the sweeper will: %s", name, row_id, error)
            return False
        return True

    def length(self, queue: str = DEFAULT) -> int:
        """How many messages of a queue no worker has taken yet; 0 if the broker does not say."""
        try:
            with Redis.from_url(self.app.conf.broker_url, socket_connect_timeout=2, socket_timeout=2) as broker:
                return int(broker.llen(self._names[queue]))
        except RedisError as error:
            logger.warning("the length of the queue is not known: %s", error)
            return 0

    def send_after_commit(self, session: Session, name: str, row_id: object, queue: str = DEFAULT) -> None:
        """Sends a message once the session's transaction has committed; never if it, or its savepoint, rolls back."""
        within = session.get_nested_transaction() or session.get_transaction()
        session.info.setdefault(_PENDING, []).append((within, self, name, row_id, queue))


@event.listens_for(Session, "after_commit")
def _send_pending(session: Session) -> None:
    # Also called when a savepoint is released, which commits nothing yet.
    if session.in_nested_transaction():
        return
    for _, jobs, name, row_id, queue in session.info.pop(_PENDING, []):
        if not jobs.send(name, row_id, queue):
            return  # nor would it take the others, each after a time-out


@event.listens_for(Session, "after_soft_rollback")
def _drop_pending(session: Session, previous: SessionTransaction) -> None:
    pending = session.info.pop(_PENDING, [])
    if previous.nested:
        session.info[_PENDING] = [message for message in pending if not _is_within(message[0], previous)]


def _is_within(inner: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while inner is not None and inner is not outer:
        inner = inner.parent
    return inner is outer
