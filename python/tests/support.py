"""What the tests share: the server of the installed wheel, and servers with scripted answers."""

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sys.executable).parent
# How long a job may take on a busy machine, in seconds.
PATIENCE = 240

# Whether Python can import PyTorch here, whose libraries alone are enough for the trainer.
HAS_TORCH = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("sympy") is not None
NO_TORCH = "PyTorch with Python is not here (scripts/setup pytorch_bench)"
# Where it was to be installed, a test that needs it fails instead of saying that it does not run.
assert HAS_TORCH or "DISTILLERY_TEST_NETWORKS" not in os.environ, NO_TORCH


def environment(**more):
    """The environment of a user who has set nothing of distillery's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DISTILLERY_")}
    kept.pop("DATABASE_URL", None)
    return {**kept, **more}


@contextlib.contextmanager
def server():
    """The address of the wheel's server, with its own PostgreSQL, one worker and the digits."""
    with tempfile.TemporaryDirectory(prefix="distillery-python-") as directory:
        datasets = Path(directory, "datasets")
        shutil.copytree(ROOT / "examples/data/digits", datasets / "digits")
        command = [SCRIPTS / "distillery", "serve", "--listen", "127.0.0.1:0", "--workers", "1"]
        command += ["--data-dir", Path(directory, "data"), "--datasets-dir", datasets]
        with open(Path(directory, "log"), "w+") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment())
            try:
                address = re.search(r"http://\S+", process.stdout.readline())
                if not address:
                    log.seek(0)
                    raise AssertionError(f"the server did not start:\n{log.read()[-4000:]}")
                yield address[0]
            finally:
                process.terminate()
                process.wait(PATIENCE)
                process.stdout.close()


@contextlib.contextmanager
def scripted(answer):
    """The address of a server that calls `answer(handler)` for each request, and a list of what was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            length = int(self.headers.get("content-length", 0))
            self.body = self.rfile.read(length)
            asked.append((self.command, self.path, dict(self.headers)))
            answer(self)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any

        def reply(self, status, body=b"", length=None, **headers):
            """An answer; one with a `length` beyond its body is cut off."""
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)
            if length is not None:
                self.close_connection = True

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_address[1]}", asked
        finally:
            listener.shutdown()
            thread.join()
