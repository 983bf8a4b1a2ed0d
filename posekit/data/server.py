"""Preparing batches in other processes, on this machine or others, with tf.data service.

`run_server` holds a dispatcher and its workers; `served` sends them the graph that makes the batches and reads what
they make. Workers read the data files themselves, under the same paths as the trainer. Every worker makes every n-th
batch, so that together they make each batch once, and the trainer takes one of each in turn: the batches are those
that it would make itself, in the same order.

tf.data service knows no passwords: whoever reaches the ports can have the server read its files. So a server listens
to its own machine alone, unless it is told a name under which others reach it.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import queue
import re
import socket
import stat
import threading
import time
import uuid

import tensorflow as tf

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_PROTOCOL = "grpc"
_PORTS = range(1, 1 << 16)
# Seconds: for one connection, between looks at a server that gives nothing, and in vain until it is given up.
_CONNECT, _LOOK, _PATIENCE = 5.0, 0.5, 3.0
_READY = 120.0


class DataServerError(ConnectionError):
    """A dataset server that is not there, or is there no more."""


# ------------------------------------------------------------------------------------------------------- trainer


def served(elements, batched, batch_size, address):
    """Lets a dataset server make batches.

    Args:
        elements: Endless `tf.data.Dataset` of what a batch is made of; its graph must do without Python.
        batched: Function from such a dataset to one of batches of `batch_size`.
        batch_size: Elements in a batch.
        address: `"host:port"` of the server.

    Returns:
        Endless `tf.data.Dataset` of batches, in the order that they have without a server. If the server is lost,
        reading fails with `DataServerError`, which `explain_lost_server` brings out of TensorFlow's errors.

    Raises:
        DataServerError: If there is no server at the address.
        ValueError: If the address makes no sense.
    """
    host, port = parse_address(address)
    if not _answers(host, port):
        raise DataServerError(
            f"There is no dataset server at {address}; start one with `python tools/dataset_server.py --port={port}`, "
            "or train without --data_service."
        )
    hint = tf.data.experimental.SHARD_HINT
    # Whole batches are dealt out, so that their members are the same as without a server.
    shares = batched(elements.batch(batch_size, drop_remainder=True).shard(hint, hint).unbatch())
    # A worker that starts late would have the others' batches come before its own.
    numbered = tf.data.Dataset.zip(tf.data.Dataset.range(tf.int64.max).shard(hint, hint), shares)
    options = tf.data.Options()
    options.threading.max_intra_op_parallelism = 1
    distribution = tf.data.experimental.service.distribute(
        tf.data.experimental.service.ShardingPolicy.HINT,
        f"{_PROTOCOL}://{host}:{port}",
        # One reader that takes a batch of each worker in turn: a slow worker falls behind no other.
        job_name=uuid.uuid4().hex,
        consumer_index=0,
        num_consumers=1,
        # On one machine packing costs more than it saves.
        compression=None if host in LOOPBACK else "AUTO",
    )
    return _watched(numbered.with_options(options).apply(distribution), host, port)


def parse_address(address):
    """Takes a server's address apart.

    Args:
        address: `"host:port"`.

    Returns:
        `(host, port)`.

    Raises:
        ValueError: If it makes no sense.
    """
    match = re.fullmatch(r"(?:grpc://)?([\w.-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", str(address))
    if not match or int(match[2]) not in _PORTS:
        raise ValueError(f"{address!r} is no address of a dataset server; give host:port, such as localhost:5555.")
    return match[1], int(match[2])


@contextlib.contextmanager
def explain_lost_server():
    """Turns TensorFlow's errors into the one about the dataset server, if that is what is behind them.

    Raises:
        DataServerError: If an error in the block came from a server that was lost.
    """
    try:
        yield
    except tf.errors.OpError as error:
        match = re.search(r"DataServerError: (.*?\.)(?:\n|$)", error.message or "")
        if match:
            raise DataServerError(match[1]) from error
        raise


def _watched(numbered, host, port):
    """The batches in order, and an error where the server is gone: TensorFlow itself would try again for ever."""

    def hand_over(result, results, stop):
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                results.put(result, timeout=_LOOK)
                return

    def read(results, stop):
        try:
            for batch in numbered:
                hand_over(batch, results, stop)
                if stop.is_set():
                    return
        except BaseException as error:  # is raised where the batches are read
            hand_over(error, results, stop)

    def generate():
        results, stop = queue.Queue(2), threading.Event()
        threading.Thread(target=read, args=(results, stop), daemon=True).start()
        silent, waiting, step = None, {}, 0
        try:
            while True:
                try:
                    result = results.get(timeout=_LOOK)
                except queue.Empty:
                    silent = None if _answers(host, port) else silent or time.monotonic()
                    if silent and time.monotonic() - silent > _PATIENCE:
                        raise _lost(host, port) from None
                    continue
                if isinstance(result, BaseException):
                    # A server that has just gone may be noticed by the reading thread first.
                    if isinstance(result, tf.errors.UnavailableError | tf.errors.CancelledError):
                        raise _lost(host, port) from result
                    raise result
                number, batch = result
                waiting[int(number)] = batch
                while step in waiting:
                    yield waiting.pop(step)
                    step += 1
        finally:
            stop.set()

    return tf.data.Dataset.from_generator(generate, output_signature=numbered.element_spec[1])


def _lost(host, port):
    return DataServerError(
        f"The dataset server at {host}:{port} was lost. Start it again with `python tools/dataset_server.py "
        f"--port={port}`, then continue the training; or continue without --data_service."
    )


def _answers(host, port):
    try:
        with socket.create_connection((host.strip("[]"), port), timeout=_CONNECT):
            return True
    except OSError:
        return False


# -------------------------------------------------------------------------------------------------------- server


@contextlib.contextmanager
def run_server(port=5555, num_workers=2, host="localhost"):
    """Makes a context in which a dataset server runs.

    Args:
        port: Of the dispatcher; the workers have the ports after it.
        num_workers: Processes that make batches.
        host: Name or address under which trainers reach this machine; by default only those on it.

    Yields:
        Function that waits for a while, and raises `DataServerError` if a worker has died: `wait(seconds)`.

    Raises:
        DataServerError: If a port is taken, a worker does not start, or the server cannot be kept to this machine.
        ValueError: If an argument makes no sense.
    """
    if num_workers < 1 or not {port, port + num_workers} <= set(_PORTS):
        raise ValueError(f"port={port} and num_workers={num_workers}: give 1 worker or more, and ports below 65536.")
    host, _ = parse_address(f"{host}:{port}")
    ports = [port + 1 + number for number in range(num_workers)]
    for number in (port, *ports):
        _check_free(number)
    addresses = [f"{host}:{number}" for number in ports]
    config = tf.data.experimental.service.DispatcherConfig(
        port=port,
        protocol=_PROTOCOL,
        worker_addresses=addresses,
        job_gc_check_interval_ms=30_000,
        job_gc_timeout_ms=60_000,
    )
    dispatcher = tf.data.experimental.service.DispatchServer(config)
    # Started afresh rather than forked: forking a process that has threads, as TensorFlow's have, may hang.
    context = multiprocessing.get_context("spawn")
    workers = []
    try:
        if host in LOOPBACK:
            keep_to_this_machine(port)
        for number, address in zip(ports, addresses):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, port, number, address), daemon=True)
            process.start()
            theirs.close()
            workers.append((process, ours))
        for process, pipe in workers:
            _await(process, pipe)

        def wait(seconds):
            ended = multiprocessing.connection.wait([process.sentinel for process, _ in workers], seconds)
            if ended:
                raise DataServerError(f"{len(ended)} of {num_workers} workers died, perhaps for lack of memory.")

        yield wait
    finally:
        for process, _ in workers:
            process.terminate()
        for process, _ in workers:
            process.join(5)
        del dispatcher


def keep_to_this_machine(port):
    """Lets a port on which this process listens be reached from this machine only.

    tf.data service listens on all network interfaces and has no option for it.

    Args:
        port: Its number.

    Raises:
        DataServerError: If the operating system cannot do that.
    """
    found = 0
    try:
        for name in os.listdir("/proc/self/fd"):
            found += _keep_to_loopback(int(name), port)
    except (OSError, AttributeError) as error:
        raise DataServerError(
            f"This system cannot keep port {port} to this machine ({error}). Give --host=NAME_OF_THIS_MACHINE to let "
            "others reach it too, where a firewall or your network keeps strangers away."
        ) from error
    if not found:
        raise DataServerError(f"Port {port} is not open, so it cannot be kept to this machine.")


def _keep_to_loopback(descriptor, port):
    """Whether a descriptor is a socket listening on the port, which then only hears the loopback interface."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        ours = socket.socket(fileno=os.dup(descriptor))
    except OSError:  # closed since, or no socket that Python knows
        return False
    with ours:
        if ours.family not in (socket.AF_INET, socket.AF_INET6) or ours.getsockname()[1] != port:
            return False
        if not ours.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        return True


def _check_free(port):
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise DataServerError(f"Port {port} cannot be opened: {error.strerror}. Choose another --port.") from error


def _work(pipe, dispatcher_port, port, address):
    """What a worker process does."""
    tf.config.set_visible_devices([], "GPU")
    threading.Thread(target=_leave_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    try:
        worker = tf.data.experimental.service.WorkerServer(
            tf.data.experimental.service.WorkerConfig(
                dispatcher_address=f"localhost:{dispatcher_port}",
                worker_address=address,
                port=port,
                protocol=_PROTOCOL,
            )
        )
        if parse_address(address)[0] in LOOPBACK:
            keep_to_this_machine(port)
    except (RuntimeError, tf.errors.OpError) as error:
        pipe.send(f"{error}")
        return
    pipe.send("")
    worker.join()


def _leave_with(parent):
    parent.join()
    os._exit(1)


def _await(process, pipe):
    if not pipe.poll(_READY):
        raise DataServerError(f"A worker did not start within {_READY:.0f} s.")
    try:
        trouble = pipe.recv()
    except EOFError:
        process.join(5)
        trouble = f"exit status {process.exitcode}"
    if trouble:
        raise DataServerError(f"A worker did not start: {trouble}")
