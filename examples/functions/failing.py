"""A function that fails on demand: the path that an event is posted to is the status that it answers.

`/204` delivers, `/503` is tried again until it goes to the dead letter, `/400` goes there at once.
"""

import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Failing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        status = int(self.path.strip("/") or 500)
        reason = b"" if status == 204 else f"this function answers {status}".encode()
        print(f"{self.headers['ce-id']}: {status}", flush=True)
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", str(len(reason)))
        self.end_headers()
        self.wfile.write(reason)

    def log_message(self, *_):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Failing).serve_forever()
