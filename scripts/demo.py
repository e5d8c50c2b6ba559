#!/usr/bin/env python3
"""The demo behind `make demo`: starts a server, posts the jobs in examples/digits, shows their progress, downloads the
students, evaluates them with `distillery evaluate`, and leaves the server running until Ctrl-C (with STOP=1, stops it).

One seed of a few hundred images decides nothing. So it trains the students with further seeds for as long as two minutes
allow (SEEDS=n: with n seeds, however long that takes), and prints mean, standard deviation and what the seeds tell.

It uses the HTTP API as a user with curl would, and needs only Python's standard library.
"""

import errno
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime

from seeds import print_seeds, print_table

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/distillery"
DATASETS = ROOT / "examples/data"
DATA = ROOT / "data/demo"
LOG = DATA / "server.log"
FINAL = ("succeeded", "failed", "cancelled")

# File name, and title in the final table. Students refer to the teacher as "$TEACHER".
JOBS = {
    "teacher": "teacher",
    "student-alone": "student alone",
    "student-kd": "KD student",
    "student-sdd": "SDD-KD student",
}
STUDENTS = [name for name in JOBS if name != "teacher"]
# Characters of the longest name of a job in the lines of progress.
WIDTH = max(map(len, JOBS.values())) + len(", seed 0")
# Differences by seed that the table shows: what is compared, and with what.
PAIRS = [("student-kd", "student-alone"), ("student-sdd", "student-kd")]

# Seconds from the first job to the table.
BUDGET = 120
# Of these, for downloads and evaluations after the last job.
RESERVE = 10
MOST_SEEDS = 6
MOST_WANTED = 100


class Failure(Exception):
    """Ends the demo with this message."""


class Server:
    """`distillery serve` as a child process in its own session, so that Ctrl-C reaches only this script."""

    def __init__(self, port):
        self.port = port
        self.address = f"http://127.0.0.1:{port}"
        DATA.mkdir(parents=True, exist_ok=True)
        command = [PROGRAM, "serve", "--listen", f"127.0.0.1:{port}", "--data-dir", DATA, "--datasets-dir", DATASETS]
        self.log_start = LOG.stat().st_size if LOG.exists() else 0
        with LOG.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, start_new_session=True
            )

    def wait_until_ready(self, patience=90):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            self.must_live()
            try:
                if self.request("GET", "/readyz", expect=None)[0] == 200:
                    return
            except OSError:
                pass  # not listening yet
            time.sleep(0.1)
        raise Failure(f"the server was not ready after {patience} s")

    def must_live(self):
        if self.process.poll() is not None:
            raise Failure(f"the server exited with status {self.process.returncode}")

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def request(self, method, path, body=None, expect=(200, 201)):
        """Returns status and body of an answer. Raises with the server's message on a status outside `expect`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {"content-type": "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if expect and answer.status not in expect:
            raise Failure(f"{method} {path}: {answer.status}\n{content.decode(errors='replace')}")
        return answer.status, content

    def get(self, path):
        return json.loads(self.request("GET", path)[1])

    def messages(self, path):
        """Yields the messages (name, data) of a Server-Sent Events stream until it ends; reconnects when it breaks."""
        last_id = None
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                connection.request("GET", path, headers={"last-event-id": last_id} if last_id else {})
                answer = connection.getresponse()
                if answer.status == 204:
                    return
                if answer.status != 200:
                    raise Failure(f"GET {path}: {answer.status}\n{answer.read().decode(errors='replace')}")
                name, data = "message", []
                for line in answer:
                    field, _, value = line.decode().rstrip("\r\n").partition(":")
                    value = value.removeprefix(" ")
                    if field == "event":
                        name = value
                    elif field == "data":
                        data.append(value)
                    elif field == "id":
                        last_id = value
                    elif field == "" and value == "" and data:
                        yield name, json.loads("\n".join(data))
                        name, data = "message", []
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            self.must_live()
            time.sleep(0.5)


class Bar:
    """A job's progress: on a terminal one line that is redrawn, elsewhere a line every few seconds."""

    def __init__(self, name):
        self.name = name
        self.live = sys.stdout.isatty()
        self.top1 = None
        self.printed = 0.0
        self.progress = None

    def update(self, progress=None, top1=None):
        self.progress = progress or self.progress
        self.top1 = top1 if top1 is not None else self.top1
        due = self.live or time.monotonic() - self.printed >= 5
        if self.progress and due:
            self.printed = time.monotonic()
            self.draw(self.text())

    def text(self):
        p = self.progress
        full = round(8 * p["fraction"])
        parts = [
            f"  {self.name:<{WIDTH}} {'█' * full}{'░' * (8 - full)} epoch {p['epoch']}/{p['epochs']}",
            "" if self.top1 is None else f"top-1 {self.top1:.1f} %",
            f"{p['images_per_second']:,.0f} images/s",
            f"{p['eta_seconds']:.0f} s left",
        ]
        return "  ".join(part for part in parts if part)

    def draw(self, text, end=False):
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{text[:width]}", end="\n" if end else "", flush=True)
        else:
            print(text, flush=True)

    def close(self, text):
        self.draw(f"  {self.name:<{WIDTH}} {text}", end=True)


