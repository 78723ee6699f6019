"""A small COCO behind a real HTTP server on this machine, which fails on request."""

import io
import json
import random
import re
import threading
import time
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

ARCHIVE = "annotations/annotations_trainval2017.zip"
LICENSES = [
    {"id": 1, "url": "http://creativecommons.org/licenses/by-nc-sa/2.0/", "name": "NC License"},
    {"id": 4, "url": "http://creativecommons.org/licenses/by/2.0/", "name": "Attribution License"},
    {"id": 5, "url": "http://creativecommons.org/licenses/by-sa/2.0/", "name": "ShareAlike"},
    {"id": 7, "url": "http://flickr.com/commons/usage/", "name": "No known restrictions"},
]
CATEGORIES = {1: "person", 10: "traffic light", 18: "dog"}


def small_coco(train: int = 90, val: int = 40) -> dict[str, bytes]:
    """{path: content} of a synthetic COCO: JPEG noise, and boxes with polygons anywhere in it."""
    rng = np.random.default_rng(3)
    files, annotations = {}, {}
    for split, first, count in (("train2017", 1000, train), ("val2017", 9000, val)):
        images, objects = [], []
        for image_id in range(first, first + 7 * count, 7):
            width, height = rng.integers(23, 61, size=2).tolist()
            name = f"{image_id:012d}.jpg"
            pixels = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "JPEG")
            files[f"{split}/{name}"] = content.getvalue()
            images.append(
                {
                    "id": image_id,
                    "file_name": name,
                    "width": width,
                    "height": height,
                    "license": int(rng.choice([1, 4, 5, 7])),
                    "flickr_url": f"http://flickr/{image_id}",
                }
            )
            # Persons are everywhere, dogs are rare, and some images are empty.
            for category in rng.choice([1, 1, 1, 1, 10, 18], size=rng.integers(0, 5)):
                x, y = rng.uniform(0, 9, size=2).round(2).tolist()
                objects.append(
                    {
                        "id": len(objects) + 1,
                        "image_id": image_id,
                        "category_id": int(category),
                        "bbox": [x, y, 11.5, 7.25],
                        "area": 60.0,
                        "iscrowd": int(rng.random() < 0.1),
                        "segmentation": [[x, y, x + 11.5, y, x, y + 7.25]],
                    }
                )
        # COCO itself has two boxes like this one.
        objects.append({**objects[0], "id": len(objects) + 1, "bbox": [3, 4, 5, 0]})
        annotations[f"annotations/instances_{split}.json"] = {
            "info": {},
            "licenses": LICENSES,
            "images": images,
            "annotations": objects,
            "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
        }
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("annotations/captions_train2017.json", rng.bytes(20_000))  # not needed
        for name, content in annotations.items():
            zipped.writestr(name, json.dumps(content))
    return {**files, ARCHIVE: archive.getvalue()}


class CocoServer(ThreadingHTTPServer):
    """Serves files; the n-th request (from 0) for a path fails as `fault(path, n)` says, if at all.

    Faults: "500", "503", "404", "cut" (half of the announced length), "slow" (nothing for a
    second), "text" (a page that is not an image), "size" (an image of another size), "broken" (an
    image that ends half-way, of that length), "closed" (the connection, before an answer),
    "trickle" (one byte at a time, too fast for a timeout).
    Attributes: `asked` (path -> number of requests), `faults` (fault -> number), `sent` (bytes).
    """

    daemon_threads = True

    def __init__(self, files, fault=lambda path, n: None, ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.fault, self.ranges = files, fault, ranges
        self.asked, self.sent, self.faults = Counter(), 0, Counter()
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # the client is gone; a test may have killed it

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, self.path.removeprefix("/")
        with server.lock:
            n = server.asked[path]
            server.asked[path] += 1
            fault = server.fault(path, n)
            server.faults[fault] += 1
        content = server.files.get(path)
        if fault == "closed":
            return
        if fault == "slow":
            time.sleep(1)
        if content is None or (fault or "").isdigit():
            self.send_error(int(fault or 404))
            return
        status, headers = 200, {}
        requested = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if requested and server.ranges:
            first, last = int(requested[1]), min(int(requested[2]), len(content) - 1)
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content = content[first : last + 1]
        if fault == "text":
            content = b"<html>please log in</html>"
        if fault == "size":
            other = io.BytesIO()
            Image.new("RGB", (5, 3)).save(other, "JPEG")
            content = other.getvalue()
        if fault == "broken":
            content = content[: len(content) // 2]
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        for byte in content if fault == "trickle" else b"":
            time.sleep(0.02)
            self.wfile.write(bytes([byte]))
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        with server.lock:
            server.sent += len(content)

    def log_message(self, *args):
        pass


def one_in_five(path: str, n: int) -> str | None:
    """A fault of any kind for 20% of all requests, independent of their order."""
    chance = random.Random(f"{path} {n}z")
    kinds = ["500", "503", "404", "cut", "slow", "text", "size", "broken", "closed"]
    return chance.choice(kinds) if chance.random() < 0.2 else None
