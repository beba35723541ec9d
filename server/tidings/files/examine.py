"""Makes of an uploaded image what is kept of it: a program of its own, so that a hostile image costs only a process.

`python -m tidings.files.examine SOURCE TARGET PREVIEW` writes the image to TARGET, and a small one to PREVIEW, and
prints its `type`, `width` and `height` as JSON. It fails if the file is no image that is shown, or too large a one.

The image is decoded and encoded again, so that nothing is left but its pixels: neither metadata, such as the place
where it was taken, nor another format that is hidden in it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms, ImageOps, ImageSequence

MEMORY = 1024 * 1024 * 1024
"""Bytes of address space, the interpreter's included."""
CPU_S = 20
MAX_PIXELS = 50_000_000
MAX_ANIMATED_PIXELS = 200_000_000
"""Of all frames together; they are in memory at the same time."""
PREVIEW = (800, 800)
FORMATS = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
}
"""An SVG is not among them: it is a document with scripts."""
_LOSSY = ("JPEG", "WEBP", "AVIF")


def examine(source: Path, target: Path, preview: Path) -> dict[str, Any]:
    """Raises whatever a decoder raises."""
    with Image.open(source, formats=list(FORMATS)) as image:
        kind = image.format or ""
        frames: int = getattr(image, "n_frames", 1)
        pixels = image.width * image.height
        if pixels > MAX_PIXELS or frames * pixels > MAX_ANIMATED_PIXELS:
            raise ValueError("too many pixels")
        options: dict[str, Any] = {"quality": 90} if kind in _LOSSY else {}
        if frames > 1:
            copies, durations = [], []
            for frame in ImageSequence.Iterator(image):
                copies.append(_pixels(frame))
                durations.append(frame.info.get("duration", 100))
            first = copies[0]
            options |= {"save_all": True, "append_images": copies[1:], "duration": durations, "loop": 0}
        else:
            first = _pixels(image)
    first.save(target, kind, **options)
    small = first.convert("RGBA" if first.has_transparency_data else "RGB")
    small.thumbnail(PREVIEW)
    small.save(preview, "WEBP", quality=80)
    return {"type": FORMATS[kind], "width": first.width, "height": first.height}


def _pixels(image: Image.Image) -> Image.Image:
    """A copy of an image, upright and in sRGB, without anything else that it had."""
    upright = ImageOps.exif_transpose(image)
    profile = image.info.get("icc_profile")
    if profile and upright.mode in ("RGB", "RGBA", "CMYK"):
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            own, standard = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
            mode = "RGB" if upright.mode == "CMYK" else upright.mode
            upright = ImageCms.profileToProfile(upright, own, standard, outputMode=mode) or upright
    if upright.mode == "CMYK":
        upright = upright.convert("RGB")
    copy = upright.copy()
    copy.info = {name: upright.info[name] for name in ("transparency",) if name in upright.info}
    return copy


def main(source: str, target: str, preview: str) -> None:
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    print(json.dumps(examine(Path(source), Path(target), Path(preview))))


if __name__ == "__main__":
    main(*sys.argv[1:])
