"""What a child can be asked to do."""

from __future__ import annotations

from app.media.child.finishing import finish
from app.media.child.preparing import prepare_image, prepare_video
from app.media.child.probing import probe

TASKS = {
    "probe": probe,
    "prepare_image": prepare_image,
    "prepare_video": prepare_video,
    "finish": finish,
}
