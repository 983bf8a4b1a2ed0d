"""The command `tools/dataset_server.py`; what it serves is tested with `posekit.data.server`."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_neither_the_server_nor_its_workers_say_anything_else():
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = min(probe.getsockname()[1], 65000)
    command = [sys.executable, str(ROOT / "tools" / "dataset_server.py"), f"--port={port}", "--num_workers=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    first = process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    rest, told = process.communicate(timeout=60)
    assert first == f"1 worker serves this machine only. Train with --data_service=localhost:{port}\n"
    assert (rest, told, process.returncode) == ("", "", 0)
