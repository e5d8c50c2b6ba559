#!/usr/bin/env python3
"""Measures the upload of a data set to a real server: seconds, the server's memory, and what it takes of the disk.

    benches/upload.py                                              # a zip of 2,000 MB, in one PUT
    benches/upload.py --piece 64                                   # the same in pieces of 64 MB
    benches/upload.py --megabytes 100 --megabits 1000 --job        # until a job runs, from a machine 1 Gbit/s away

The zip holds images of random pixels, 256×256 in PPM, without compression, as zips of JPEG files are. Making it does
not count. `sent` is from the first byte to the last, `answered` until the server has unpacked, checked and stored the
data set, and `examined` until it has decoded the images. With --job, `running` is from the first byte until a worker
has started the trainer, and `first step` until that step was done.

Memory is the resident set of the server's process, without PostgreSQL: before, and its peak in each part, which the
kernel tells. Disk is the growth of the file system at its peak, deleted files that are still open included; what other
programs write counts too. Needs only Python's standard library. Stop other work first.
"""

import argparse
import http.client
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile

from trials.server import FINAL

SIDE = 256
CLASSES = 8
CHUNK = 256 << 10
FIRST_STEP = "the first step was done after"


def make_zip(path, megabytes):
    """Writes a zip of about that size; returns the number of images."""
    head = f"P6 {SIDE} {SIDE} 255\n".encode()
    images = max(10 * CLASSES, megabytes * 1_000_000 // (len(head) + 3 * SIDE * SIDE))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(images):
            split = "test" if number // CLASSES % 10 == 9 else "train"
            archive.writestr(f"{split}/class{number % CLASSES}/{number:06}.ppm", head + os.urandom(3 * SIDE * SIDE))
    return images


class Server:
    """`distillery serve` with its data in a directory."""

    def __init__(self, options, directory):
        command = [options.program, "serve", "--listen", "127.0.0.1:0", "--data-dir", directory / "data",
                   "--datasets-dir", directory / "datasets", "--workers", "1" if options.job else "0"]
        (directory / "datasets").mkdir()
        self.log = directory / "server.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=log, text=True,
                                            start_new_session=True)
        line = next((line for line in self.process.stdout if "listening on" in line), None)
        if line is None:
            sys.exit(f"the server ended:\n{self.log.read_text()[-2000:]}")
        self.url = re.search(r"http://\S+", line).group()
        self.address = self.url.removeprefix("http://")

    def stop(self):
        self.process.terminate()
        self.process.wait(90)

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method,
                                         headers={"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def memory(self, field):
        """A figure of the process in MiB: VmRSS now, VmHWM since `reset_peak`."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) // 1024

    def reset_peak(self):
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


class Disk:
    """The largest growth of a file system while this is open."""

    def __init__(self, path):
        self.path, self.most, self.stop = path, 0, threading.Event()
        self.before = self.used()

    def used(self):
        facts = os.statvfs(self.path)
        return (facts.f_blocks - facts.f_bfree) * facts.f_frsize

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def watch(self):
        while not self.stop.wait(0.1):
            self.most = max(self.most, self.used() - self.before)


class Sender:
    """Sends the bytes of a file, no faster than so many megabits a second."""

    def __init__(self, path, megabits):
        self.file, self.rate = open(path, "rb"), megabits and megabits * 1e6 / 8
        self.start, self.sent, self.ended = time.monotonic(), 0, None

    def part(self, first, size):
        self.file.seek(first)
        while size:
            chunk = self.file.read(min(CHUNK, size))
            size -= len(chunk)
            if self.rate:
                time.sleep(max(0, self.start + self.sent / self.rate - time.monotonic()))
            yield chunk
            self.sent += len(chunk)
        self.ended = time.monotonic()


def put(server, query, headers, body, size):
    """Returns status and document of the answer."""
    connection = http.client.HTTPConnection(server.address, timeout=3600)
    connection.request("PUT", f"/v1/datasets/bench{query}", body, {"content-length": str(size), **headers})
    answer = connection.getresponse()
    document = json.load(answer)
    connection.close()
    if answer.status not in (200, 201, 202):
        sys.exit(f"the upload was refused: {document}")
    return answer.status, document


def upload(server, path, options):
    """Uploads the zip; returns the seconds of sending, and of the rest until the answer."""
    size, sender = path.stat().st_size, Sender(path, options.megabits)
    step = options.piece * 1_000_000 if options.piece else size
    for first in range(0, size, step):
        part = min(step, size - first)
        query, headers = "", {}
        if options.piece:
            query, headers = "?upload=bench", {"content-range": f"bytes {first}-{first + part - 1}/{size}"}
        status, _ = put(server, query, headers, sender.part(first, part), part)
    if status != 201:
        sys.exit(f"the last answer has status {status}, not 201")
    return sender.start, sender.ended - sender.start, time.monotonic() - sender.ended


def wait(look, seconds=3600):
    """What `look` returns once that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    sys.exit(f"nothing happened in {seconds} s")


def run_job(server, start):
    """Posts a job; returns the seconds from `start` until it ran, and until its first step was done."""
    spec = {"student": {"architecture": "resnet8"}, "dataset": {"name": "bench"}, "distillation": {"method": "none"},
            "training": {"epochs": 1, "augmentation": "none", "batch_size": 32}}
    job = server.call("POST", "/v1/jobs", spec)["id"]

    def status(wanted):
        found = server.call("GET", f"/v1/jobs/{job}")
        if found["status"] in FINAL and found["status"] != "succeeded":
            sys.exit(f"the job ended: {found['status']} {found.get('error')}")
        return found["status"] in wanted

    def has_stepped():
        status(())
        events = server.call("GET", f"/v1/jobs/{job}/events?limit=1000")["data"]
        return any(FIRST_STEP in event["message"] for event in events)

    wait(lambda: status(("running", "succeeded")))
    running = time.monotonic() - start
    wait(has_stepped)
    return running, time.monotonic() - start


def measure(options, directory):
    archive = directory / "bench.zip"
    images = make_zip(archive, options.megabytes)
    size = archive.stat().st_size
    server = Server(options, directory)
    try:
        idle = server.memory("VmRSS")
        server.reset_peak()
        with Disk(directory) as disk:
            start, sending, storing = upload(server, archive, options)
        peak = server.memory("VmHWM")
        print(f"archive       {size / 1e6:10.1f} MB, {images} images")
        print(f"sent          {sending:10.2f} s, {size / 1e6 / sending:.0f} MB/s")
        print(f"answered      {storing:10.2f} s after the last byte")
        print(f"memory        {peak:10} MiB at its peak, {idle} MiB before")
        print(f"disk          {disk.most / 1e6:10.1f} MB at its peak, {disk.most / size:.1f} times the archive")
        if options.job:
            running, stepped = run_job(server, start)
            print(f"running       {running:10.2f} s after the first byte")
            print(f"first step    {stepped:10.2f} s after the first byte")
        server.reset_peak()
        found = wait(lambda: server.call("GET", "/v1/datasets/bench")["statistics"])
        examined = sum(split["examined"] for split in found["splits"])
        print(f"examined      {time.monotonic() - start:10.2f} s after the first byte, {examined} images decoded, "
              f"{server.memory('VmHWM')} MiB at its peak   load {os.getloadavg()[0]:.1f}")
    finally:
        server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--megabits", type=float, help="send no faster than so many megabits a second")
    parser.add_argument("--piece", type=int, help="send pieces of so many megabytes")
    parser.add_argument("--job", action="store_true", help="train on the data set")
    parser.add_argument("--program", type=pathlib.Path, default="target/release/distillery")
    parser.add_argument("--directory", type=pathlib.Path, help="where the archive and the server's data go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        # PostgreSQL runs as another user if this is root.
        os.chmod(directory, 0o755)
        measure(options, pathlib.Path(directory))


if __name__ == "__main__":
    main()
