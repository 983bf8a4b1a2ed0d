"""Prepares augmented batches in processes of their own, for trainings on this machine or others.

    python tools/dataset_server.py --num_workers=4
    python -m posekit.train --model=openpose --data_service=localhost:5555 …

The trainer tells the server which data to read and how to augment them; it reads them from the same paths. Anybody who
reaches the server's ports can do that, so it listens to this machine alone, unless --host names it for others. It runs
until it is interrupted. Exit status: 0 after Ctrl-C, 1 if it could not start or lost a worker.
"""

import os
import signal
import sys

from absl import app, flags

from posekit.training.config import import_tensorflow_quietly

if __name__ == "__mp_main__":
    # A worker process, which begins with this file and then reads the modules that need TensorFlow.
    import_tensorflow_quietly()

flags.DEFINE_integer("port", 5555, "Port; the workers have the ones after it.", 1, 65534)
flags.DEFINE_integer("num_workers", 0, "Processes that make batches; one for each processor if 0.", 0, 256)
flags.DEFINE_string(
    "host", "localhost", "Name or address under which trainers on other machines reach this one; then they can."
)
FLAGS = flags.FLAGS


def main(argv):
    """Runs the server.

    Args:
        argv: Command line; nothing but flags is allowed.

    Returns:
        Exit status.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments {argv[1:]}; write flags as --port=5555.")
    import_tensorflow_quietly()
    import tensorflow as tf

    from posekit.data.server import LOOPBACK, DataServerError, run_server

    # The accelerator is the trainer's.
    tf.config.set_visible_devices([], "GPU")
    num_workers = FLAGS.num_workers or os.cpu_count() or 1
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with run_server(FLAGS.port, num_workers, FLAGS.host) as wait:
            reach = "this machine only" if FLAGS.host in LOOPBACK else "every machine that reaches this one"
            address = f"{FLAGS.host}:{FLAGS.port}"
            workers = f"{num_workers} workers serve" if num_workers > 1 else "1 worker serves"
            print(f"{workers} {reach}. Train with --data_service={address}", flush=True)
            while True:
                wait(1.0)
    except (DataServerError, ValueError) as error:
        print(f"ERROR {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _interrupt(number, frame):
    raise KeyboardInterrupt


if __name__ == "__main__":
    app.run(main)
