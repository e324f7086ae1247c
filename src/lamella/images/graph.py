"""The graph of images: every image of a store, found by name, id, digest or prefix, and walked along parents.

The words are those of the 2013 system: an image has a parent and children, an image without children is a head.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from lamella.catalog.protocol import Catalog
from lamella.catalog.records import DocumentRecord, ImageRecord, LayerRecord
from lamella.content.protocol import ContentStore
from lamella.errors import Ambiguous, Integrity, InvalidInput, LamellaError, NotFound
from lamella.images.image import Image
from lamella.layers.store import LayerStore
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest, chain_ids
from lamella.spec.documents import ImageConfig, Index, Manifest
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.platform import Platform
from lamella.spec.reference import Reference
from lamella.spec.v1image import V1_ID

_PREFIX = re.compile(r"(?:sha256:|sha512:)?[0-9a-f]{1,128}")
_V1_PREFIX = re.compile(r"[0-9a-f]{12,64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Graph:
    """The images of one store. Reads see what is committed; nothing is cached but layer indexes.

    ``file_digests`` says that the indexes of new layers are to have the digest of every file's content.
    """

    content: ContentStore
    catalog: Catalog
    layers: LayerStore
    limits: Limits = DEFAULT_LIMITS
    file_digests: bool = False

    # -- documents

    def read_document(self, digest: Digest) -> bytes:
        """The bytes of a manifest, index or config, verified. Raises NotFound, Integrity."""
        return self.content.read(digest, limit=self.limits.document_bytes)

    def manifest(self, digest: Digest) -> Manifest:
        """The manifest with this digest."""
        return Manifest.parse(self.read_document(digest), limits=self.limits)

    def index(self, digest: Digest) -> Index:
        """The image index with this digest."""
        return Index.parse(self.read_document(digest), limits=self.limits)

    # -- looking up

    def image(self, manifest: Digest) -> Image:
        """The image of a manifest. Raises NotFound."""
        record = self.catalog.image(manifest)
        if record is None:
            raise NotFound("no such image", code="image-not-found", subject=str(manifest))
        return Image(self, record)

    def images(self) -> list[Image]:
        """Every image, the first that was added first."""
        return [Image(self, record) for record in self.catalog.images()]

    def find_document(self, text: str) -> DocumentRecord:
        """The document (manifest or index) that ``text`` means: a name, an id, a digest, or a unique prefix of either.

        A name wins over an id, an exact id over one that it is a prefix of. What is none of these may be the id that an
        image had before 2016, or twelve digits of it at least. Raises NotFound, and Ambiguous naming the candidates.
        """
        found = self._by_name(text) or self._by_digest(text) or self._by_v1_id(text)
        if found is None:
            raise NotFound(
                "no such image", code="image-not-found", subject=text, hint="'lamella images -a' lists what there is"
            )
        document = self.catalog.document(found)
        if document is None:
            raise NotFound("the document is no longer in the store", code="image-not-found", subject=str(found))
        return document

    def find(self, text: str, *, platform: Platform | None = None) -> Image:
        """The image that ``text`` means; of an index, the image for ``platform`` (this machine's, if None).

        Raises NotFound (also when no image of an index fits), Ambiguous, and InvalidInput for what is no image.
        """
        document = self.find_document(text)
        if document.kind == "artifact":
            raise InvalidInput("this is an artifact, not an image", code="not-an-image", subject=text)
        if document.kind == "index":
            return self.image(self._choose(document, platform, text))
        image = self.image(document.digest)
        if platform is not None and platform.distance(image.platform) is None:
            raise NotFound(
                f"the image is for {image.platform}, not {platform}", code="platform-not-found", subject=text
            )
        return image

    def _by_name(self, text: str) -> Digest | None:
        try:
            reference = Reference.parse(text)
        except InvalidInput:
            return None
        if reference.digest is not None:
            return self._pinned(reference)
        record = self.catalog.name(str(reference))
        return None if record is None else record.target

    def _pinned(self, reference: Reference) -> Digest | None:
        """The document of ``name@digest``; a tag beside the digest must agree with it."""
        digest = reference.digest
        assert digest is not None
        if reference.tag:
            record = self.catalog.name(str(reference.without_digest()))
            if record is not None and record.target != digest:
                raise NotFound(
                    f"the tag is {record.target}, not {digest}", code="image-not-found", subject=reference.familiar
                )
        return digest if self.catalog.document(digest) is not None else None

    def _by_digest(self, text: str) -> Digest | None:
        text = text.lower()
        if not _PREFIX.fullmatch(text):
            return None
        found = self.catalog.find(text)
        if _DIGEST.fullmatch(text):
            found = [(digest, kind) for digest, kind in found if text in (digest.hex, str(digest))]
        documents = {self._document_of(digest, kind) for digest, kind in found}
        if len(documents) > 1:
            names = ", ".join(f"{kind} {digest}" for digest, kind in found[:8])
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            raise Ambiguous(f"the prefix fits {names}{more}", code="ambiguous-prefix", subject=text)
        return documents.pop() if documents else None

    def _by_v1_id(self, text: str) -> Digest | None:
        """The image that was this one when it had a random id; of several that were, the one that was added first."""
        if not _V1_PREFIX.fullmatch(text):
            return None
        documents = {document.digest: document for document in self.catalog.documents()}
        found: dict[str, Digest] = {}
        for record in self.catalog.images():
            document = documents.get(record.manifest)
            last = document.children[-1].annotations.get(V1_ID, "") if document and document.children else ""
            # A child without a layer of its own has its parent's, but not its id.
            if last.startswith(text) and self.manifest(record.manifest).annotations.get(V1_ID) == last:
                found.setdefault(last, record.manifest)
        if len(found) > 1:
            raise Ambiguous(f"the prefix fits {', '.join(sorted(found)[:8])}", code="ambiguous-prefix", subject=text)
        return next(iter(found.values()), None)

    def _document_of(self, digest: Digest, kind: str) -> Digest:
        """The manifest of an id: of several with one config, the one that was added first."""
        return self.catalog.images_by_id(digest)[0].manifest if kind == "id" else digest

    def _choose(self, document: DocumentRecord, platform: Platform | None, text: str) -> Digest:
        known = [(child, record) for child in document.children if (record := self.catalog.image(child.digest))]
        wanted = platform or Platform.host()
        chosen = wanted.choose([child.platform or record.platform for child, record in known])
        if chosen is None and platform is None and len(known) == 1:
            chosen = 0
        if chosen is None:
            have = ", ".join(sorted({str(child.platform or record.platform) for child, record in known})) or "none"
            raise NotFound(
                f"no image for {wanted}", code="platform-not-found", subject=text, hint=f"there is one for: {have}"
            )
        return known[chosen][1].manifest

    # -- walking

    def children(self, image: Image) -> list[Image]:
        """The images that were committed on this one."""
        return [Image(self, record) for record in self.catalog.children(image.digest)]

    def by_parent(self) -> dict[Digest, list[Image]]:
        """Children by the manifest of their parent; images without a known parent are not in it."""
        result: dict[Digest, list[Image]] = {}
        for image in self.images():
            if image.record.parent is not None:
                result.setdefault(image.record.parent, []).append(image)
        return result

    def heads(self) -> list[Image]:
        """The images that are nobody's parent."""
        parents = self.by_parent()
        return [image for image in self.images() if image.digest not in parents]

    def names_by_target(self) -> dict[Digest, list[str]]:
        """Familiar names by the document that they point at, sorted."""
        result: dict[Digest, list[str]] = {}
        for record in self.catalog.names():
            result.setdefault(record.target, []).append(Reference.parse(record.name).familiar)
        return result

    # -- registering

    def checked_config(self, manifest: Manifest, unpacks_to: Callable[[Descriptor], Digest | None]) -> ImageConfig:
        """The config of an image that is to be registered, whose blobs and layers are all in place.

        ``unpacks_to`` gives the diff_id of a layer's blob. Raises Integrity (``layer-count-mismatch``,
        ``diff-id-mismatch``) unless the layers are those that the config promises, and what ``LayerStore.tree`` raises
        unless they apply one on top of the other.
        """
        config = ImageConfig.parse(self.read_document(manifest.config.digest), limits=self.limits)
        subject = f"image {manifest.descriptor.digest}"
        for blob, promised in manifest.paired(config, subject):
            actual = unpacks_to(blob)
            if actual != promised:
                raise Integrity(
                    f"the layer unpacks to {actual}, the config promises {promised}",
                    code="diff-id-mismatch",
                    subject=subject,
                    layer=str(blob.digest),
                )
        try:
            self.layers.tree(config.diff_ids, limits=self.limits)
        except LamellaError as error:
            raise error.about(subject=subject) from None
        return config

    def register_image(
        self, manifest: Manifest, config: ImageConfig, layers: Iterable[Digest], *, parent: Digest | None = None
    ) -> Image:
        """Record an image whose blobs and layers are all in place. Part of the caller's transaction if there is one."""
        document = DocumentRecord(
            manifest.descriptor.digest,
            manifest.media_type,
            len(manifest.raw),
            "image",
            (manifest.config, *manifest.layers),
        )
        diff_ids = tuple(layers)
        record = ImageRecord(
            manifest=document.digest,
            media_type=manifest.media_type,
            size=document.size,
            id=manifest.config.digest,
            config_size=manifest.config.size,
            parent=parent,
            platform=config.platform,
            created=config.created,
            added=datetime.now(UTC),
            layers=tuple(
                LayerRecord(blob.digest, blob.media_type, blob.size, diff_id, chain)
                for blob, diff_id, chain in zip(manifest.layers, diff_ids, chain_ids(diff_ids), strict=True)
            ),
        )
        self.catalog.add_image(record, document)
        return Image(self, self.catalog.image(document.digest) or record)

    def register_index(self, index: Index) -> None:
        """Record an index; its manifests are recorded before it."""
        self.catalog.add_document(
            DocumentRecord(index.descriptor.digest, index.media_type, len(index.raw), "index", index.manifests)
        )

    def register_artifact(self, descriptor: Descriptor, manifest: Manifest) -> None:
        """Record a manifest that is no image (a signature, an attestation), kept as it is."""
        self.catalog.add_document(
            DocumentRecord(
                descriptor.digest,
                manifest.media_type,
                descriptor.size,
                "artifact",
                (manifest.config, *manifest.layers),
            )
        )
