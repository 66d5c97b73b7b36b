"""What a file is by its first bytes, whatever it is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HEAD_BYTES = 4096
"""So much of a file is enough to identify it."""

WOULD_WORK = {
    "image": "Send a PNG, JPEG or WebP image.",
    "video": "Send an mp4, webm, mov or mkv video.",
    None: "Send a PNG, JPEG or WebP image, or an mp4, webm, mov or mkv video.",
}
"""What to send instead, by what is expected."""


@dataclass(frozen=True, slots=True)
class Sniffed:
    """What the first bytes say.

    Attributes:
        name: Short name of the format, such as `png`.
        words: The same for a sentence, such as `a PNG image`.
        kind: Whether it is accepted, and as what; None for everything that is not.
        media_type: MIME type of an accepted format.
    """

    name: str
    words: str
    kind: Literal["image", "video"] | None = None
    media_type: str = ""


_ACCEPTED = {
    one.name: one
    for one in (
        Sniffed("png", "a PNG image", "image", "image/png"),
        Sniffed("jpeg", "a JPEG image", "image", "image/jpeg"),
        Sniffed("webp", "a WebP image", "image", "image/webp"),
        Sniffed("mp4", "an mp4 video", "video", "video/mp4"),
        Sniffed("mov", "a QuickTime video", "video", "video/quicktime"),
        Sniffed("webm", "a WebM video", "video", "video/webm"),
        Sniffed("mkv", "a Matroska video", "video", "video/x-matroska"),
    )
}

_PREFIXES = (
    (b"\x89PNG\r\n\x1a\n", _ACCEPTED["png"]),
    (b"\xff\xd8\xff", _ACCEPTED["jpeg"]),
    (b"GIF8", Sniffed("gif", "a GIF")),
    (b"BM", Sniffed("bmp", "a BMP image")),
    (b"II*\x00", Sniffed("tiff", "a TIFF or raw camera image")),
    (b"MM\x00*", Sniffed("tiff", "a TIFF or raw camera image")),
    (b"\xff\x0a", Sniffed("jxl", "a JPEG XL image")),
    (b"\x00\x00\x00\x0cJXL ", Sniffed("jxl", "a JPEG XL image")),
    (b"8BPS", Sniffed("psd", "a Photoshop document")),
    (b"%PDF", Sniffed("pdf", "a PDF document")),
    (b"PK\x03\x04", Sniffed("zip", "a ZIP archive or office document")),
    (b"\x1f\x8b", Sniffed("gzip", "a gzip archive")),
    (b"FLV\x01", Sniffed("flv", "a Flash video")),
    (b"OggS", Sniffed("ogg", "an Ogg file")),
    (b"ID3", Sniffed("mp3", "an MP3 audio file")),
    (b"\xff\xfb", Sniffed("mp3", "an MP3 audio file")),
    (b"\xff\xf1", Sniffed("aac", "an AAC audio file")),
    (b"fLaC", Sniffed("flac", "a FLAC audio file")),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Sniffed("asf", "a Windows Media file")),
    (b"\x00\x00\x01\xba", Sniffed("mpeg-ps", "an MPEG program stream")),
    (b"\x7fELF", Sniffed("elf", "a program")),
    (b"MZ", Sniffed("exe", "a program")),
)

_RIFF = {
    b"WEBP": _ACCEPTED["webp"],
    b"AVI ": Sniffed("avi", "an AVI video"),
    b"WAVE": Sniffed("wav", "a WAV audio file"),
}

_PICTURE_BRANDS = {
    b"heic": "a HEIC image",
    b"heix": "a HEIC image",
    b"hevc": "a HEIC image sequence",
    b"mif1": "a HEIF image",
    b"msf1": "a HEIF image sequence",
    b"avif": "an AVIF image",
    b"avis": "an AVIF image sequence",
    b"crx ": "a raw camera image",
}
_AUDIO_BRANDS = {b"M4A ", b"M4B ", b"F4A "}
_QUICKTIME_ATOMS = {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
_TEXT = bytes(range(32, 127)) + b"\t\r\n\f"


def sniff(head: bytes) -> Sniffed:
    """Identify a file by its first `HEAD_BYTES` bytes."""
    if not head:
        return Sniffed("empty", "empty")
    if head[4:8] == b"ftyp":
        return _iso_media(head[8:12])
    if head[4:8] in _QUICKTIME_ATOMS:
        return _ACCEPTED["mov"]
    if head.startswith(b"\x1aE\xdf\xa3"):
        return _ACCEPTED["webm" if b"webm" in head[:64] else "mkv"]
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12], Sniffed("riff", "a RIFF file of an unknown kind"))
    for prefix, sniffed in _PREFIXES:
        if head.startswith(prefix):
            return sniffed
    if head[0] == 0x47 and head[188:189] == b"\x47":
        return Sniffed("mpeg-ts", "an MPEG transport stream")
    return _text(head)


def _iso_media(brand: bytes) -> Sniffed:
    if brand in _PICTURE_BRANDS:
        return Sniffed("heif", _PICTURE_BRANDS[brand])
    if brand in _AUDIO_BRANDS:
        return Sniffed("m4a", "an mp4 audio file")
    return _ACCEPTED["mov" if brand == b"qt  " else "mp4"]


def _text(head: bytes) -> Sniffed:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    if start.startswith(b"#extm3u"):
        return Sniffed("m3u", "a playlist")
    if b"<svg" in start:
        return Sniffed("svg", "an SVG drawing")
    if start.startswith((b"<!doctype html", b"<html")):
        return Sniffed("html", "a web page, not the media file itself")
    if not head.translate(None, _TEXT):
        return Sniffed("text", "text")
    return Sniffed("unknown", "of a format that is not known here")
