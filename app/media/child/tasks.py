"""What a child can be asked to do, with everything loaded that it takes.

What is loaded here is loaded once, by the nursery; what a task loads itself, each child loads anew.
"""

from __future__ import annotations

import av.subtitles.stream  # noqa: F401 - PyAV loads it with the first container
from PIL import Image

from app.media.child.finishing import finish
from app.media.child.preparing import prepare_image, prepare_video
from app.media.child.probing import probe

Image.preinit()

TASKS = {
    "probe": probe,
    "prepare_image": prepare_image,
    "prepare_video": prepare_video,
    "finish": finish,
}
