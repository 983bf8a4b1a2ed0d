"""Compiles the native ops beforehand, or tells what is compiled.

Examples:
    python tools/build_ops.py                        # into the user's cache, where they would be built on first use
    python tools/build_ops.py --portable --output_dir=posekit/ops/native/lib    # for other machines of this kind
    python tools/build_ops.py --cuda                 # for GPUs too, with nvcc; POSEKIT_CUDA=1 then uses them
    python tools/build_ops.py --status
"""

import sys

from absl import app, flags, logging

from posekit.ops import native
from posekit.ops.native import build

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", None, "folder for the libraries; the user's cache if not given")
flags.DEFINE_bool("portable", False, "for any processor of this architecture, not only for this one")
flags.DEFINE_bool("cuda", False, "compile the CUDA kernels, and what registers them with TensorFlow, which takes nvcc")
flags.DEFINE_list("cuda_architectures", list(build.CUDA_ARCHITECTURES), "compute capabilities to compile for")
flags.DEFINE_enum("sanitize", None, ["address", "thread", "undefined"], "compile with this sanitizer")
flags.DEFINE_bool("status", False, "print which ops run compiled, and why not; compiles them if they never were")


def main(argv):
    """Body of the command."""
    if len(argv) > 1:
        raise app.UsageError(f"{argv[1]!r} is not a flag; the flags are listed by --help.")
    logging.set_verbosity(logging.WARNING)
    if FLAGS.status:
        print(native.status())
        return 0
    try:
        if FLAGS.sanitize and not FLAGS.output_dir:
            raise build.BuildError("--sanitize needs --output_dir: such libraries are not for daily use")
        if FLAGS["cuda_architectures"].present and not FLAGS.cuda:
            raise build.BuildError("--cuda_architectures is for the CUDA kernels; give --cuda too")
        output_dir = FLAGS.output_dir or None
        folder = build.build(output_dir, FLAGS.portable, FLAGS.sanitize)
        print(f"CPU ops: {folder}")
        if FLAGS.cuda:
            architectures = tuple(FLAGS.cuda_architectures)
            print(f"CUDA kernels: {build.build_cuda(output_dir, architectures)}")
            print(f"CUDA ops: {build.build_cuda_ops(output_dir, architectures)}")
    except build.BuildError as error:
        print(f"build_ops: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    app.run(main)
