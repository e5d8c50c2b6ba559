"""Requests to a running server, with the patience that days need."""

import hashlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

# How long a server may be away, as for a restart, before this program gives up. Its jobs go on.
PATIENCE = 600
BETWEEN_ATTEMPTS = 5
# The statuses of a job that no longer changes by itself.
FINAL = ("succeeded", "failed", "cancelled")


class Server:
    def __init__(self, address):
        self.address = address.rstrip("/")
        self.token = os.environ.get("DISTILLERY_TOKEN")

    @property
    def is_local(self):
        """Whether it runs on this machine, so that this machine's processor is the one that trains, unless other
        machines have workers for it."""
        return urllib.parse.urlsplit(self.address).hostname in ("127.0.0.1", "localhost", "::1")

    def json(self, method, path, body=None, headers=()):
        data = None if body is None else json.dumps(body).encode()
        return json.loads(self.bytes(method, path, data, [("content-type", "application/json"), *headers]))

    def bytes(self, method, path, data=None, headers=(), answered_by=()):
        """The answer's body; `None` if its status is one of `answered_by`. Waits for a server that is away. All
        requests here may be repeated: a POST has an idempotency key, or asks for what may have happened already."""
        deadline = time.monotonic() + PATIENCE
        while True:
            request = urllib.request.Request(self.address + path, data=data, method=method, headers=dict(headers))
            if self.token:
                request.add_header("authorization", f"Bearer {self.token}")
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    return answer.read()
            except urllib.error.HTTPError as error:
                if error.code in answered_by:
                    return None
                trouble = f"{method} {path}: {error.code} {error.read().decode(errors='replace')}"
                if error.code < 500 and error.code != 429:
                    sys.exit(trouble)
            except (OSError, http.client.HTTPException) as error:
                trouble = f"{self.address}: {getattr(error, 'reason', None) or error}"
            if time.monotonic() > deadline:
                sys.exit(f"{trouble}\nIs the server running? Start it with: distillery serve --datasets-dir DIR. "
                         "The same command then goes on from here.")
            print(f"  {time.strftime('%H:%M:%S')} waiting for the server: {trouble}", file=sys.stderr, flush=True)
            time.sleep(BETWEEN_ATTEMPTS)

    def job(self, job_id):
        return self.json("GET", f"/v1/jobs/{job_id}")

    def post(self, document):
        """Posts a job once, however often it is asked to: the idempotency key is a hash of the document. A job that has
        failed or was cancelled is tried again, from its last checkpoint."""
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
        job = self.json("POST", "/v1/jobs", document, [("idempotency-key", f"evidence-{digest}")])
        if job["status"] in ("failed", "cancelled"):
            # 409: it was retried in the meantime.
            self.bytes("POST", f"/v1/jobs/{job['id']}/retry", answered_by=(409,))
        return job["id"]

    def upload(self, content, name, architecture):
        """The id of a checkpoint, which is the same for the same bytes."""
        query = urllib.parse.urlencode({"name": name, "architecture": architecture})
        return json.loads(self.bytes("PUT", f"/v1/checkpoints?{query}", content))["id"]

    def artifact(self, job_id, name):
        """A file of a job as JSON; `None` if the job has no such file."""
        content = self.bytes("GET", f"/v1/jobs/{job_id}/artifacts/{name}", answered_by=(404,))
        return None if content is None else json.loads(content)

    def points(self, job_id, names):
        """(epoch, value) of each point, by series."""
        query = urllib.parse.urlencode([("name", name) for name in names] + [("max_points", 100_000)])
        series = self.json("GET", f"/v1/jobs/{job_id}/metrics?{query}")["series"]
        return {of["name"]: [(point["epoch"], point["value"]) for point in of["points"]] for of in series}
