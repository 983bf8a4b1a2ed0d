"""Reads `.cdf` files for `converters.h36m_recordings`, in a process with bounded memory.

A line of standard input names a file, as JSON; the answer on standard output is a line of JSON and the numbers.
"""

import contextlib
import json
import math
import os
import sys

_MAX_ADDRESS_SPACE = 4 << 30
# Deflate makes no more than this of a byte.
_MAX_EXPANSION = 1032


def main():
    """Answers one line after the other until there is no more."""
    import cdflib
    import numpy as np

    # Windows lacks the module; there only the time is bounded.
    with contextlib.suppress(ImportError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = _MAX_ADDRESS_SPACE if hard == resource.RLIM_INFINITY else min(_MAX_ADDRESS_SPACE, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    # Whatever the packages print must not stand among the answers.
    answers, sys.stdout = os.fdopen(os.dup(1), "wb"), sys.stderr
    max_bytes = int(sys.argv[1])
    for line in sys.stdin:
        try:
            path = json.loads(line)
            file = cdflib.CDF(path)
            variable = file.varinq("Pose")
            count = math.prod(variable.Dim_Sizes) * (variable.Last_Rec + 1)
            if count * 8 > min(max_bytes, _MAX_EXPANSION * os.path.getsize(path)):
                raise ValueError(f"it claims {count} numbers")
            values = np.asarray(file.varget("Pose"))
            if values.dtype.kind not in "fiu" or values.nbytes > max_bytes:
                raise ValueError(f"it holds {values.dtype} of shape {list(values.shape)}"[:200])
            head = {"dtype": values.dtype.str, "shape": values.shape, "bytes": values.nbytes}
            data = values.tobytes()
        # cdflib lets through whatever its reading of a damaged file stumbles over.
        except Exception as error:
            head, data = {"error": str(error)[:400] or type(error).__name__}, b""
        answers.write(json.dumps(head).encode() + b"\n" + data)
        answers.flush()


if __name__ == "__main__":
    main()
