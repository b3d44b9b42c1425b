"""OCI images for tests, made by hand (image-spec: image-layout.md), and a registry that has them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import platform
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import archives
from support.outer import run
from support.waiting import until

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_OCI = "application/vnd.oci.image"
_CONFIG = """version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {directory}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def layout(
    path: Path, *layers: list[archives.Entry], compress: str = "gzip", machine: str = "", **config: Any
) -> Path:
    """An image of these layers, lowest first, as a directory that skopeo reads as ``oci:PATH:latest``."""
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    made, ids = [], []
    for number, entries in enumerate(layers):
        plain = archives.write(path / f"{number}.tar", *entries)
        ids.append(f"sha256:{hashlib.sha256(plain.read_bytes()).hexdigest()}")
        if compress == "gzip":
            made.append(blob(gzip.compress(plain.read_bytes(), mtime=0), "layer.v1.tar+gzip"))
        elif compress == "zstd":
            subprocess.run(["zstd", "-q", "-f", plain], check=True)
            made.append(blob(plain.with_suffix(".tar.zst").read_bytes(), "layer.v1.tar+zstd"))
        plain.unlink()
    about = {
        "architecture": machine or ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": blob(json.dumps(about).encode(), "config.v1+json"),
        "layers": made,
    }
    entry = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return path


@contextlib.contextmanager
def registry(directory: Path, port: int = 5000) -> Iterator[str]:
    """A registry on 127.0.0.1 of the namespace that the tests are in; its name in references."""
    program = shutil.which("docker-registry")
    assert program is not None
    directory.mkdir()
    config = directory / "config.yml"
    config.write_text(_CONFIG.format(directory=directory / "store", port=port))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:

        def answers() -> bool:
            assert process.poll() is None, (directory / "log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5) as reply:
                    return bool(reply.status == 200)
            except (urllib.error.URLError, ConnectionError):
                return False

        until(answers, "the registry answers", 30)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def push(image: Path, name: str) -> None:
    """Put the image of a layout into the registry."""
    run("skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{image}:latest", f"docker://{name}")
