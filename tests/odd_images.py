"""Images of every kind that people have, whole and damaged, made by Pillow: what is in the file, by the file's name."""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SUFFIX = {
    "AVIF": "avif", "BMP": "bmp", "GIF": "gif", "JPEG": "jpg", "JPEG2000": "jp2", "PNG": "png", "PPM": "ppm",
    "TIFF": "tif", "WEBP": "webp",
}  # fmt: skip
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I;16")
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def picture(mode: str = "RGB") -> Image.Image:
    image = Image.fromarray(PIXELS)
    if mode == "PA":
        return image.convert("RGBA").quantize(16).convert("PA")
    if mode == "LAB":
        rgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, rgb, lab, outputMode="LAB")
        assert converted is not None
        return converted
    return image.convert(mode)


def of_every_mode() -> Iterator[tuple[str, bytes]]:
    """Each mode in each format that can hold it."""
    for mode in MODES:
        for form, suffix in SUFFIX.items():
            try:
                yield f"mode/{mode.replace(';', '-')}-{form}.{suffix}", encoded(picture(mode), form)
            except (OSError, ValueError, KeyError):
                continue  # Pillow does not write this mode in this format


def of_every_orientation() -> Iterator[tuple[str, bytes]]:
    """A picture whose upper left pixel is red once it is upright, turned in all eight ways of EXIF."""
    upright = np.zeros((16, 24, 3), dtype=np.uint8)
    upright[:8, :8, 0] = 255
    turn = {1: 0, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270}  # fmt: skip
    for orientation, how in turn.items():
        stored = Image.fromarray(upright) if orientation == 1 else Image.fromarray(upright).transpose(how)
        exif = Image.Exif()
        exif[0x0112] = orientation
        for form in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
            yield f"exif/{orientation}-{form}.{SUFFIX[form]}", encoded(stored, form, exif=exif)


def animated() -> Iterator[tuple[str, bytes]]:
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (255, 128, 0)]
    for form in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        yield f"film/{form}.{SUFFIX[form]}", encoded(frames[0], form, save_all=True, append_images=frames[1:])


def truncated() -> Iterator[tuple[str, bytes]]:
    """Each format cut off at its beginning, in its header, in its pixels and just before its end."""
    for form, suffix in SUFFIX.items():
        whole = encoded(picture(), form)
        for share in (0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
            yield f"cut/{form}-{share}.{suffix}", whole[: max(1, int(len(whole) * share))]


def misnamed() -> Iterator[tuple[str, bytes]]:
    """A format under the next one's suffix."""
    forms = list(SUFFIX)
    for number, form in enumerate(forms):
        other = forms[(number + 1) % len(forms)]
        yield f"misnamed/{form}-as-{other}.{SUFFIX[other]}", encoded(picture(), form)


def odd() -> Iterator[tuple[str, bytes]]:
    rgb = picture()
    yield "odd/jfif.jfif", encoded(rgb, "JPEG")
    yield "odd/progressive.jpg", encoded(rgb, "JPEG", progressive=True)
    yield "odd/gray.jpg", encoded(picture("L"), "JPEG")
    yield "odd/no-subsampling.JPEG", encoded(rgb, "JPEG", subsampling=0)
    yield "odd/several.jpg", encoded(rgb, "MPO", save_all=True, append_images=[rgb])
    yield "odd/lossless.webp", encoded(rgb, "WEBP", lossless=True)
    yield "odd/palette-and-transparency.png", encoded(rgb.quantize(8), "PNG", transparency=0)
    yield "odd/colour-key.png", encoded(rgb, "PNG", transparency=(0, 0, 0))
    yield "odd/one-pixel.png", encoded(Image.new("RGB", (1, 1), "red"), "PNG")
    yield "odd/a-line.png", encoded(Image.new("RGB", (20_000, 1), "red"), "PNG")
    yield "odd/a-column.png", encoded(Image.new("RGB", (1, 20_000), "red"), "PNG")
    yield "odd/lzw.tif", encoded(rgb, "TIFF", compression="tiff_lzw")
    yield "odd/packbits.tif", encoded(rgb, "TIFF", compression="packbits")
    yield "odd/jpeg-inside.tiff", encoded(rgb, "TIFF", compression="jpeg")
    yield "odd/fax.tif", encoded(picture("1"), "TIFF", compression="group4")
    yield "odd/plain-ascii.pgm", b"P2 2 2 255\n0 80 160 240\n"
    yield "odd/bits.pbm", b"P4 8 2\n\xaa\x55"
    yield "odd/sixteen.pgm", b"P5 2 2 65535\n" + bytes(8)
    yield "odd/ten-bits.pgm", b"P5 2 2 1023\n" + bytes(8)
    yield "odd/codestream.j2k", encoded(rgb, "JPEG2000", no_jp2=True)
    yield (
        "odd/profile.jpg",
        encoded(rgb, "JPEG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    )
    yield "odd/broken-profile.jpg", encoded(rgb, "JPEG", icc_profile=b"no profile")
    yield "odd/broken-exif.jpg", encoded(rgb, "JPEG", exif=b"Exif\x00\x00nonsense")
    yield "odd/late-bytes.png", encoded(rgb, "PNG") + b"appended"


def no_images() -> Iterator[tuple[str, bytes]]:
    yield "none/empty.png", b""
    yield "none/zeros.jpg", bytes(5000)
    yield "none/noise.webp", np.random.default_rng(1).bytes(5000)
    yield "none/a-page.jpg", b"<!DOCTYPE html><html><body>429 Too Many Requests</body></html>"
    yield "none/text.png", b"../other/1.png"
    yield "none/lfs.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    yield "none/drawing.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    yield "none/vector.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield "none/array.png", b"\x93NUMPY\x01\x00"
    yield "none/thirty-two.tif", encoded(picture("L").convert("I"), "TIFF")
    yield "none/floats.tif", encoded(picture("L").convert("F"), "TIFF")
    yield "none/no-pixels.png", png(0, 0)
    yield "none/huge-header.png", png(60_000, 60_000)
    yield "none/huger-header.png", png(2**31 - 1, 2**31 - 1)
    yield "none/huge-header.bmp", b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, 50_000, 50_000, 1, 24) + bytes(24)
    yield "none/huge-header.gif", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";"
    yield "none/huge-header.pgm", b"P5 60000 60000 255\n"
    flipped = bytearray(encoded(picture(), "PNG"))
    flipped[-30] ^= 0xFF
    yield "none/a-bit-flipped.png", bytes(flipped)


def png(width: int, height: int) -> bytes:
    """A header that claims this size, and no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def all_images() -> dict[str, bytes]:
    """All of them, by a relative path."""
    groups = (of_every_mode, of_every_orientation, animated, truncated, misnamed, odd, no_images)
    return {name: content for group in groups for name, content in group()}