def follow(server, name, job_id):
    """Shows a job's progress until it ends; returns the job."""
    bar = Bar(name)
    bar.draw(f"  {name:<{WIDTH}} waiting")
    for kind, data in server.messages(f"/v1/jobs/{job_id}/stream"):
        if kind == "progress":
            bar.update(progress=data)
        elif kind == "metric" and data["name"] == "eval/top1":
            bar.update(top1=data["value"])
        elif kind == "event" and data.get("level") == "warning":
            bar.draw(f"  {name:<{WIDTH}} warning: {data['message']}", end=True)
        elif kind == "status" and data["status"] in FINAL:
            break
    job = server.get(f"/v1/jobs/{job_id}")
    if job["status"] != "succeeded":
        bar.close(job["status"])
        error = job.get("error") or {}
        raise Failure(f"{name}: {job['status']}: {error.get('class')}: {error.get('message')}")
    result = job["result"]
    bar.close(f"done: last top-1 {result['last_top1']:.1f} %, {duration(job):.0f} s")
    return job


def duration(job):
    started, finished = (datetime.fromisoformat(job[key].replace("Z", "+00:00")) for key in ("started_at", "finished_at"))
    return (finished - started).total_seconds()


def clear_leftovers(server):
    """Cancels the jobs of an interrupted demo, which the server would otherwise finish before the new ones."""
    unfinished = "&".join(f"status={status}" for status in ("queued", "running", "pausing", "paused"))
    for job in server.get(f"/v1/jobs?label=demo:digits&limit=100&{unfinished}")["data"]:
        # 409: the job has ended in the meantime.
        server.request("POST", f"/v1/jobs/{job['id']}/cancel", expect=(202, 409))


def submit(server, name, teacher, seed=0):
    spec = json.loads((ROOT / f"examples/digits/{name}.json").read_text())
    if "teacher" in spec and spec["teacher"].get("job") == "$TEACHER":
        spec["teacher"]["job"] = teacher
    if seed:
        spec["training"]["seed"] = seed
        spec["name"] += f", seed {seed}"
    return json.loads(server.request("POST", "/v1/jobs", spec)[1])["id"]


def download(server, name, job):
    """Downloads the student as a user would, and checks its SHA-256 against the job's."""
    content = server.request("GET", f"/v1/jobs/{job['id']}/student")[1]
    if hashlib.sha256(content).hexdigest() != job["result"]["student"]["sha256"]:
        raise Failure(f"{name}: the downloaded student's SHA-256 differs from the job's")
    target = DATA / "students" / f"{name}.safetensors"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(content)
    return target


