"""Writing pickles that every Python 3 and every NumPy reads: protocol 2, with the names that NumPy had before its 2.0.

Files for the original programs, which run with NumPy 1; `posekit.data.pickles` reads them too.
"""

import contextlib
import pickle

from posekit.files import replacing

PROTOCOL = 2
_NEW_NAME, _OLD_NAME = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
# Python's pickler hands over what is longer than this, in bytes, on its own.
_LARGE = 1 << 16
_LIST_START = pickle.PROTO + bytes([PROTOCOL]) + pickle.EMPTY_LIST


def dumps_plain(value):
    """Pickles plain containers, numbers, text and NumPy arrays.

    Args:
        value: What to pickle; no text in it may hold a line that ends in NumPy's own module names.

    Returns:
        Bytes of protocol 2.
    """
    return pickle.dumps(value, PROTOCOL).replace(_NEW_NAME, _OLD_NAME)


def write_plain(path, value):
    """Writes a pickle file, which takes its name only when it is complete.

    Args:
        path: File to write; its folder must exist.
        value: As for `dumps_plain`; of large arrays, one at a time is copied.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        pickle.Pickler(_OldNames(file), PROTOCOL).dump(value)


class _OldNames:
    """A file to which large pieces, which are the numbers of arrays, go as they are, and others with old names."""

    def __init__(self, file):
        self._file = file

    def write(self, data):
        data = data if len(data) > _LARGE else bytes(data).replace(_NEW_NAME, _OLD_NAME)
        return self._file.write(data)


@contextlib.contextmanager
def growing_list(path):
    """Makes a context in which a file is written that holds one pickled list, part by part.

    So a list may be longer than memory. The file takes its name only when the block succeeds.

    Args:
        path: File to write; its folder must exist.

    Yields:
        A function that is called with a list of further items.

    Example:
        >>> with growing_list("numbers.pkl") as extend:
        ...     extend([1, 2, 3])
        ...     extend([4])
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(_LIST_START)

        def extend(items):
            # A pickled list is its start, the items with the opcodes that append them, and the stop; what the pickle
            # remembers of earlier parts is simply remembered anew.
            data = dumps_plain(list(items))
            start = len(_LIST_START) + len(pickle.BINPUT + b"\0")
            file.write(data[start : -len(pickle.STOP)])

        yield extend
        file.write(pickle.STOP)
