"""Pushing by the protocol of version 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lamella.errors import InvalidInput
from lamella.registry.v1.client import Client, Entry
from lamella.registry.v1.layers import simple_checksum
from lamella.spec.endpoint import Reader
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference
from lamella.spec.v1image import V1Image, parents_first


@dataclass(frozen=True, slots=True)
class Upload:
    """An image to push: its record, and how its layer is opened, again and again with the same bytes.

    ``tarsum`` is stated as the image's checksum where there is one, else the simple checksum is.
    """

    image: V1Image
    open_layer: Callable[[], Reader]
    size: int
    tarsum: str = ""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did at each endpoint: the ids that were sent, and those that were there already."""

    sent: tuple[str, ...]
    present: tuple[str, ...]


def push(
    client: Client, uploads: Sequence[Upload], tags: Mapping[str, str], *, progress: Progress = NO_PROGRESS
) -> Pushed:
    """Push images, and point ``tags`` at them: each image after its parent, each tag of an image, and no others.

    The index learns first what will come and last the checksums of it; a registry that has an image already is not
    sent it again. A push that fails leaves images without tags at most. Raises InvalidInput for a parent that is not
    among the images, for a tag of none of them or of characters that no tag has, and as Client does.
    """
    by_id = {upload.image.id: upload for upload in uploads}
    ordered = [by_id[image.id] for image in parents_first({key: item.image for key, item in by_id.items()})]
    for tag, identity in tags.items():
        if Reference.parse(f"{client.reference.repository}:{tag}").tag != tag:
            raise InvalidInput(f"'{tag[:80]}' is no tag", code="v1-tag", subject=client.reference.familiar)
        if identity not in by_id:
            raise InvalidInput(f"the tag {tag} is of {identity[:80]}, which is not pushed", code="v1-tag",
                               subject=client.reference.familiar)  # fmt: skip
    checksums = {upload.image.id: _checksum(upload) for upload in ordered}
    tagged: dict[str, list[str]] = {}
    for tag, identity in tags.items():
        tagged.setdefault(identity, []).append(tag)
    client.announce([Entry(key, tag=tag) for key in checksums for tag in (tagged.get(key) or [""])])
    sent: dict[str, None] = {}
    present: dict[str, None] = {}
    for endpoint in client.endpoints:
        for upload in ordered:
            key = upload.image.id
            done = _push_image(client, endpoint, upload, checksums[key], progress)
            (sent if done else present)[key] = None
        for tag, identity in tags.items():
            progress.note(f"Pushing tags for rev [{identity[:12]}] on {{{endpoint}}}")
            client.put_tag(endpoint, tag, identity)
    client.conclude([Entry(key, checksum=by_id[key].tarsum or simple) for key, simple in checksums.items()])
    return Pushed(tuple(sent), tuple(present))


def _push_image(client: Client, endpoint: str, upload: Upload, simple: str, progress: Progress) -> bool:
    key = upload.image.id[:12]
    progress.start(key, "pushing", total=upload.size)
    try:
        is_new = client.put_record(endpoint, upload.image)
        if is_new:
            client.put_layer(endpoint, upload.image.id, lambda: _Counted(upload.open_layer(), progress, key))
            client.put_checksum(endpoint, upload.image.id, checksum=upload.tarsum or simple, payload=simple)
    except BaseException:
        progress.done(key, "failed")
        raise
    progress.done(key, "done" if is_new else "exists")
    return is_new


def _checksum(upload: Upload) -> str:
    reader = upload.open_layer()
    try:
        return simple_checksum(upload.image.raw, reader)
    finally:
        reader.close()


class _Counted:
    def __init__(self, reader: Reader, progress: Progress, key: str) -> None:
        self._reader, self._progress, self._key = reader, progress, key

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        self._progress.advance(self._key, len(data))
        return data

    def close(self) -> None:
        self._reader.close()
