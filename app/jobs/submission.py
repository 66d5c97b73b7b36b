"""Turning a request into a queued job, or into words that say why it cannot be one.

Everything that can refuse comes before the one transaction that stores the job, so a refusal
leaves no job behind.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select
from uuid_utils import compat as uuids

from app import wire
from app.access.limits import Limiter
from app.access.scopes import Caller, seen_owner
from app.database import Database
from app.errors import (
    FetchRefused,
    FieldError,
    GatewayError,
    IdempotencyInFlight,
    InvalidRequest,
    StorageFull,
)
from app.gpu.estimate import Estimator
from app.jobs import queue, views
from app.jobs.batch import check_seeds, each_request
from app.jobs.inputs import JobInputs, use_uploads
from app.jobs.pace import expected_seconds
from app.jobs.pricing import Pricing, ahead, must_be_taken
from app.jobs.queue import Idempotency, NewJob, Submitted
from app.jobs.quota import QueueQuota
from app.jobs.stations import Stations
from app.jobs.tables import Job
from app.media.intake import Intake
from app.workflows.registry import Registry
from app.workflows.values import Resolved
from app.workflows.workflow import Workflow

_SEEDS = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the operator allows.

    Attributes:
        max_queued_jobs: Length of the queue at which no more is taken.
        max_queue_seconds: Longest wait that can be asked for, and the default.
        max_run_seconds: Longest run that can be asked for, and the default.
        min_free_bytes: Free disk below which nothing is taken.
    """

    max_queued_jobs: int
    max_queue_seconds: float
    max_run_seconds: float
    min_free_bytes: int


