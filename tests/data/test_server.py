import contextlib
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
import tensorflow as tf

from posekit.data import server
from posekit.data.people_augment import PeopleAugmentation
from posekit.data.people_hdf5 import PeopleHdf5Writer
from posekit.data.people_pipeline import explain_bad_people, people_batches
from posekit.data.people_records import PeopleRecord
from posekit.data.server import DataServerError, keep_to_this_machine, parse_address
from posekit.data.streams import BadRecordError
from posekit.data.tfrecord import RecordWriter

ROOT = pathlib.Path(__file__).resolve().parents[2]
COUNT, SIZE = 9, 2


def record(number):
    rng = np.random.default_rng(number)
    joints = np.concatenate([rng.uniform(5, 60, (1, 17, 2)), np.full((1, 17, 1), 2)], -1)
    image = cv2.imencode(".png", rng.integers(0, 255, (70, 80, 3), np.uint8))[1].tobytes()
    return PeopleRecord(image, 70, 80, joints, [[10, 10, 40, 50]], [1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("people")
    records = [record(number) for number in range(COUNT)]
    with RecordWriter(path / "coco_people_train.tfrecords") as writer:
        for entry in records:
            writer.write(entry.to_example())
    with PeopleHdf5Writer(path / "coco_people_val.h5") as writer:
        for entry in records:
            writer.append(entry)
    return path


def free_ports():
    """The first of three free ports in a row."""
    for _ in range(50):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            first = stack.enter_context(socket.socket())
            first.bind(("", 0))
            port = first.getsockname()[1]
            for other in (port + 1, port + 2):
                stack.enter_context(socket.socket()).bind(("", other))
            return port
    raise AssertionError("no free ports")


@contextlib.contextmanager
def running(*flags, lines=True):
    port = free_ports()
    command = [sys.executable, str(ROOT / "tools" / "dataset_server.py"), f"--port={port}", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        text = process.stdout.readline()
        assert f"--data_service=localhost:{port}" in text, process.stderr.read()
        yield process, f"localhost:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()


def batches(folder, split="train", **options):
    augmentation = PeopleAugmentation(crop_size=32, shift_max=4.0)
    return people_batches(folder, split, SIZE, augmentation=augmentation, seed=5, **options)


def samples(stream):
    return [
        tuple(np.ascontiguousarray(value[number]).tobytes() for value in batch.values())
        for batch in stream.as_numpy_iterator()
        for number in range(SIZE)
    ]


def test_a_server_gives_the_same_and_its_loss_is_told(folder, tmp_path):
    with running("--num_workers=2") as (process, address):
        for split, epochs in (("train", 3), ("val", 2)):
            options = {"split": split, "num_epochs": epochs}
            here, there = samples(batches(folder, **options)), samples(batches(folder, **options, data_service=address))
            assert len(here) == epochs * (COUNT // SIZE) * SIZE == len(there)
            # Not just the same samples: the same batches in the same order.
            assert here == there and len(set(here)) == len(here)
        # The second epoch of `val` begins after its first four batches.
        resumed = samples(batches(folder, "val", num_epochs=2, start_epoch=1, start_step=2, data_service=address))
        assert resumed == here[6 * SIZE :]

        # What is wrong with the data is told as without a server.
        with RecordWriter(tmp_path / "coco_people_train.tfrecords") as writer:
            writer.write(record(0).to_example())
            writer.write(dataclasses.replace(record(1), image=record(1).image[:200]).to_example())
        with pytest.raises(BadRecordError, match="record 1"), explain_bad_people(tmp_path, "train"):
            samples(batches(tmp_path, data_service=address))

        # In the middle of a training:
        @tf.function(input_signature=[batches(folder).element_spec])
        def step(batch):
            return tf.reduce_sum(tf.cast(batch["image"], tf.float32))

        with pytest.raises(DataServerError, match=f"{address} was lost.*--data_service"):
            with explain_bad_people(folder, "train"):
                for number, batch in enumerate(batches(folder, num_epochs=None, data_service=address)):
                    step(batch)
                    if number == 3:
                        # One worker alone takes the whole server down.
                        (worker, *_) = children(process.pid)
                        os.kill(worker, signal.SIGKILL)
        assert process.wait(30) == 1
        assert "1 of 2 workers died" in process.stderr.read()
    with pytest.raises(DataServerError, match="no dataset server.*tools/dataset_server.py --port"):
        batches(folder, data_service=address)


def test_the_reading_thread_ends_with_its_reader(monkeypatch):
    """Also if it has an error to tell when nobody listens any more and its queue is full."""

    class Numbered:
        element_spec = None, None

        def __iter__(self):
            for number in range(3):
                yield number, number
            raise RuntimeError("the end")

    # Without TensorFlow, which would read on by itself.
    monkeypatch.setattr(tf.data.Dataset, "from_generator", lambda generate, **_: generate())
    before = set(threading.enumerate())
    batches = server._watched(Numbered(), "localhost", 1)
    assert next(batches) == 0
    (reader,) = set(threading.enumerate()) - before
    time.sleep(0.2)  # until two batches wait, and the error behind them
    batches.close()
    reader.join(10)
    assert not reader.is_alive()


def children(parent):
    """Worker processes of a process, without Python's own helper."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                command = (path.parent / "cmdline").read_bytes()
                found += [int(path.parent.name)] if b"spawn_main" in command else []
    return sorted(found)


def test_interrupted_servers_leave_nothing():
    with running("--num_workers=1") as (process, _):
        workers = children(process.pid)
        assert len(workers) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not pathlib.Path(f"/proc/{workers[0]}").exists()


def test_a_port_is_kept_to_this_machine():
    service = tf.data.experimental.service.DispatchServer()
    port = int(service.target.rpartition(":")[2])
    keep_to_this_machine(port)
    devices = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as opened:
            if opened.getsockname()[1:2] == (port,) and opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                devices.append(opened.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16))
    assert devices and all(device.rstrip(b"\0") == b"lo" for device in devices)
    assert server._answers("localhost", port, 5)
    with pytest.raises(DataServerError, match="not open"):
        keep_to_this_machine(free_ports())


@contextlib.contextmanager
def strange_server(answer):
    """Something that listens and takes connections, answers what it is told to, and then says nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken = []

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    taken.append(listening.accept()[0])
                    taken[-1].sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"localhost:{listening.getsockname()[1]}"
        for connection in taken:
            connection.close()


SETTINGS, NO_SUCH_METHOD = b"\0\0\0\4\0\0\0\0\0", b"\0\0\0\1\5\0\0\0\1"


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", SETTINGS, SETTINGS + NO_SUCH_METHOD, SETTINGS + b"\xff" * 9,
        SETTINGS * 999,
    ],
    ids=["silent", "http", "silent-http2", "other-grpc", "damaged", "long"],
)  # fmt: skip
def test_what_is_no_dataset_server_is_told_at_once(folder, monkeypatch, answer):
    monkeypatch.setattr(server, "_FIRST_ANSWER", 0.5)
    with strange_server(answer) as address:
        start = time.monotonic()
        with pytest.raises(DataServerError, match=f"What is at {address} is no dataset server.*--port"):
            batches(folder, data_service=address)
        assert time.monotonic() - start < 5


def test_a_stopped_server_is_told(folder, monkeypatch):
    monkeypatch.setattr(server, "_FIRST_ANSWER", 1.0)
    monkeypatch.setattr(server, "_ANSWER", 1.0)
    with running("--num_workers=1") as (process, address):
        with pytest.raises(DataServerError, match=f"{address} was lost"), explain_bad_people(folder, "train"):
            for number, _ in enumerate(batches(folder, num_epochs=None, data_service=address)):
                if number == 1:
                    os.killpg(process.pid, signal.SIGSTOP)
        with pytest.raises(DataServerError, match="or one that is stopped"):
            batches(folder, data_service=address)
    for host in ("nowhere.invalid", "a" * 100):
        with pytest.raises(DataServerError, match=f"No machine '{host[:70]}.*--data_service"):
            batches(folder, data_service=f"{host}:5555")


def test_taken_ports_are_told():
    port = free_ports()
    with socket.socket() as taken:
        taken.bind(("", port + 1))
        taken.listen()
        with pytest.raises(DataServerError, match=f"Port {port + 1} .*--port"), server.run_server(port, 2):
            pass


@pytest.mark.parametrize("address", ["localhost", "localhost:0", "localhost:99999", ":5555", "a b:1", "http://a:1"])
def test_addresses_that_make_no_sense(address):
    with pytest.raises(ValueError, match="host:port"):
        parse_address(address)


def test_addresses():
    assert parse_address("grpc://10.0.0.1:5555") == ("10.0.0.1", 5555)
    assert parse_address("[::1]:80") == ("[::1]", 80)
    with pytest.raises(ValueError, match="num_workers=0"), server.run_server(5555, 0):
        pass
    with pytest.raises(DataServerError, match="--host=nowhere.invalid is known"):
        with server.run_server(5555, 1, "nowhere.invalid"):
            pass
