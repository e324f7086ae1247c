"""A registry asked by hand: one request a call, over a connection of its own, nothing followed, nothing repeated."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from support import building

OCI = "application/vnd.oci.image."
MANIFEST, INDEX = f"{OCI}manifest.v1+json", f"{OCI}index.v1+json"
CONFIG, LAYER = f"{OCI}config.v1+json", f"{OCI}layer.v1.tar+gzip"
EMPTY = b"{}"
ABSENT = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Answer:
    """What came back; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error code that the body tells, as distribution-spec has it."""
        assert self.headers["content-type"].startswith("application/json")
        (error,) = self.json["errors"]
        assert error["message"]
        return str(error["code"])

    @property
    def location(self) -> str:
        """Where it leads to: a path."""
        parts = urlsplit(self.headers["location"])
        return parts.path + (f"?{parts.query}" if parts.query else "")


@dataclass
class Wire:
    """A registry at ``host``, asked with these headers beside those of each call."""

    host: str
    headers: dict[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None

    def as_user(self, user: str, password: str) -> Wire:
        """The same, asked as a user."""
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        return Wire(self.host, {**self.headers, "Authorization": f"Basic {token}"}, self.tls)

    def connect(self) -> http.client.HTTPConnection:
        """A connection, the caller's to close."""
        if self.tls is not None:
            return http.client.HTTPSConnection(self.host, timeout=60, context=self.tls)
        return http.client.HTTPConnection(self.host, timeout=60)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. A body that is not bytes goes out in HTTP's chunks."""
        connection = self.connect()
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())
        finally:
            connection.close()

    # -- steps that many tests take

    def begin(self, repository: str) -> str:
        """The path of a new upload."""
        answer = self.ask("POST", f"/v2/{repository}/blobs/uploads/", headers={"Content-Length": "0"})
        assert answer.status == 202
        return answer.location

    def put_blob(self, repository: str, data: bytes) -> str:
        """Push a blob; its digest."""
        digest = building.digest_of(data)
        answer = self.ask("PUT", with_query(self.begin(repository), digest=digest), data)
        assert answer.status == 201, answer.body
        return digest

    def put_manifest(self, repository: str, reference: str, document: Any, media_type: str = MANIFEST) -> Answer:
        """Push a document, given as bytes or as what becomes JSON."""
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.ask("PUT", f"/v2/{repository}/manifests/{reference}", raw, {"Content-Type": media_type})

    def put_image(self, repository: str, reference: str, *layers: bytes, **config: Any) -> Image:
        """Push an image of these uncompressed layers."""
        image = image_of(*layers, **config)
        for blob in image.blobs.values():
            self.put_blob(repository, blob)
        answer = self.put_manifest(repository, reference or image.digest, image.raw)
        assert answer.status == 201, answer.body
        return image


@dataclass(frozen=True)
class Image:
    """An image to push: the bytes of its manifest, and its blobs by digest, the config first."""

    raw: bytes
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        """The digest of the manifest."""
        return building.digest_of(self.raw)

    @property
    def descriptor(self) -> dict[str, Any]:
        """What an index or a subject says of it."""
        return {"mediaType": MANIFEST, "digest": self.digest, "size": len(self.raw)}


def descriptor(media_type: str, data: bytes, **fields: Any) -> dict[str, Any]:
    """The descriptor of some bytes."""
    return {"mediaType": media_type, "digest": building.digest_of(data), "size": len(data), **fields}


def image_of(*layers: bytes, **config: Any) -> Image:
    """An image of uncompressed layers, gzipped."""
    document = {
        "os": "linux",
        "architecture": "amd64",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [building.digest_of(layer) for layer in layers]},
        **config,
    }
    raw_config = json.dumps(document).encode()
    packed = [gzip.compress(layer, 1, mtime=0) for layer in layers]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, raw_config),
        "layers": [descriptor(LAYER, data) for data in packed],
    }
    blobs = {building.digest_of(data): data for data in (raw_config, *packed)}
    return Image(json.dumps(manifest).encode(), blobs)


def with_query(path: str, **parameters: str) -> str:
    """A path with one parameter more."""
    added = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"{path}{'&' if '?' in path else '?'}{added}"


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress, always the same."""
    return hashlib.shake_128(seed.to_bytes(8, "big")).digest(size)