class Submission:
    """Takes requests in. One for the whole process: it knows which keys are in flight."""

    def __init__(
        self,
        *,
        db: Database,
        workflows: Registry,
        intake: Intake,
        stations: Stations,
        estimator: Estimator,
        limiter: Limiter,
        check_url: Callable[[str], None],
        free_bytes: Callable[[], int],
        bounds: Bounds,
        now: Callable[[], datetime],
        random_seed: Callable[[], int] = lambda: secrets.randbelow(_SEEDS),
    ) -> None:
        self._db = db
        self._workflows = workflows
        self._inputs = JobInputs(intake=intake, limiter=limiter)
        self._stations = stations
        self._pricing = Pricing(stations, estimator)
        self._quota = QueueQuota(limiter=limiter, max_queued_jobs=bounds.max_queued_jobs)
        self._check_url = check_url
        self._free_bytes = free_bytes
        self._bounds = bounds
        self._now = now
        self._random_seed = random_seed
        self._in_flight: set[tuple[str | None, str]] = set()

    # --- the verbs -------------------------------------------------------------------------------

    async def submit(
        self,
        asked: wire.JobRequest,
        *,
        caller: Caller,
        attached: Mapping[str, wire.Upload] | None = None,
        key: str | None = None,
        trace: Mapping[str, str] | None = None,
    ) -> Submitted:
        """Store a request as a queued job.

        Args:
            asked: The request.
            caller: Who asks; the job is theirs.
            attached: Media field to the upload that came as a file beside the request.
            key: The caller's idempotency key.
            trace: Trace headers of the call; they stay with the job.

        Raises:
            InvalidRequest: A field breaks a rule.
            UnknownWorkflow: No such workflow is installed.
            WorkflowUnavailable: Every engine lacks something that the workflow needs.
            UnsupportedMedia, PayloadTooLarge, FetchRefused: A media file cannot be used.
            NeverFits: No card is large enough.
            IdempotencyMismatch, IdempotencyInFlight: The key belongs to another request, or to
                one that is being answered.
            RateLimited, QueueFull, StorageFull: It could be taken at another time.
        """
        attached = attached or {}
        idempotency = Idempotency(key, fingerprint(asked, attached)) if key is not None else None
        with self._alone(caller, key):
            earlier = await self._earlier(caller, idempotency)
            if earlier is not None:
                return earlier
            workflow = self.check(asked, attached=attached)
            media = await self._inputs.take(
                workflow, asked.request, caller=caller, attached=attached
            )
            first, *others = [
                workflow.resolve(request, media, seed=self._random_seed())
                for request in each_request(asked)
            ]
            self._pricing.must_fit(workflow, first)
            new = self._new(asked, workflow, first, media, caller, idempotency)
            new = replace(new, trace=trace, batch_id=str(uuids.uuid7()) if others else None)
            takes = self._pricing.upload_limit()

            def store(session: Session) -> Submitted:
                must_be_taken(session, new.inputs, first, limit_bytes=takes)
                submitted = self._store(session, new, caller)
                for other in others if not submitted.replayed else ():
                    again = replace(new, request=other.request, idempotency=None)
                    self._store(session, again, caller)
                return submitted

            try:
                submitted = await self._db.write(store)
            except IntegrityError:
                # Another process stored the same key between our look and our write.
                earlier = await self._earlier(caller, idempotency)
                if earlier is None:
                    raise
                return earlier
        self._stations.wake()
        return submitted

    async def rerun(
        self,
        job_id: str,
        asked: wire.RerunRequest,
        *,
        caller: Caller,
        key: str | None = None,
        trace: Mapping[str, str] | None = None,
    ) -> Submitted:
        """Make a new job from an earlier one's resolved request, with some fields changed.

        Raises:
            NotFound: There is no such job, or it is somebody else's.
            GatewayError: As `submit` does; pointers are under `/overrides`.
        """
        earlier = await self._db.read(
            lambda session: views.view(session, job_id, owner=seen_owner(caller))[0]
        )
        webhook, queue_seconds, run_seconds = await self._db.read(
            lambda session: _treatment(session, job_id)
        )
        workflow = self._workflows.get(earlier.workflow)
        inputs = {name: earlier.request[name] for name in workflow.media if name in earlier.request}
        settled = {name: value for name, value in earlier.request.items() if name not in inputs}
        merged = workflow.merge(settled, asked.overrides)
        again = wire.JobRequest(
            workflow=earlier.workflow,
            request=inputs | merged,
            priority=earlier.priority,
            metadata=earlier.metadata,
            webhook=webhook,
            max_queue_seconds=_least(queue_seconds, self._bounds.max_queue_seconds),
            max_run_seconds=_least(run_seconds, self._bounds.max_run_seconds),
        )
        try:
            return await self.submit(again, caller=caller, key=key, trace=trace)
        except GatewayError as error:
            error.errors = tuple(_moved(fault, asked.overrides) for fault in error.errors)
            raise

    def check(self, asked: wire.JobRequest, *, attached: Collection[str] | None = None) -> Workflow:
        """Refuse what can be refused before any media are looked at.

        Args:
            asked: The request.
            attached: Media fields that came as files beside it; None if any may still come.

        Raises:
            GatewayError: As `submit`.
        """
        try:
            workflow = self._workflows.get(asked.workflow)
        except GatewayError as error:
            error.errors = (FieldError("/workflow", error.detail),)
            raise
        self._pricing.must_run(workflow)
        if attached is None:
            attached = [name for name in workflow.media if asked.request.get(name) is None]
        checks: tuple[Callable[[], object], ...] = (
            lambda: self._only_media(workflow, attached),
            lambda: workflow.media_refs(asked.request, attached=attached),
            lambda: workflow.resolve(asked.request, {}, seed=0),
            lambda: check_seeds(asked, workflow),
            lambda: self._bounded(asked),
        )
        faults: list[FieldError] = []
        for check in checks:
            try:
                check()
            except InvalidRequest as error:
                faults += error.errors
        if faults:
            raise InvalidRequest(" ".join(fault.detail for fault in faults), errors=faults)
        if asked.webhook is not None:
            try:
                self._check_url(asked.webhook.url)
            except FetchRefused as error:
                error.errors = (FieldError("/webhook/url", error.detail),)
                raise
        if self._free_bytes() < self._bounds.min_free_bytes:
            raise StorageFull(
                f"Less than {self._bounds.min_free_bytes:,} bytes are free on the gateway's disk. "
                "Delete finished jobs or free space, then send the request again.",
                retry_after=60,
            )
        return workflow

    async def estimate(
        self, name: str, request: Mapping[str, Any], *, caller: Caller
    ) -> wire.Estimate:
        """Price a request. Nothing is stored, and no URL is fetched.

        Uploads that it names are looked at; with other media, defaults are taken.

        Raises:
            UnknownWorkflow: No such workflow is installed.
            InvalidRequest: A field breaks a rule.
        """
        workflow = self._workflows.get(name)
        media = await self._inputs.look(workflow, request, caller=caller)
        resolved = workflow.resolve(request, media, seed=self._random_seed())
        price = self._pricing.price(workflow, resolved)
        seconds, position = await self._db.read(
            lambda session: (expected_seconds(session, workflow, resolved), ahead(session))
        )
        return wire.Estimate(
            need_mib=price.need_mib,
            learned=price.learned,
            fits=price.fits,
            card_mib=price.card_mib,
            expected_seconds=seconds,
            queue_position=position,
            warnings=resolved.warnings,
            request=resolved.request,
        )

    # --- refusals --------------------------------------------------------------------------------

    @staticmethod
    def _only_media(workflow: Workflow, attached: Collection[str]) -> None:
        known = ", ".join(workflow.media)
        faults = [
            FieldError(
                f"/{name}", f"The part {name[:64]!r} is no media field; there are {known}, and job."
            )
            for name in attached
            if name not in workflow.media
        ]
        if faults:
            raise InvalidRequest(" ".join(fault.detail for fault in faults), errors=faults)

    def _bounded(self, asked: wire.JobRequest) -> None:
        faults = [
            FieldError(
                f"/{name}",
                f"{name} is {value:,g}; this gateway allows at most {most:,g} seconds.",
            )
            for name, value, most in (
                ("max_queue_seconds", asked.max_queue_seconds, self._bounds.max_queue_seconds),
                ("max_run_seconds", asked.max_run_seconds, self._bounds.max_run_seconds),
            )
            if value is not None and value > most
        ]
        if faults:
            raise InvalidRequest(" ".join(fault.detail for fault in faults), errors=faults)

    # --- storing ---------------------------------------------------------------------------------

    def _new(
        self,
        asked: wire.JobRequest,
        workflow: Workflow,
        resolved: Resolved,
        media: Mapping[str, wire.Upload],
        caller: Caller,
        idempotency: Idempotency | None,
    ) -> NewJob:
        return NewJob(
            workflow=workflow.name,
            owner=caller.id,
            request=resolved.request,
            inputs={name: upload.id for name, upload in media.items()},
            shape=resolved.shape.key,
            formula_mib=workflow.estimate_mib(resolved),
            low_memory_shape=workflow.shape_of(resolved.request, low_memory=True).key,
            low_memory_mib=workflow.estimate_mib(resolved, low_memory=True),
            priority=asked.priority,
            labels=asked.metadata,
            warnings=resolved.warnings,
            webhook=asked.webhook.model_dump(mode="json") if asked.webhook is not None else None,
            max_queue_seconds=asked.max_queue_seconds or self._bounds.max_queue_seconds,
            max_run_seconds=asked.max_run_seconds or self._bounds.max_run_seconds,
            idempotency=idempotency,
        )

    def _store(self, session: Session, new: NewJob, caller: Caller) -> Submitted:
        self._quota.take(session, caller)
        now = self._now()
        use_uploads(session, new.inputs, now=now)
        return queue.submit(session, new, now=now)

    async def _earlier(self, caller: Caller, wanted: Idempotency | None) -> Submitted | None:
        if wanted is None:
            return None
        found = await self._db.read(
            lambda session: queue.find_idempotent(session, caller.id, wanted)
        )
        return Submitted(found, replayed=True) if found is not None else None

    @contextmanager
    def _alone(self, caller: Caller, key: str | None) -> Iterator[None]:
        """Hold a key for as long as its first request is being answered."""
        if key is None:
            yield
            return
        mine = (caller.id, key)
        if mine in self._in_flight:
            raise IdempotencyInFlight(
                f"A request with the Idempotency-Key {key!r} is being answered now. "
                "Send this one again in a second to get its answer.",
                retry_after=1,
            )
        self._in_flight.add(mine)
        try:
            yield
        finally:
            self._in_flight.discard(mine)


