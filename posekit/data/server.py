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
# Seconds: for the first answer and for later ones, between looks at a server that gives nothing, and in vain until it
# is given up.
_FIRST_ANSWER, _ANSWER, _LOOK, _PATIENCE = 5.0, 10.0, 0.5, 3.0
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
    # TensorFlow itself would wait for ever for the answer of something else, and not even be interruptible.
    if not _answers(host, port, _FIRST_ANSWER):
        raise DataServerError(f"{_what_is_there(host, port)}, or train without --data_service.")
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
                    silent = None if _answers(host, port, _ANSWER) else silent or time.monotonic()
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


def _what_is_there(host, port):
    """What is at an address that does not answer as a dataset server, and what to do."""
    try:
        _connected(host, port, _FIRST_ANSWER).close()
    except (socket.gaierror, UnicodeError):
        return f"No machine {host!r:.80} is known; name another with --data_service=HOST:{port}"
    except OSError:
        return (
            f"There is no dataset server at {host}:{port}; start one with `python tools/dataset_server.py "
            f"--port={port}`"
        )
    return (
        f"What is at {host}:{port} is no dataset server, or one that is stopped: it does not answer as one. Start one "
        f"at another port, such as `python tools/dataset_server.py --port={port % 65000 + 100}`, and name that port"
    )


def _connected(host, port, seconds):
    return socket.create_connection((host.strip("[]"), port), timeout=seconds)


def _answers(host, port, seconds):
    """Whether a dataset server answers within some seconds: the dispatcher is asked for its version.

    It is asked without gRPC, which cannot be told to give up; of the answer all that counts is that there is one.
    """
    end = time.monotonic() + seconds
    try:
        with _connected(host, port, seconds) as connection:
            connection.sendall(_question())
            return _is_answered(_Frames(connection, end))
    except (OSError, EOFError, UnicodeError):  # the last of names that cannot be
        return False


# HTTP/2 (RFC 9113): kinds of frames, and flags.
_DATA, _HEADERS, _RESET, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _ACKNOWLEDGED, _END_HEADERS = 1, 1, 4
_MAX_FRAME = 1 << 14


def _question():
    """Bytes of a gRPC call of a dispatcher's `GetVersion`, from the first of the connection on."""
    headers = {
        ":method": "POST", ":scheme": "http", ":path": "/tensorflow.data.DispatcherService/GetVersion",
        ":authority": "localhost", "te": "trailers", "content-type": "application/grpc",
    }  # fmt: skip
    # Literals that are not to be remembered (RFC 7541), none as long as 127 bytes.
    fields = [b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in header) for header in headers.items()]
    message = b"\0" + (0).to_bytes(4, "big")  # not compressed, and empty
    return b"".join(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            _frame(_SETTINGS),
            _frame(_HEADERS, _END_HEADERS, 1, b"".join(fields)),
            _frame(_DATA, _END_STREAM, 1, message),
        )
    )


def _frame(kind, flags=0, stream=0, content=b""):
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def _is_answered(frames):
    """Whether a call gets data; a server without that method says so with headers alone."""
    kind, flags, _ = frames.read()
    if kind != _SETTINGS:
        return False
    while True:
        if kind == _SETTINGS and not flags & _ACKNOWLEDGED:
            frames.send(_frame(_SETTINGS, _ACKNOWLEDGED))
        kind, flags, stream = frames.read()
        if stream == 1 and kind == _DATA:
            return True
        if kind == _GOAWAY or (stream == 1 and (kind == _RESET or (kind == _HEADERS and flags & _END_STREAM))):
            return False


class _Frames:
    """HTTP/2's frames from a connection, up to a point in time."""

    def __init__(self, connection, end):
        self._connection = connection
        self._end = end

    def read(self):
        """Kind, flags and stream of the next frame; `EOFError` if there is none, `OSError` if time is over."""
        head = self._bytes(9)
        length = int.from_bytes(head[:3], "big")
        if length > _MAX_FRAME:
            raise EOFError(f"a frame of {length} bytes")
        self._bytes(length)
        return head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF

    def send(self, data):
        """Sends bytes."""
        self._connection.sendall(data)

    def _bytes(self, length):
        data = b""
        while len(data) < length:
            left = self._end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            part = self._connection.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data


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
        DataServerError: If a port is taken, a worker does not start, the server cannot be kept to this machine, or
            no machine of the host's name is known.
        ValueError: If an argument makes no sense.
    """
    if num_workers < 1 or not {port, port + num_workers} <= set(_PORTS):
        raise ValueError(f"port={port} and num_workers={num_workers}: give 1 worker or more, and ports below 65536.")
    host, _ = parse_address(f"{host}:{port}")
    _check_known(host, port)
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


def _check_known(host, port):
    try:
        socket.getaddrinfo(host.strip("[]"), port)
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataServerError(
            f"No machine --host={host} is known ({reason}). Give a name or an address under which trainers reach this "
            "machine, or leave --host away to serve this machine alone."
        ) from error


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
