"""Opening a picture: only as the format that it is, and only if it is of a bearable size."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from app.media.child.refusal import Refused

_FORMATS = {"png": ["PNG"], "jpeg": ["JPEG"], "webp": ["WEBP"]}
_QUARTER_TURNS = {1: 0, 2: 0, 3: 180, 4: 180, 5: 270, 6: 90, 7: 90, 8: 270}
"""EXIF orientation to degrees clockwise (CIPA DC-008, 4.6.4); even mirrored ones turn so."""

_ORIENTATION = 0x0112
_DAMAGED = "Save it again as PNG or JPEG and send it again."


def open_image(path: str, name: str, limits: dict[str, Any]) -> Image.Image:
    """A picture whose pixels are decoded and whose size was checked before they were.

    Raises:
        Refused: It is damaged, animated, too large or too small.
    """
    Image.MAX_IMAGE_PIXELS = None  # our own limit follows, and it is not a warning
    try:
        image = Image.open(path, formats=_FORMATS[name])
        check_size("image", image.width, image.height, limits["max_image_pixels"], limits)
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise Refused(
                "The image is animated. Send one still picture as PNG, JPEG or WebP, "
                "or the animation as an mp4 video."
            )
        image.load()
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        if isinstance(error, MemoryError):
            raise
        raise Refused(
            f"The file begins like a {name.upper()} image but is cut off or damaged. {_DAMAGED}"
        ) from error
    return image


def check_size(what: str, width: int, height: int, max_pixels: int, limits: dict[str, Any]) -> None:
    """Refuse a picture that is too large to be decoded or too small to be of use."""
    if width * height > max_pixels:
        raise Refused(
            f"The {what} is {width}x{height}, {width * height:,} pixels; at most {max_pixels:,} "
            "are accepted. Make it smaller and send it again."
        )
    if min(width, height) < limits["min_side"]:
        raise Refused(
            f"The {what} is {width}x{height}; each side must have at least "
            f"{limits['min_side']} pixels."
        )


def rotation(image: Image.Image) -> int:
    """Degrees clockwise that the stored picture must be turned for display."""
    return _QUARTER_TURNS.get(image.getexif().get(_ORIENTATION, 1), 0)


def upright_rgb(image: Image.Image) -> Image.Image:
    """The picture as it is meant to be seen: turned, in sRGB, on white where it is transparent."""
    image = _srgb(ImageOps.exif_transpose(image))
    if image.mode.startswith("I") or image.mode == "F":
        image = image.convert("I").point([value >> 8 for value in range(1 << 16)], "L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _srgb(image: Image.Image) -> Image.Image:
    """Colors of another profile, such as a phone's Display P3, brought to sRGB."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in {"RGB", "RGBA", "CMYK"}:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGB" if image.mode == "CMYK" else image.mode
        turned = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode=mode
        )
    except (ImageCms.PyCMSError, OSError):
        return image  # a broken profile is no reason to refuse the picture
    return turned if turned is not None else image
