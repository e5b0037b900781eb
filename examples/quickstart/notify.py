"""A function: takes CloudEvents over HTTP (binary mode) and says what it got. Needs only Python's standard library."""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Notify(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        event = f"{self.headers['ce-type']} {self.headers['ce-id']}"
        if self.path == "/rejected":
            # CloudEvents percent-encodes what a header cannot hold as it is.
            print(f"rejected: {event}: {unquote(self.headers['ce-evokecause'])}", flush=True)
            return self.answer(204)
        data = json.loads(body or b"null")
        if isinstance(data, dict) and data.get("customer") == "nobody":
            return self.answer(400, b"nobody is not a customer")
        print(f"got {event}: {json.dumps(data)}", flush=True)
        self.answer(204)

    def answer(self, status, body=b""):
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Notify).serve_forever()
