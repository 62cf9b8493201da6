"""Decoding of one image file: every kind of image is either brought to 8 bits on purpose, or said to be unreadable.

What Pillow 12 does by itself is not what people mean: 16-bit gray is clipped, Lab can't be converted, a colour profile
is ignored, a 16-bit PGM claims 32 bits, and its decoders raise any exception for damaged files.
"""

import threading
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from pipeline.ingest.source import UnreadableError

SUFFIXES = frozenset(
    [
        ".apng",
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpf",
        ".jpg",
        ".jpx",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")  # none runs a program
MOST_BYTES = 256 * 2**20  # of one image file
_PROFILED = {"RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "L": "RGB"}  # mode -> mode in sRGB
_cms = threading.Lock()  # littlecms keeps its own state of errors


def decode(content: bytes) -> Image.Image:
    """Decode an image file: upright, the first frame or page, 8 bits per channel.

    Args:
        content: the file's bytes.

    Returns:
        The image, loaded, in a mode that converts to gray and RGB; ``in_srgb`` applies its colour profile.

    Raises:
        UnreadableError: it is no image that can be used.
    """
    if not content:
        raise UnreadableError("empty file")
    if len(content) > MOST_BYTES:
        raise UnreadableError("too large", f"{len(content)} bytes; at most {MOST_BYTES} are read")
    try:
        image = Image.open(BytesIO(content), formats=_FORMATS)
        image.load()
        return _upright(_eight_bits(image))
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError("no known image format") from None
    except Image.DecompressionBombError as error:
        raise UnreadableError("too many pixels", str(error).partition(",")[0]) from error
    except Exception as error:  # Pillow's decoders raise any exception for a damaged file
        raise UnreadableError("damaged", str(error) or type(error).__name__) from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits to 8, which Pillow would clip; UnreadableError for 32 bits, whose range is unknown."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")  # a PGM of up to 65535
    if not sixteen:
        if image.mode in ("I", "F"):
            raise UnreadableError("pixels of 32 bits", f"mode {image.mode}; save it with 8 or 16 bits")
        return _converted(image, _lab(), "RGB") if image.mode == "LAB" else image
    values = np.asarray(image)
    scaled = Image.fromarray(np.rint(values.clip(0, 65535) / 257).astype(np.uint8))
    scaled.info = dict(image.info)
    if (orientation := image.getexif().get(_ORIENTATION)) is not None:
        scaled.getexif()[_ORIENTATION] = orientation
    return scaled


_ORIENTATION = 0x0112


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says; one whose EXIF can't be read stays as it is."""
    try:
        if image.getexif().get(_ORIENTATION, 1) == 1:
            return image  # exif_transpose would copy it
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def in_srgb(image: Image.Image) -> Image.Image:
    """Bring an image to sRGB by its colour profile; one that has none, or one that can't be used, stays as it is."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    if image.mode in ("P", "PA", "LA", "1"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    to = _PROFILED.get(image.mode)
    if to is None:
        return image
    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(opened).lower():
            return image
        return _converted(image, opened, to)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # a profile that can't be read, or is for another kind of pixels, says nothing


def _converted(image: Image.Image, profile: Any, to: str) -> Image.Image:
    with _cms:
        converted = ImageCms.profileToProfile(image, profile, _srgb(), outputMode=to)
    assert converted is not None, "not in place"
    converted.info.pop("icc_profile", None)
    return converted


@cache
def _srgb() -> Any:
    return ImageCms.createProfile("sRGB")


@cache
def _lab() -> Any:
    return ImageCms.createProfile("LAB")
