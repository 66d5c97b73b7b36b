"""Media come in by stream, base64, URL or reference; bounded, looked at, stored once."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import shutil
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from app.database import Database
from app.errors import (
    FetchRefused,
    MalformedBody,
    NotFound,
    PayloadTooLarge,
    StorageFull,
    UnsupportedMedia,
)
from app.media.files import clear_spool
from app.media.intake import Intake, decode_base64
from app.media.limits import MediaLimits
from app.media.retention import sweep_uploads
from app.media.sandbox import Sandbox
from app.media.store import BlobStore
from app.media.tables import Blob, Upload
from app.wire import Base64Ref, UploadRef, UrlRef
from tests import mediakit
from tests.conftest import Clock

pytestmark = pytest.mark.asyncio(loop_scope="module")

PNG = mediakit.image_bytes()


async def stream(content: bytes, piece: int = 4096) -> AsyncIterator[bytes]:
    for at in range(0, len(content), piece):
        yield content[at : at + piece]


async def fetch(
    url: str, *, limit_bytes: int, timeout_seconds: float
) -> AsyncGenerator[bytes, None]:
    if "private" in url:
        raise FetchRefused("The address is private.")
    yield PNG[:100]
    yield PNG[100:]


@pytest.fixture
def intake(db: Database, store: BlobStore, sandbox: Sandbox, spool: Path, clock: Clock) -> Intake:
    return Intake(db=db, store=store, sandbox=sandbox, spool=spool, fetch=fetch, now=clock)


def rows(session: Session) -> tuple[int, int]:
    return (
        session.exec(select(func.count()).select_from(Upload)).one(),
        session.exec(select(func.count()).select_from(Blob)).one(),
    )


async def test_an_upload_tells_what_it_is_and_is_there_afterwards(
    intake: Intake, store: BlobStore, tmp_path: Path, spool: Path, clock: Clock
) -> None:
    content = mediakit.make_video(tmp_path / "a.mp4", audio=True).read_bytes()
    accepted = await intake.upload(stream(content), owner="k1", expect="video")
    view = accepted.view
    assert (view.kind, view.width, view.height, view.frames) == ("video", 64, 96, 24)
    assert (view.bytes, view.has_audio, view.created_at) == (len(content), True, clock())
    assert b"".join([p async for p in store.read(accepted.blob_id)]) == content
    assert await intake.get(view.id, owner="k1") == accepted
    assert list(spool.iterdir()) == []  # noqa: ASYNC240


async def test_the_same_content_is_the_same_upload_for_one_owner_and_one_blob_for_all(
    intake: Intake, db: Database
) -> None:
    first = await intake.upload(stream(PNG), owner="k1")
    again = await intake.upload(stream(PNG, 7), owner="k1")
    other = await intake.upload(stream(PNG), owner="k2")
    nobody = await intake.upload(stream(PNG), owner=None)
    assert first == again
    assert await intake.upload(stream(PNG), owner=None) == nobody
    assert len({one.view.id for one in (first, other, nobody)}) == 3
    assert len({one.blob_id for one in (first, other, nobody)}) == 1
    assert await db.read(rows) == (3, 1)


async def test_an_upload_is_seen_by_its_owner_and_who_may_see_all(intake: Intake) -> None:
    ref = UploadRef(upload_id=(await intake.upload(stream(PNG), owner="k1")).view.id)
    assert (await intake.accept(ref, owner="k1")).view.id == ref.upload_id
    assert (await intake.accept(ref, owner="admin", any_owner=True)).view.id == ref.upload_id
    for stranger in ("k2", None):
        with pytest.raises(NotFound, match=ref.upload_id):
            await intake.accept(ref, owner=stranger)


async def test_a_reference_of_the_wrong_kind_is_refused(intake: Intake) -> None:
    accepted = await intake.upload(stream(PNG), owner=None)
    ref = UploadRef(upload_id=accepted.view.id)
    with pytest.raises(UnsupportedMedia, match=r"an image\. Send an mp4"):
        await intake.accept(ref, owner=None, expect="video")
    with pytest.raises(UnsupportedMedia, match=r"an image\. Send an mp4"):
        await intake.upload(stream(PNG), owner=None, expect="video")


async def test_base64_and_urls_come_in_the_same_way(intake: Intake) -> None:
    text = base64.b64encode(PNG).decode()
    lines = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    ids = {
        (await intake.accept(ref, owner=None)).view.id
        for ref in (
            Base64Ref(base64=text),
            Base64Ref(base64=f"data:image/png;base64,{text}"),
            Base64Ref(base64=lines),
            UrlRef(url="https://example.com/a.png"),
        )
    }
    assert len(ids) == 1
    with pytest.raises(FetchRefused, match="private"):
        await intake.accept(UrlRef(url="https://private/"), owner=None)


@pytest.mark.parametrize("text", ["abc", "ab=c", "a*bc", "abcé", "abcd=", "=" * 8])
async def test_what_is_not_base64_is_refused(intake: Intake, text: str) -> None:
    with pytest.raises(MalformedBody):
        await intake.accept(Base64Ref(base64=text), owner=None)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 49_151, 49_152, 49_153, 200_000])
async def test_base64_is_decoded_exactly_and_within_its_limit(size: int) -> None:
    data = os.urandom(size)
    text = base64.b64encode(data).decode()
    assert b"".join([p async for p in decode_base64(text, max_bytes=size)]) == data
    if size > 3:
        with pytest.raises(PayloadTooLarge):
            _ = [p async for p in decode_base64(text, max_bytes=size - 4)]


async def test_too_large_a_file_is_refused_before_its_end(
    db: Database, store: BlobStore, spool: Path, clock: Clock
) -> None:
    box = Sandbox(limits=MediaLimits(max_bytes=10_000))
    intake = Intake(db=db, store=store, sandbox=box, spool=spool, fetch=None, now=clock)
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 1000
            yield bytes(1000)

    with pytest.raises(PayloadTooLarge, match="10,000 bytes"):
        await intake.upload(endless(), owner=None)
    assert given == 11_000
    assert list(spool.iterdir()) == []  # noqa: ASYNC240
    with pytest.raises(UnsupportedMedia, match="fetches no URLs"):
        await intake.accept(UrlRef(url="https://example.com"), owner=None)


async def test_a_refused_or_broken_upload_leaves_nothing(
    intake: Intake, db: Database, spool: Path
) -> None:
    with pytest.raises(UnsupportedMedia):
        await intake.upload(stream(b"not a picture"), owner=None)

    async def broken() -> AsyncIterator[bytes]:
        yield PNG[:50]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await intake.upload(broken(), owner=None)
    assert list(spool.iterdir()) == []  # noqa: ASYNC240
    assert await db.read(rows) == (0, 0)


async def test_a_full_spool_disk_is_said_to_be_full(
    intake: Intake, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("anyio.AsyncFile.write", full)
    with pytest.raises(StorageFull, match="full"):
        await intake.upload(stream(PNG), owner=None)
    assert list(spool.iterdir()) == []  # noqa: ASYNC240


async def test_an_upload_leaves_the_disk_what_it_must_have(
    db: Database, store: BlobStore, sandbox: Sandbox, spool: Path, clock: Clock
) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1 << 20
            yield bytes(1 << 20)

    intake = Intake(
        db=db,
        store=store,
        sandbox=sandbox,
        spool=spool,
        fetch=None,
        now=clock,
        free_bytes=lambda: (10 << 20) - taken,
        min_free_bytes=4 << 20,
    )
    with pytest.raises(StorageFull, match="left free"):
        await intake.upload(endless(), owner=None)
    assert taken == 4 << 20, "once more as much goes into the store"
    assert list(spool.iterdir()) == []  # noqa: ASYNC240


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\dance.mp4", "dance.mp4"),
        ("a\x00b\r\nc.png", "abc.png"),
        ("é" * 300, "é" * 255),
        ("/", None),
        (None, None),
    ],
)
async def test_a_file_name_is_a_label_and_never_a_path(
    intake: Intake, db: Database, spool: Path, name: str | None, label: str | None
) -> None:
    await intake.upload(stream(PNG), owner=None, filename=name)
    assert await db.read(lambda s: s.exec(select(Upload.filename)).one()) == label
    assert sorted(path.name for path in spool.parent.iterdir()) == [
        "gateway.db",
        "gateway.db-shm",
        "gateway.db-wal",
        "spool",
    ]


async def test_uploads_go_when_unused_and_nothing_refers_to_them(
    intake: Intake, db: Database, store: BlobStore, clock: Clock
) -> None:
    used = await intake.upload(stream(PNG), owner=None)
    idle = await intake.upload(stream(mediakit.image_bytes("JPEG")), owner=None)
    fresh = await intake.upload(stream(mediakit.image_bytes("WEBP")), owner=None)
    clock.advance(3600)
    await intake.accept(UploadRef(upload_id=fresh.view.id), owner=None)
    clock.advance(60)

    def sweep(session: Session) -> int:
        in_use = sa.select(sa.literal(used.view.id))
        return sweep_uploads(session, now=clock(), ttl=timedelta(hours=1), in_use=in_use)

    assert await db.write(sweep) == 1
    left = await db.read(lambda s: set(s.exec(select(Upload.id)).all()))
    assert left == {used.view.id, fresh.view.id}
    clock.advance(7200)
    await store.sweep(grace=timedelta(hours=1))
    assert (
        await db.read(lambda s: s.exec(select(Blob.id).where(col(Blob.id) == idle.blob_id)).all())
        == []
    )
    assert await db.read(rows) == (2, 2)


async def test_what_a_killed_gateway_left_in_the_spool_is_cleared(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "spool"
    assert clear_spool(directory) == 0
    (directory / "left.mp4").write_bytes(b"x")
    (directory / "link").symlink_to(tmp_path / "nowhere")
    assert clear_spool(directory) == 2
    assert list(directory.iterdir()) == []


MEMORY = """
import asyncio, resource, sys
from datetime import UTC, datetime
from pathlib import Path
from app.database import Database
from app.media.intake import Intake
from app.media.limits import MediaLimits
from app.media.sandbox import Sandbox
from app.media.store import BlobStore

