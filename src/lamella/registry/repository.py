"""One repository of a registry: its manifests, blobs, tags and referrers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from lamella.errors import Integrity, InvalidInput, LamellaError, NotFound, Unavailable
from lamella.registry.auth import Scopes, repository_scope
from lamella.registry.client import Answer, Call, Registry, expect, failure
from lamella.registry.hosts import origin
from lamella.registry.transport import Response
from lamella.spec import jsondoc, media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import Index

SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
SCHEMA1_TYPES = frozenset({SCHEMA1_SIGNED, SCHEMA1})
_ACCEPTED = (
    media.OCI_INDEX,
    media.OCI_MANIFEST,
    media.DOCKER_INDEX,
    media.DOCKER_MANIFEST,
    f"{SCHEMA1_SIGNED};q=0.5",
    f"{SCHEMA1};q=0.4",
)
_PAGE = 1000
_PAGES = 10_000
_NEXT = re.compile(r"<([^<>]*)>[^,<]*;\s*rel=\"?next\"?")
_COSIGN_SUFFIXES = ("sig", "att", "sbom")


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or an index as it came, verified against the digest that it was asked for by."""

    descriptor: Descriptor
    raw: bytes


class Repository:
    """A repository at a registry, whose client stays the caller's. ``push`` says that it will be written to.

    ``sources`` are other repositories of the registry that blobs may be taken from.
    """

    def __init__(self, registry: Registry, path: str, *, push: bool = False, sources: tuple[str, ...] = ()) -> None:
        self.registry, self.path = registry, path
        self._actions = ("pull", "push") if push else ("pull",)
        self._sources = sources

    @property
    def name(self) -> str:
        """The repository with its host."""
        return f"{self.registry.domain}/{self.path}"

    @property
    def scopes(self) -> Scopes:
        """What its tokens are asked for."""
        others = (repository_scope(path, "pull") for path in self._sources if path != self.path)
        return frozenset({repository_scope(self.path, *self._actions), *others})

    def request(self, method: str, rest: str, **fields: Any) -> Call:
        """A call of this repository; ``rest`` stands behind its path, or is a whole URL."""
        path = rest if "://" in rest else f"{self.path}/{rest}"
        return Call(method, path, self.scopes, self.path, **fields)

    # -- manifests

    def document(self, wanted: str | Digest) -> Document:
        """The manifest or index with a tag or a digest.

        Raises NotFound, and Integrity if it has another digest than the one asked for, or than the registry says.
        """
        subject = f"{self.name}{'@' if isinstance(wanted, Digest) else ':'}{wanted}"
        call = self.request("GET", f"manifests/{wanted}", headers={"Accept": ", ".join(_ACCEPTED)})
        answer = expect(self.registry.call(call), (200,), subject)
        media_type = _media_type(answer, subject)
        if media_type in SCHEMA1_TYPES:
            return self._schema1(answer, media_type, wanted, subject)
        digest = wanted if isinstance(wanted, Digest) else _stated(answer) or Digest.of(answer.body)
        actual = Digest.of(answer.body, digest.algorithm)
        if actual != digest:
            raise Integrity(f"what came has the digest {actual}, not {digest}", code="digest-mismatch", subject=subject)
        return Document(Descriptor(media_type, digest, len(answer.body)), answer.body)

    def _schema1(self, answer: Answer, media_type: str, wanted: str | Digest, subject: str) -> Document:
        from lamella.registry.schema1 import payload

        signed = payload(answer.body)
        digest = wanted if isinstance(wanted, Digest) else _stated(answer) or Digest.of(signed)
        if Digest.of(signed, digest.algorithm) != digest:
            raise Integrity("what came has another digest", code="digest-mismatch", subject=subject)
        return Document(Descriptor(media_type, digest, len(answer.body)), answer.body)

    def digest_of_tag(self, tag: str) -> Digest | None:
        """What a tag points at, found without the document where the registry tells; None if there is no such tag."""
        call = self.request("HEAD", f"manifests/{tag}", headers={"Accept": ", ".join(_ACCEPTED)})
        answer = self.registry.call(call)
        if answer.status == 404:
            return None
        expect(answer, (200,), f"{self.name}:{tag}")
        return _stated(answer) or self.document(tag).descriptor.digest

    def put_document(self, descriptor: Descriptor, raw: bytes, tag: str = "") -> Answer:
        """Write a manifest or an index, under its digest or a tag. What it names must be there."""
        target = tag or str(descriptor.digest)
        call = self.request("PUT", f"manifests/{target}", headers={"Content-Type": descriptor.media_type}, body=raw)
        answer = expect(self.registry.call(call), (200, 201, 202), f"{self.name}{':' if tag else '@'}{target}")
        stated = _stated(answer)
        if stated is not None and stated != descriptor.digest and stated.algorithm == descriptor.digest.algorithm:
            raise Integrity(
                f"the registry took it as {stated}, not {descriptor.digest}", code="digest-mismatch", subject=self.name
            )
        return answer

    # -- blobs

    def has_blob(self, digest: Digest, size: int) -> bool:
        """Whether a blob is there, with this size where the registry tells one."""
        answer_to = self.registry.open(self.request("HEAD", f"blobs/{digest}"))
        answer_to.close()
        if answer_to.status == 404:
            return False
        if answer_to.status != 200:
            raise failure(answer_to.status, b"", f"{self.name}@{digest}")
        return answer_to.length in (None, size)

    def blob_size(self, digest: Digest) -> int:
        """How many bytes a blob has, for a manifest that does not say. Raises NotFound, Unavailable."""
        answer_to = self.registry.open(self.request("HEAD", f"blobs/{digest}"))
        answer_to.close()
        if answer_to.status != 200:
            raise failure(answer_to.status, b"", f"{self.name}@{digest}")
        if answer_to.length is None:
            raise Unavailable("the registry tells no size", code="registry-protocol", subject=f"blob {digest}")
        return answer_to.length

    def open_blob(self, digest: Digest, *, start: int = 0, end: int | None = None) -> Response:
        """The answer with a blob's bytes from ``start`` to before ``end``, or with all of them. Raises NotFound."""
        headers = {}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        response = self.registry.open(self.request("GET", f"blobs/{digest}", headers=headers))
        if response.status not in (200, 206):
            raise _blob_failure(response, f"{self.name}@{digest}")
        return response

    # -- discovery

    def tags(self) -> Iterator[str]:
        """Every tag, page by page. Raises NotFound for a repository that is not there."""
        for document in self._pages(f"tags/list?n={_PAGE}"):
            yield from jsondoc.strings(document, "tags", "the list of tags")

    def referrers(self, digest: Digest, artifact_type: str = "") -> list[Descriptor]:
        """The manifests whose subject is ``digest``: told by the registry, or by the tag that stands in for that."""
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
        try:
            documents = list(self._pages(f"referrers/{digest}{query}"))
        except (NotFound, InvalidInput, Unavailable) as error:
            if isinstance(error, Unavailable) and error.code != "registry-error":
                raise
            return self._listed_referrers(digest, artifact_type)
        except LamellaError as error:
            if error.code != "registry-unsupported":
                raise
            return self._listed_referrers(digest, artifact_type)
        found = [item for document in documents for item in _manifests(document)]
        return [item for item in found if not artifact_type or item.artifact_type == artifact_type]

    def _listed_referrers(self, digest: Digest, artifact_type: str) -> list[Descriptor]:
        index = self.referrers_index(digest)
        found = () if index is None else index.manifests
        return [item for item in found if not artifact_type or item.artifact_type == artifact_type]

    def referrers_index(self, digest: Digest) -> Index | None:
        """The index behind the tag ``sha256-HEX`` (distribution-spec, "Referrers Tag Schema"); None without one."""
        try:
            document = self.document(referrers_tag(digest))
        except NotFound:
            return None
        if not document.descriptor.is_index:
            return None
        return Index.parse(document.raw, document.descriptor.media_type, limits=self.registry.limits)

    def signatures(self, digest: Digest) -> dict[str, Digest]:
        """What cosign keeps beside an image, by tag: signatures (``.sig``), attestations (``.att``), ``.sbom``."""
        tags = [f"{referrers_tag(digest)}.{suffix}" for suffix in _COSIGN_SUFFIXES]
        return {tag: found for tag in tags if (found := self.digest_of_tag(tag)) is not None}

    def _pages(self, rest: str) -> Iterator[jsondoc.Object]:
        """The documents of a listing and of what its ``Link`` leads to. Raises Unavailable for links that go astray."""
        seen: set[str] = set()
        url = rest
        for _ in range(_PAGES):
            answer = expect(self.registry.call(self.request("GET", url)), (200,), self.name)
            yield jsondoc.parse_object(answer.body, "the listing", limits=self.registry.limits)
            following = _NEXT.search(answer.header("Link"))
            if following is None:
                return
            url = self.registry.transport.safe_target(answer.url, following[1])
            if url in seen or origin(url) != origin(answer.url):
                raise Unavailable("its pages lead astray", code="registry-protocol", subject=self.name)
            seen.add(url)
        raise Unavailable("its pages do not end", code="registry-protocol", subject=self.name)