def evaluate(job, student):
    spec = job["spec"]
    command = [PROGRAM, "evaluate", "--architecture", spec["student"]["architecture"], "--checkpoint", student]
    done = subprocess.run([*command, "--dataset", DATASETS / spec["dataset"]["name"]], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise Failure(f"distillery evaluate failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def free_port(wanted):
    """The wanted port or the next free one, bound as the server would bind it; any free one for 0."""
    for port in range(wanted, wanted + 50):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise Failure(f"cannot listen on port {port}: {error.strerror}") from error
                continue
            found = probe.getsockname()[1]
        if wanted and found != wanted:
            print(f"Port {wanted} is in use; using {found}.")
        return found
    raise Failure(f"no free port between {wanted} and {wanted + 49}: set PORT")


def wanted_seeds():
    """The number in SEEDS; 0 for as many as there is time for."""
    text = os.environ.get("SEEDS") or "0"
    if not text.isascii() or not text.isdigit() or int(text) > MOST_WANTED:
        raise Failure(f"SEEDS={text}: give a number of seeds up to {MOST_WANTED}, such as 6")
    return int(text)


def train(server, began):
    """Trains the teacher and, with one seed after the other, the students. Returns the finished jobs: the teacher's, and
    a list per student."""
    wanted = wanted_seeds()
    teacher = submit(server, "teacher", None)
    jobs = {name: [] for name in STUDENTS}
    ids = [submit(server, name, teacher) for name in STUDENTS]
    finished = follow(server, JOBS["teacher"], teacher)
    for seed in range(wanted or MOST_SEEDS):
        started = time.monotonic()
        for name, job in zip(STUDENTS, ids):
            jobs[name].append(follow(server, f"{JOBS[name]}, seed {seed}", job))
        now = time.monotonic()
        is_time_left = now - began + (now - started) + RESERVE <= BUDGET
        if seed + 1 == wanted or (not wanted and (not is_time_left or seed + 1 == MOST_SEEDS)):
            break
        ids = [submit(server, name, teacher, seed + 1) for name in STUDENTS]
    return finished, jobs


def run(server):
    server.wait_until_ready()
    print(f"Dashboard: {server.address}/\n", flush=True)
    clear_leftovers(server)
    teacher, jobs = train(server, time.monotonic())

    print("\nDownloading the students of seed 0, as of their best epochs, and evaluating them with `distillery evaluate`:\n",
          flush=True)
    rows, images = [], 0
    for name, title in JOBS.items():
        job = teacher if name == "teacher" else jobs[name][0]
        student = download(server, name, job)
        measured = evaluate(job, student)
        images = measured["images"]
        parameters = job["result"]["student"]["parameters"]
        size = f"{student.stat().st_size / 1000:,.0f} kB"
        rows.append((title, job["spec"]["student"]["architecture"], f"{measured['top1']:.2f} %", f"{parameters:,}", size))
    print_table(("", "architecture", "top-1", "parameters", "file"), rows)
    print_seeds({name: [job["result"]["last_top1"] for job in of] for name, of in jobs.items()}, JOBS, PAIRS, images)
    print(f"\nThe students are in {(DATA / 'students').relative_to(ROOT)}/.", flush=True)


def main():
    os.environ.pop("DATABASE_URL", None)  # use the demo's own database
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in the Makefile
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    server = None
    try:
        server = Server(free_port(int(os.environ.get("PORT") or 8080)))
        run(server)
        if os.environ.get("STOP") == "1":
            return 0
        print(f"The server runs at {server.address}/ until you press Ctrl-C.", flush=True)
        server.process.wait()
        server.must_live()
    except KeyboardInterrupt:
        print("\nStopping the server …", flush=True)
        return 0
    except (Failure, OSError) as failure:
        print(f"\ndemo: {failure}", file=sys.stderr)
        if server and LOG.exists():
            print(f"\nThe end of {LOG.relative_to(ROOT)}:", file=sys.stderr)
            text = LOG.read_bytes()[server.log_start :].decode(errors="replace")
            print(*text.splitlines()[-30:], sep="\n", file=sys.stderr)
        return 1
    finally:
        if server:
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