async def main(database, head, directory, mib):
    db = Database(f"sqlite:///{database}")
    db.open()
    now = lambda: datetime.now(UTC)
    store = BlobStore(db, now=now)
    box = Sandbox(limits=MediaLimits())
    intake = Intake(db=db, store=store, sandbox=box, spool=Path(directory), fetch=None, now=now)
    async def big(size):
        yield Path(head).read_bytes()
        for number in range(size):
            yield number.to_bytes(4, "big") * (1 << 18)
    await intake.upload(big(2), owner=None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    accepted = await intake.upload(big(mib), owner=None)
    async for piece in store.read(accepted.blob_id):
        pass
    print(accepted.view.bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    await box.aclose()
    db.close()

asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
"""


async def test_a_large_upload_and_download_take_little_memory(
    migrated: Path, tmp_path: Path, spool: Path
) -> None:
    database, head, mib = tmp_path / "big.db", tmp_path / "head.png", 150
    shutil.copy(migrated, database)
    head.write_bytes(PNG)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        MEMORY,
        str(database),
        str(head),
        str(spool),
        str(mib),
        stdout=asyncio.subprocess.PIPE,
    )
    shown, _ = await asyncio.wait_for(process.communicate(), 180)
    size, grown_kib = (int(word) for word in shown.split())
    assert size == len(PNG) + (mib << 20)
    assert grown_kib < 20 << 10
