"""What video files say about themselves that OpenCV does not pass on."""

import struct

_MAX_INDEX = 1 << 26  # bytes of an MP4 file's index
_SUFFIXES = (".mp4", ".mov", ".m4v")
# Matroska's files say how long they are, not how many frames they have: OpenCV guesses.
_WITHOUT_COUNT = (".mkv", ".webm")
_SLACK, _SLACK_SHARE = 2, 0.02


def shown_seconds(path):
    """Reads how much of an MP4 or MOV file is shown: clips that phones have cut still hold frames before and after.

    Args:
        path: `pathlib.Path` of a video.

    Returns:
        Seconds by the edit list of the first video track; None where there is none, or it makes no sense.

    Reference:
        ISO/IEC 14496-12, ISO base media file format: 8.2.2 (mvhd), 8.4.3 (hdlr), 8.6.6 (elst).
    """
    if path.suffix.lower() not in _SUFFIXES:
        return None
    try:
        index = _index(path)
        (header,) = _inside(index, b"mvhd")
        (scale,) = struct.unpack_from(">I", header, 20 if header[0] else 12)
        for track in _inside(index, b"trak"):
            handler = next(_inside(track, b"mdia", b"hdlr"), b"")
            if handler[8:12] == b"vide":
                edits = next(_inside(track, b"edts", b"elst"), None)
                return None if edits is None else _edited(edits) / scale or None
    except (OSError, struct.error, ValueError, ZeroDivisionError):
        pass
    return None


def ends_early(path, frames, seconds, length, fps):
    """Tells whether a video ended before its end: it is damaged or cut short.

    Args:
        path: `pathlib.Path` of the video.
        frames: How many could be read.
        seconds: When the last of them is shown.
        length: Frames that are announced; None where nothing is known.
        fps: Frames per second that are announced.

    Returns:
        Bool; a few missing frames are none, as announced numbers are not always exact.
    """
    if length is None:
        return False
    enough = length - max(_SLACK, _SLACK_SHARE * length)
    if path.suffix.lower() in _WITHOUT_COUNT and seconds * fps + 1 >= enough:
        return False
    return frames < enough


def _index(path):
    """The content of the box `moov`."""
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            used = 8
            if size == 1:
                (size,), used = struct.unpack(">Q", file.read(8)), 16
            if kind == b"moov" and used <= size <= _MAX_INDEX:
                return file.read(size - used)
            if size < used:
                break
            file.seek(size - used, 1)
    raise ValueError("no index")


def _inside(data, kind, *further):
    """Contents of all boxes of a kind, and of those of further kinds inside them."""
    position = 0
    while position + 8 <= len(data):
        size, found = struct.unpack_from(">I4s", data, position)
        if size < 8:
            return
        if found == kind:
            content = data[position + 8 : position + size]
            yield from _inside(content, *further) if further else (content,)
        position += size


def _edited(data):
    """Length of the parts that are shown, in the index's unit; empty edits show nothing."""
    version, count = struct.unpack_from(">B3xI", data)
    entry = ">Qq4x" if version else ">Ii4x"
    size = struct.calcsize(entry)
    parts = (struct.unpack_from(entry, data, 8 + size * one) for one in range(min(count, (len(data) - 8) // size)))
    return sum(length for length, start in parts if start >= 0)
