#!/usr/bin/env python3
"""Receives the messages of a webhook: verifies their signatures as Standard Webhooks specify, handles each message once
however often it comes, and prints it.

    python3 examples/webhook_receiver.py webhooks.json team-chat --listen 127.0.0.1:9000

webhooks.json is the file of `distillery serve --webhooks`, whose secrets sender and receiver share. A receiver that may
be restarted keeps the ids that it has handled in its database; this one keeps them in memory. Needs only Python's
standard library.
"""

import argparse
import base64
import binascii
import hashlib
import hmac
import json
import pathlib
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Seconds by which a timestamp may differ from this machine's clock: an old message may have been recorded by others.
TOLERANCE = 300
# Longest body in bytes. Messages have a few kilobytes.
MOST_BYTES = 1 << 20


def signatures(secrets, message_id, timestamp, body):
    """What may stand in the header `webhook-signature`: one for each secret."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        yield f"v1,{base64.b64encode(digest).decode()}"


def is_genuine(secrets, headers, body):
    """Whether one who knows a secret has sent this within the last minutes."""
    timestamp = headers["webhook-timestamp"]
    if not timestamp.isascii() or not timestamp.isdigit() or abs(time.time() - int(timestamp[:15])) > TOLERANCE:
        return False
    given = [one.encode() for one in headers["webhook-signature"].split(" ")]
    expected = [one.encode() for one in signatures(secrets, headers["webhook-id"], timestamp, body)]
    return any(hmac.compare_digest(one, other) for one in given for other in expected)


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        length = self.headers.get("content-length", "")
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        if not length.isdecimal() or int(length) > MOST_BYTES or not all(name in self.headers for name in names):
            return self.answer(400)
        body = self.rfile.read(int(length))
        if not is_genuine(self.server.secrets, self.headers, body):
            return self.answer(401)
        message_id = self.headers["webhook-id"]
        if message_id in self.server.handled:
            # The server did not get, or could not note, the first answer.
            print(message_id, "again", flush=True)
        else:
            message = json.loads(body)
            subject = message["data"]
            print(message_id, message["type"], subject["id"], json.dumps(subject["name"]), flush=True)
            self.server.handled.add(message_id)
        self.answer(204)

    def answer(self, status):
        """Closes the connection as well: of what is not read, nothing is taken for another request."""
        self.close_connection = True
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=pathlib.Path, help="the file of distillery serve --webhooks")
    parser.add_argument("webhook", help="its name in the file")
    parser.add_argument("--listen", default="127.0.0.1:9000", metavar="ADDRESS:PORT")
    arguments = parser.parse_args()
    try:
        secrets = json.loads(arguments.file.read_text())[arguments.webhook]["secrets"]
        for secret in secrets:
            base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        parser.error(f"{arguments.file} has no secrets of a webhook {arguments.webhook}: {error!r}")
    host, _, port = arguments.listen.rpartition(":")
    if not port.isdecimal():
        parser.error(f"--listen: expected ADDRESS:PORT, as 127.0.0.1:9000, found {arguments.listen}")
    with ThreadingHTTPServer((host, int(port)), Receiver) as server:
        server.secrets, server.handled = secrets, set()
        print(f"listening on http://{server.server_address[0]}:{server.server_address[1]}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
