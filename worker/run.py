"""What a worker does with an id: the only place where the service and torch meet."""

import logging
import tempfile
import time
import uuid
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.audit import QUEUES, Audit, Chunk
from models.dataset import Dataset
from models.encoder import Encoder
from service import chunks, intake, jobs, results
from service.chunks import ChunkPlan, EncoderFiles, RecordedScore
from service.claims import claim_next
from service.context import Context
from service.database import UNAVAILABLE, Session
from service.errors import ServiceError
from service.jobs import LeaseLost
from service.settings import Settings
from sslmem.errors import SslmemError
from worker.board import Board
from worker.lease import Lease
from worker.spool import SampleSpool

if TYPE_CHECKING:
    from sslmem.datasets.protocol import Dataset as OpenDataset
    from sslmem.encoders.encoder import Encoder as LoadedEncoder

logger = logging.getLogger(__name__)

Accept = Callable[[Session, str], None]  # with the session to do it in and the owner of the lease

WARM_ENCODERS = 8
MAX_LABELS = 10_000
MAX_PAUSE_SECONDS = 30.0
UNEXPECTED = "internal-error"


class Runner:
    """Runs the tasks in the worker's child process. Torch is loaded by the first task that needs it.

    Args:
        settings: of the deployment.
        owner: name of the worker.
        board: where it shows what it is at; the parent renews its leases.
        queues: that the worker takes work from.
    """

    def __init__(self, settings: Settings, owner: str, board: Board, queues: Sequence[str] = QUEUES) -> None:
        self._settings, self._owner, self._board, self._queues = settings, owner, board, queues
        self._context: Context | None = None
        self._failures = 0  # unexpected ones, in a row
        self._warm: OrderedDict[EncoderFiles, LoadedEncoder] = OrderedDict()
        self._dataset: tuple[str, OpenDataset] | None = None
        self._close_dataset: Callable[[], object] = lambda: None

    def open(self) -> None:
        """Connects, in the child: connections do not survive a fork."""
        self._context = Context.from_settings(self._settings, pool_size=4)

    @property
    def context(self) -> Context:
        """Database, artifacts and queue of this process."""
        if self._context is None:
            self.open()
        if self._context is None:
            raise RuntimeError("the runner has no context")
        return self._context

    def check_encoder(self, encoder_id: uuid.UUID) -> None:
        """Converts, loads and probes an uploaded checkpoint."""
        self._check(Encoder, encoder_id, self._inspect_encoder)

    def check_dataset(self, dataset_id: uuid.UUID) -> None:
        """Reads and decodes all images of an uploaded dataset."""
        self._check(Dataset, dataset_id, self._inspect_dataset)

    def _check(self, model: intake.IntakeModel, row_id: uuid.UUID, inspect: Callable[[Any, Lease], Accept]) -> None:
        """Claims an encoder or dataset, inspects it, and accepts or refuses it."""
        context, owner = self.context, self._task_owner()
        with context.sessions.begin() as session:
            if not jobs.claim(session, model, row_id, owner, self._settings.lease_seconds):
                return
            row = session.get(model, row_id)
            if row is None:
                return
        try:
            with Lease(self._board, model, row_id, owner) as lease:
                accept = inspect(row, lease)
                with context.sessions.begin() as session:
                    accept(session, owner)
        except LeaseLost:
            logger.warning("%s %s is no longer ours; dropped", model.__name__, row_id)
        except SslmemError as error:
            with self._if_still_ours(model, row_id) as session:
                intake.refuse(session, model, row_id, owner, code=error.code, detail=error.detail)
        except (SystemExit, KeyboardInterrupt):
            with self._if_still_ours(model, row_id) as session:
                jobs.hand_back(session, model, row_id, owner)
            raise
        except Exception as error:
            logger.exception("%s %s failed", model.__name__, row_id)
            detail, attempts = f"{type(error).__name__}: {error}", self._settings.max_attempts
            with self._if_still_ours(model, row_id) as session:
                intake.retry_later(session, model, row_id, owner, max_attempts=attempts, code=UNEXPECTED, detail=detail)

    @contextmanager
    def _if_still_ours(self, model: jobs.LeasedModel, row_id: uuid.UUID) -> Iterator[Session]:
        """A transaction for what became of a row, which is dropped if the row is no longer this worker's."""
        try:
            with self.context.sessions.begin() as session:
                yield session
        except LeaseLost:
            logger.warning("%s %s is no longer ours; what became of it is dropped", model.__name__, row_id)

    def _inspect_encoder(self, row: Encoder, lease: Lease) -> Accept:
        from sslmem.encoders.convert import convert_checkpoint  # noqa: PLC0415
        from sslmem.encoders.load import load_encoder, probe  # noqa: PLC0415
        from sslmem.encoders.sanity import look_over  # noqa: PLC0415
        from sslmem.scoring import pick_device  # noqa: PLC0415

        store = self.context.store
        with tempfile.TemporaryDirectory(prefix="sslmem-") as folder:
            plain = Path(folder) / "encoder.safetensors"
            convert_checkpoint(store.path(row.artifact_digest), plain, name=row.name)
            lease.advance()
            encoder = load_encoder(
                plain,
                architecture=row.architecture,
                input_size=row.input_size,
                mean=(row.mean[0], row.mean[1], row.mean[2]) if row.mean else None,
                std=(row.std[0], row.std[1], row.std[2]) if row.std else None,
                method=row.method,
                branch=row.branch,
                options=row.options,
                device=str(pick_device(self._settings.device)),
            )
            encoder.on_forward = lease.advance
            found = probe(encoder)
            look_over(encoder)
            values = {
                "architecture": encoder.report.architecture,
                "input_size": encoder.input_size,
                "weights_artifact_digest": store.put_file(plain),
                "weights_digest": encoder.weights_digest,
                "load_report": encoder.report.model_dump(mode="json"),
                "representation_dim": found.representation_dim,
                "views_per_second": found.views_per_second,
            }

        def accept(session: Session, owner: str) -> None:
            try:
                intake.accept_encoder(session, store, row.id, owner, values)
            except LeaseLost:
                intake.discard_if_deleted(session, store, row.id, str(values["weights_artifact_digest"]))
                raise

        return accept

    def _inspect_dataset(self, row: Dataset, lease: Lease) -> Accept:
        from sslmem.datasets.source import open_dataset  # noqa: PLC0415
        from sslmem.scan import scan  # noqa: PLC0415

        labels: Counter[str] = Counter()
        num_skipped = 0
        with open_dataset(self.context.store.path(row.artifact_digest)) as dataset, ExitStack() as stack:
            kept = stack.enter_context(SampleSpool())
            for sample in scan(dataset):
                lease.advance()
                skipped = None if sample.skipped is None else sample.skipped.reason
                looks = None if sample.looks is None else sample.looks.tobytes()
                kept.append(intake.CheckedSample(sample.name, sample.key, sample.label, skipped, looks))
                num_skipped += skipped is not None
                if sample.label is not None and (sample.label in labels or len(labels) < MAX_LABELS):
                    labels[sample.label] += 1
            found = {
                "format": dataset.format,
                "num_samples": len(dataset.samples),
                "num_skipped": num_skipped,
                "labels": dict(labels),
            }
            opened = stack.pop_all()

        def accept(session: Session, owner: str) -> None:
            with opened:
                intake.accept_dataset(session, row.id, owner, kept, found)

        return accept

    def score_chunk(self, chunk_id: uuid.UUID) -> None:
        """Scores the chunk whose turn it is; the message of one only says that there is work.

        Encoders and datasets that wait for their check go before it: they take seconds, and an audit waits for them.
        """
        self._check_waiting()
        self._finalise_waiting()
        context, owner = self.context, self._task_owner()
        plan = claim_next(context.sessions, chunk_id, owner, self._settings.lease_seconds, self._queues)
        if plan is None:
            return
        chunk_id = plan.chunk_id
        try:
            with Lease(self._board, Chunk, chunk_id, owner) as lease:
                scores = self._score(plan, lease)
                with context.sessions.begin() as session:
                    last = chunks.record_scores(session, context.queue, plan, owner, scores, lease.conditions)
            logger.info("chunk %s of audit %s: %d samples scored", chunk_id, plan.audit_id, len(scores))
        except LeaseLost:
            logger.warning("chunk %s is no longer ours; its scores are dropped", chunk_id)
        except SslmemError as error:
            with self._if_still_ours(Chunk, chunk_id) as session:
                chunks.fail_chunk(session, plan, owner, code=error.code, detail=error.detail, max_attempts=None)
        except (SystemExit, KeyboardInterrupt):
            with self._if_still_ours(Chunk, chunk_id) as session:
                chunks.hand_back(session, chunk_id, owner)
            raise
        except Exception as error:
            logger.exception("chunk %s failed", chunk_id)
            detail = f"scoring failed unexpectedly ({type(error).__name__}: {error}); the worker's log has the details"
            attempts, counts = self._settings.max_attempts, not isinstance(error, UNAVAILABLE)
            with self._if_still_ours(Chunk, chunk_id) as session:
                chunks.fail_chunk(
                    session, plan, owner, code=UNEXPECTED, detail=detail, max_attempts=attempts, counts=counts
                )
            self._pause_after_a_failure()
        else:
            self._failures = 0
            if last:
                self.finalise_audit(plan.audit_id)

    def _pause_after_a_failure(self) -> None:
        """Longer after each in a row: a worker that is broken leaves the chunks to those that are not."""
        self._failures += 1
        time.sleep(min(2.0**self._failures, MAX_PAUSE_SECONDS))

    def _finalise_waiting(self) -> None:
        """An audit that only waits to be summarised does not wait for a message behind those of a long one."""
        with self.context.sessions.begin() as session:
            waiting = chunks.first_unsummarised(session)
        if waiting is not None:
            self.finalise_audit(waiting)

    def _check_waiting(self) -> None:
        for model, inspect in ((Encoder, self._inspect_encoder), (Dataset, self._inspect_dataset)):
            with self.context.sessions.begin() as session:
                waiting = intake.first_waiting(session, model)
            if waiting is not None:
                self._check(model, waiting, inspect)

    def _score(self, plan: ChunkPlan, lease: Lease) -> list[RecordedScore]:
        from sslmem.scoring import Scorer, pick_device, read_samples  # noqa: PLC0415

        targets, references = ([self._load(files, lease) for files in part] for part in (plan.targets, plan.references))
        roles = dict(plan.entries)
        scores: list[RecordedScore] = []
        device, batch_size = pick_device(self._settings.device), self._settings.batch_size
        scorer = Scorer(targets, references, plan.spec, device=device, batch_size=batch_size)
        dataset = self._open(plan.dataset_digest)
        encoders = (*targets, *references)
        for encoder in encoders:
            # Before the first batch is done there may be minutes of checking precisions, and of many views.
            encoder.on_forward = lambda: lease.advance(len(scores))
        try:
            for batch in scorer.score(read_samples(dataset, [path for path, _ in plan.entries])):
                scores += [
                    RecordedScore(
                        sample=s.name,
                        sample_key=s.key,
                        role=roles[s.name],
                        score=s.score,
                        score_bounded=s.score_bounded,
                        standard_error=s.standard_error,
                        alignment_target=s.alignment_target,
                        alignment_reference=s.alignment_reference,
                        skipped=s.skipped,
                        alignment_targets=s.alignment_targets,
                        alignment_references=s.alignment_references,
                        reference_spread=s.reference_spread,
                        num_views=s.num_views,
                    )
                    for s in batch
                ]
                lease.advance(len(scores))
        finally:  # encoders are kept for the next chunk, these scores are not
            for encoder in encoders:
                encoder.on_forward = None
        lease.conditions = scorer.conditions
        return scores

    def _open(self, digest: str) -> "OpenDataset":
        """Opens a dataset, or returns it if it was the last one: listing a million images takes half a minute."""
        from sslmem.datasets.source import open_dataset  # noqa: PLC0415

        if self._dataset is None or self._dataset[0] != digest:
            self._close_dataset()
            self._dataset = None
            dataset = open_dataset(self.context.store.path(digest))
            self._dataset = (digest, dataset)
            self._close_dataset = weakref.finalize(self, dataset.close)
        return self._dataset[1]

    def _load(self, files: EncoderFiles, lease: Lease) -> "LoadedEncoder":
        """Loads an encoder, or returns it from among the last few used."""
        lease.advance()
        from sslmem.encoders.load import load_encoder  # noqa: PLC0415
        from sslmem.scoring import pick_device  # noqa: PLC0415

        if files not in self._warm:
            self._warm[files] = load_encoder(
                self.context.store.path(files.weights_artifact_digest),
                architecture=files.architecture,
                input_size=files.input_size,
                mean=files.mean,
                std=files.std,
                representation=files.representation,
                branch=files.branch,
                options=dict(files.options),
                device=str(pick_device(self._settings.device)),
            )
        self._warm.move_to_end(files)
        while len(self._warm) > WARM_ENCODERS:
            self._warm.popitem(last=False)
        return self._warm[files]

    def finalise_audit(self, audit_id: uuid.UUID) -> None:
        """Summarises an audit whose scores are complete."""
        sessions, owner = self.context.sessions, self._task_owner()
        with sessions.begin() as session:
            if not chunks.begin_finalising(session, audit_id, owner, self._settings.lease_seconds):
                return
        try:
            with Lease(self._board, Audit, audit_id, owner), sessions.begin() as session:
                chunks.finalise(session, audit_id, owner)
            logger.info("audit %s succeeded", audit_id)
        except LeaseLost:
            logger.warning("audit %s is no longer ours; its summary is dropped", audit_id)
        except (SystemExit, KeyboardInterrupt):
            with self._if_still_ours(Audit, audit_id) as session:
                chunks.give_up_finalising(session, audit_id, owner, None)
            raise
        except Exception as error:
            logger.exception("audit %s was not summarised", audit_id)
            with self._if_still_ours(Audit, audit_id) as session:
                chunks.give_up_finalising(session, audit_id, owner, f"{type(error).__name__}: {error}")
        else:
            self._keep_evidence(audit_id)

    def _keep_evidence(self, audit_id: uuid.UUID) -> None:
        """What people ask for next; if it is lost, the first of them waits for it."""
        try:
            results.evidence_of(self.context.sessions, audit_id, confidence=results.CONFIDENCE, fdr=results.FDR)
        except ServiceError as error:
            logger.warning("no evidence was kept of audit %s: %s", audit_id, error)

    def _task_owner(self) -> str:
        """A new name for each claim: a worker that claims a row again must not pass for its earlier self."""
        return f"{self._owner}:{uuid.uuid4().hex[:8]}"