# --- pure ----------------------------------------------------------------------------------------


def fingerprint(asked: wire.JobRequest, attached: Mapping[str, wire.Upload]) -> str:
    """What makes two requests the same: their canonical JSON and the content of their files."""
    files = {name: upload.sha256 for name, upload in attached.items()}
    # What was not asked for is left out, so that a field more changes no earlier request's.
    said = asked.model_dump(mode="json", exclude=None if asked.seeds else {"seeds"})
    text = json.dumps([said, files], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _moved(fault: FieldError, overrides: Mapping[str, object]) -> FieldError:
    """A fault of a merged request, seen from the body of the rerun."""
    head, _, rest = fault.pointer.removeprefix("/request/").partition("/")
    if head not in overrides:
        return FieldError("/overrides", fault.detail)
    return FieldError(f"/overrides/{head}" + (f"/{rest}" if rest else ""), fault.detail)


def _least(value: float | None, most: float) -> float:
    return most if value is None else min(value, most)


# --- queries -------------------------------------------------------------------------------------


def _treatment(
    session: Session, job_id: str
) -> tuple[wire.WebhookRequest | None, float | None, float | None]:
    """How a job asked to be treated, where the job as shown does not say it."""
    webhook, queue_seconds, run_seconds = session.exec(
        select(Job.webhook, Job.max_queue_seconds, Job.max_run_seconds).where(col(Job.id) == job_id)
    ).one()
    asked = wire.WebhookRequest.model_validate(webhook) if webhook is not None else None
    return asked, queue_seconds, run_seconds
