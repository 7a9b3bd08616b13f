"""Real servers of a benchmark's own, and audits of any size in them without one image or encoder."""

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from models.audit import Audit
from models.dataset import RoleSet
from service import audits
from service.context import Context
from service.embedded.postgres import Postgres
from service.embedded.redis import Redis
from service.migrate import upgrade
from service.settings import Settings
from tests.support.rows import add_dataset, add_encoder

VIEWS = 10


@contextmanager
def fresh_context() -> Iterator[Context]:
    """PostgreSQL and Redis as the embedded service starts them, migrated and empty."""
    with tempfile.TemporaryDirectory(prefix="sslmem-benchmark-") as name:
        folder = Path(name)
        postgres = Postgres.start(folder / "postgres", folder / "postgres.log")
        redis = Redis.start(folder / "redis", folder / "redis.log")
        try:
            upgrade(postgres.url)
            settings = Settings(
                home=folder, database_url=SecretStr(postgres.url), broker_url=SecretStr(redis.url), log_level="WARNING"
            )
            context = Context.from_settings(settings)
            yield context
            context.close()
        finally:
            redis.stop()
            postgres.stop()


def plan_audit(context: Context, num_samples: int, samples_per_chunk: int, project: str = "") -> Audit:
    """Requests an audit by the real use case. Its table of roles says how many samples it has but lists none."""
    tag = uuid.uuid4().hex
    rate = 1000.0 * VIEWS * 2  # with two encoders, 1000 samples per second
    settings = context.settings.model_copy(update={"chunk_seconds": samples_per_chunk / 1000})
    with context.sessions.begin() as session:
        encoders = [add_encoder(session, f"{part} {tag}", views_per_second=rate) for part in ("target", "reference")]
        dataset = add_dataset(session, [], f"dataset {tag}", num_samples=num_samples)
        roles = RoleSet(dataset_id=dataset.id, name="roles", digest=tag, num_samples=num_samples, counts={})
        session.add(roles)
        session.flush()
        return audits.request_audit(
            session,
            context.queue,
            settings,
            name=tag,
            target_ids=[encoders[0].id],
            reference_ids=[encoders[1].id],
            dataset_id=dataset.id,
            role_set_id=roles.id,
            spec={"views": VIEWS},
            project=project,
        )[0]