def referrers_tag(digest: Digest) -> str:
    """The tag that lists what refers to a manifest."""
    return f"{digest.algorithm}-{digest.hex}"


def _blob_failure(response: Response, subject: str) -> LamellaError:
    body = response.body(64 << 10)
    error = failure(response.status, body, subject)
    if response.status == 404:
        error.code = "blob-not-found"
    return error


def _stated(answer: Answer) -> Digest | None:
    """The digest that the registry says a document has; None if it says none that can be checked."""
    text = answer.header("Docker-Content-Digest")
    if not text:
        return None
    try:
        return Digest.parse(text)
    except InvalidInput:
        return None


def _media_type(answer: Answer, subject: str) -> str:
    """What kind of document came: what the header says if that is a kind that is known, else what the document says."""
    stated = answer.header("Content-Type").partition(";")[0].strip().lower()
    known = media.MANIFESTS | media.INDEXES | SCHEMA1_TYPES
    if stated in known:
        return stated
    document = jsondoc.parse_object(answer.body, subject)
    own = document.get("mediaType")
    if isinstance(own, str) and own in known:
        return own
    if document.get("schemaVersion") == 1:
        return SCHEMA1_SIGNED if "signatures" in document else SCHEMA1
    if "manifests" in document:
        return media.OCI_INDEX
    if "config" in document or "layers" in document:
        return media.OCI_MANIFEST
    raise InvalidInput(f"a '{stated[:100]}' is no image", code="media-type", subject=subject)


def _manifests(document: jsondoc.Object) -> list[Descriptor]:
    values: list[Any] = jsondoc.field(document, "manifests", list, "the list of referrers", [])
    return [Descriptor.from_object(value, "a referrer") for value in values]
