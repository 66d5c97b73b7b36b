"""The rows behind media: bytes once per content, and everything that refers to them."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel


class Blob(SQLModel, table=True):
    """Some bytes, stored once. Who needs them refers to the row; nobody referring means garbage.

    A blob without a hash is still being written and must not be referred to. Ids are never used
    again, so that a reader of a swept blob finds nothing rather than somebody else's bytes.
    """

    __tablename__ = "blob"
    __table_args__ = (
        sa.UniqueConstraint("sha256", name="uq_blob_sha256"),
        sa.CheckConstraint("bytes >= 0", name="ck_blob_bytes"),
        sa.CheckConstraint("chunk_bytes > 0", name="ck_blob_chunk_bytes"),
        sa.Index("ix_blob_touched", "touched_at"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    sha256: str | None = Field(default=None, description="Lowercase hex; None while being written")
    bytes: int = Field(default=0, sa_type=sa.BigInteger)
    chunk_bytes: int
    object_key: str | None = Field(
        default=None, description="The object that holds the bytes; None: they lie in chunks"
    )
    created_at: datetime
    touched_at: datetime = Field(description="Last written to, or last found by its content")


class Chunk(SQLModel, table=True):
    """One piece of a blob; every piece but the last has the blob's `chunk_bytes`.

    There is no foreign key: the blob's row goes first and at once, its megabytes follow in small
    transactions, so that no sweep holds the one writer for long.
    """

    __tablename__ = "chunk"

    blob_id: int = Field(primary_key=True)
    idx: int = Field(primary_key=True)
    data: bytes = Field(sa_type=sa.LargeBinary)


class LooseObject(SQLModel, table=True):
    """An object in the object storage that no blob names: being written, or to be deleted."""

    __tablename__ = "loose_object"

    key: str = Field(primary_key=True)
    touched_at: datetime | None = Field(
        default=None, description="Last written to; None once it is to be deleted"
    )


class Upload(SQLModel, table=True):
    """A media file that a client sent, and what probing found in it."""

    __tablename__ = "upload"
    __table_args__ = (
        sa.Index("ix_upload_blob", "blob_id", "owner"),
        sa.Index("ix_upload_last_used", "last_used_at"),
        sa.CheckConstraint("kind IN ('image', 'video')", name="ck_upload_kind"),
    )

    id: str = Field(primary_key=True, description="UUIDv7")
    owner: str | None = Field(default=None, description="API key that sent it; None on loopback")
    blob_id: int = Field(
        sa_column=sa.Column(
            sa.ForeignKey("blob.id", name="fk_upload_blob", ondelete="RESTRICT"), nullable=False
        )
    )
    filename: str | None = Field(default=None, description="A label; never used as a path")
    kind: str
    media_type: str
    width: int
    height: int
    frames: int
    fps: float | None = None
    duration_seconds: float | None = None
    has_audio: bool = False
    codec: str = ""
    rotation: int = 0
    created_at: datetime
    last_used_at: datetime


class Artifact(SQLModel, table=True):
    """A file that a job made."""

    __tablename__ = "artifact"
    __table_args__ = (
        sa.UniqueConstraint("job_id", "name", name="uq_artifact_job_name"),
        sa.Index("ix_artifact_blob", "blob_id"),
    )

    id: str = Field(primary_key=True, description="UUIDv7")
    job_id: str = Field(
        sa_column=sa.Column(
            sa.ForeignKey("job.id", name="fk_artifact_job", ondelete="CASCADE"), nullable=False
        )
    )
    name: str
    blob_id: int = Field(
        sa_column=sa.Column(
            sa.ForeignKey("blob.id", name="fk_artifact_blob", ondelete="RESTRICT"), nullable=False
        )
    )
    media_type: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration_seconds: float | None = None
    created_at: datetime


class PreparedMedia(SQLModel, table=True):
    """What the engine gets, kept by what it was made from, so that nothing is prepared twice."""

    __tablename__ = "prepared_media"
    __table_args__ = (
        sa.Index("ix_prepared_media_blob", "blob_id"),
        sa.Index("ix_prepared_media_last_used", "last_used_at"),
    )

    source_blob_id: int = Field(
        sa_column=sa.Column(
            sa.ForeignKey("blob.id", name="fk_prepared_media_source", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        )
    )
    plan: str = Field(primary_key=True, description="The plan's key")
    blob_id: int = Field(
        sa_column=sa.Column(
            sa.ForeignKey("blob.id", name="fk_prepared_media_blob", ondelete="RESTRICT"),
            nullable=False,
        )
    )
    kind: str
    media_type: str
    width: int
    height: int
    frames: int
    fps: float | None = None
    duration_seconds: float | None = None
    has_audio: bool = False
    codec: str = ""
    created_at: datetime
    last_used_at: datetime
