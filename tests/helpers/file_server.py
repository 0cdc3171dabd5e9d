"""For the tests of fetching: a web server on this machine that can misbehave in every known way, and small helpers."""

import hashlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from clearsight.core.progress import SilentMeter
from clearsight.data.named.download import RemoteFile
from clearsight.data.named.fetch import RemoteData, fetch_data

BODY = np.random.default_rng(0).bytes(200_000)
NAME = "train-images-idx3-ubyte.gz"


def build_remote(*bodies, names=(NAME, "b.gz", "c.gz")):
    files = (RemoteFile(n, len(b), hashlib.sha256(b).hexdigest()) for n, b in zip(names, bodies, strict=False))
    return RemoteData(tuple(files), ("http://127.0.0.1:9/closed",))


class Server:
    """Serves `body`; `plan` holds one behaviour an answer, the last one for all that follow."""

    def __init__(self, body=BODY):
        self.body, self.plan, self.asked, self.sent, self.etag = body, [{}], [], 0, '"one"'
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/x"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def answer(self, request):
        plan = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        self.asked.append((request.path, dict(request.headers)))
        body, wanted = plan.get("body", self.body), request.headers.get("Range")
        condition, start, status = request.headers.get("If-Range"), 0, plan.get("status", 200)
        if wanted and status == 200 and not plan.get("no_range") and condition in (None, self.etag):
            start, status = int(wanted[6:-1]), 206
        request.send_response(status)
        if "to" in plan:
            request.send_header("Location", plan["to"])
        if status == 206:
            shift = plan.get("shift", 0)
            request.send_header("Content-Range", f"bytes {start + shift}-{len(body) - 1}/{len(body)}")
        content = body[start:] if status in (200, 206) else b""
        if self.etag:
            request.send_header("ETag", self.etag)
        if "chunked" not in plan:
            request.send_header("Content-Length", str(plan.get("length", len(content))))
        request.end_headers()
        content = content[: plan.get("cut")]
        try:
            for at in range(0, len(content), 8192):
                self.sent += len(content[at : at + 8192])  # before it arrives, as the test may look right then
                request.wfile.write(content[at : at + 8192])
                if "slow" in plan:
                    time.sleep(plan["slow"])
            if "hang" in plan:
                request.wfile.flush()
                plan["hang"].wait(10)
        except OSError:
            pass
        request.close_connection = True

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def get(folder, *mirrors, name="mnist", notes=None, timeout=5.0):
    note = (notes if notes is not None else []).append
    bases = [getattr(mirror, "url", mirror) for mirror in mirrors]
    return fetch_data(name, folder=folder, meter=SilentMeter, mirrors={name: bases}, note=note, timeout_seconds=timeout)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refuse(kind, message, call, *args, **kwargs):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call(*args, **kwargs)


def failure(folder, *reasons):
    return (
        f"{NAME} must come from one of its mirrors, got none that gives it: {'; '.join(reasons)}. Check the network "
        f"and fetch again, or put {NAME} into {folder / 'mnist'} by hand and fetch again."
    )
