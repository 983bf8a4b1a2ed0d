"""JPEG and PNG files from outside: their size is read from the header before anything is decoded."""

import dataclasses
import os
import re
import struct

import cv2
import numpy as np

MAX_PIXELS = 1 << 26
MAX_BYTES = 1 << 28
_PNG = b"\x89PNG\r\n\x1a\n"
# Markers that carry no length: restarts, start of image, and the temporary one.
_BARE_MARKERS = {0x01, *range(0xD0, 0xD9)}
# Start-of-frame markers; the others between 0xC0 and 0xCF are tables.
_FRAME_MARKERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Tables, restart intervals, comments and further scans, which progressive files have between their scans.
_BETWEEN_SCANS = {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}
# Inside scans an 0xFF byte is followed by 0 or is a restart; anything else ends the scan.
_SCAN_END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")


class ImageFileError(ValueError):
    """A file that is not a usable image. The message is a short reason, without the file's name."""


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """What an image file says about itself.

    Args:
        image_format: `"JPEG"` or `"PNG"`.
        height: Pixels.
        width: Pixels.
    """

    image_format: str
    height: int
    width: int


def read_image_file(path):
    """Reads a file that should be an image, without decoding it.

    Args:
        path: A regular file.

    Returns:
        `(data, header)`: its bytes and an `ImageHeader`.

    Raises:
        ImageFileError: If it is missing, unreadable, huge, empty, cut short, or neither JPEG nor PNG.
    """
    if not os.path.exists(path):
        raise ImageFileError("missing image")
    if not os.path.isfile(path):
        raise ImageFileError("not a regular file")
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise ImageFileError(f"image file larger than {MAX_BYTES >> 20} MiB")
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        raise ImageFileError("unreadable image file") from None
    return data, image_header(data)


def image_header(data):
    """Reads format and size, and whether the file reaches its end.

    Args:
        data: Bytes of a file.

    Returns:
        An `ImageHeader`.

    Raises:
        ImageFileError: If the bytes are empty, cut short, announce too many pixels, or are neither JPEG nor PNG.
    """
    if not data:
        raise ImageFileError("empty image file")
    if data.startswith(_PNG):
        header = _png_header(data)
    elif data.startswith(b"\xff\xd8"):
        header = _jpeg_header(data)
    else:
        raise ImageFileError("not a JPEG or PNG image")
    if not header.height or not header.width:
        raise ImageFileError("image without pixels")
    if header.height * header.width > MAX_PIXELS:
        raise ImageFileError(f"image of more than {MAX_PIXELS >> 20} megapixels")
    return header


def announced_size(data):
    """Reads the size of a picture of any format that predictions take, without asking for a sound file.

    OpenCV refuses only pictures of more than 2**30 pixels, and reads a smaller limit of its own from the environment
    once, when it is imported; so the size is looked up before it is given the file.

    Args:
        data: Bytes of a JPEG, PNG, BMP, TIFF or WebP file.

    Returns:
        `(height, width)` in pixels.

    Raises:
        ImageFileError: If the format is another one, or the header makes no sense.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg_size(data)
        if data.startswith(_PNG):
            return struct.unpack_from(">II", data, 16)[::-1]
        if data.startswith(b"BM"):
            kind, place = ("<HH", 18) if struct.unpack_from("<I", data, 14)[0] == 12 else ("<ii", 18)
            return tuple(abs(side) for side in struct.unpack_from(kind, data, place)[::-1])
        if data.startswith((b"II*\0", b"MM\0*")):
            return _tiff_size(data, "<" if data.startswith(b"II") else ">")
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp_size(data)
    except struct.error:
        raise ImageFileError("truncated image") from None
    raise ImageFileError("not a JPEG, PNG, BMP, TIFF or WebP image")


def decode_image(data, flags=cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION):
    """Decodes an image after checking its header.

    Rotation tags are ignored, as TensorFlow does: the labels of the datasets belong to the pixels as they are stored.

    Args:
        data: Bytes of a JPEG or PNG file.
        flags: OpenCV's reading flags.

    Returns:
        Array as OpenCV gives it: blue, green, red.

    Raises:
        ImageFileError: If the bytes are no usable image.
    """
    image_header(data)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageFileError("damaged image")
    return pixels


def _png_header(data):
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ImageFileError("truncated image")
    width, height = struct.unpack(">II", data[16:24])
    # Every piece is checked: decoders take the memory that its length announces.
    position = len(_PNG)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if length > len(data) - position - 12:
            break
        if data[position + 4 : position + 8] == b"IEND":
            return ImageHeader("PNG", height, width)
        position += 12 + length
    raise ImageFileError("truncated image")


def _jpeg_header(data):
    position, size, scans = 2, None, 0
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise ImageFileError("damaged image")
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if scans and marker not in _BETWEEN_SCANS:
            # OpenCV shows the part before such a marker, TensorFlow refuses the picture.
            raise ImageFileError("damaged image")
        if marker in _BARE_MARKERS:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker == 0xDA:
            end = _SCAN_END.search(data, position + 2 + length)
            if size is None or end is None:
                break
            scans, position = scans + 1, end.start()
            if end[0].endswith(b"\xd9"):
                return ImageHeader("JPEG", *size)
            continue
        if marker in _FRAME_MARKERS and length >= 7 and position + 9 <= len(data):
            size = struct.unpack_from(">HH", data, position + 5)
        position += 2 + length
    raise ImageFileError("truncated image")


def _jpeg_size(data):
    position = 2
    # Decoders look for the next 0xFF wherever bytes make no sense, so this does too.
    while (position := data.find(b"\xff", position)) >= 0:
        marker, length = struct.unpack_from(">xBH", data, position)
        if marker in _FRAME_MARKERS:
            return struct.unpack_from(">HH", data, position + 5)
        if marker in (0x00, 0xFF):
            position += 1
        else:
            position += 2 if marker in _BARE_MARKERS else 2 + length
    raise ImageFileError("truncated image")


def _tiff_size(data, order):
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, directory)
    sides = {256: 0, 257: 0}  # width, height
    for position in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, position)
        if tag in sides:
            (value,) = struct.unpack_from(order + {3: "H", 4: "I"}.get(kind, "Q"), data, position + 8)
            sides[tag] = max(sides[tag], value)
    return sides[257], sides[256]


def _webp_size(data):
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return height & 0x3FFF, width & 0x3FFF
