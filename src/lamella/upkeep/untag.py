"""Taking away exactly what is named: names, and single blobs. For servers, whose clients delete one thing at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lamella.catalog.holder import dead_leases
from lamella.catalog.records import Reachable
from lamella.errors import FailedPrecondition, NotFound
from lamella.spec.digest import Digest
from lamella.upkeep.gc import Holdings, Report, collect


def remove_names(holdings: Holdings, names: Iterable[str], *, own_leases: Collection[str] = ()) -> Report:
    """Remove these (canonical) names, and then what nothing needs any longer; names that are not there are fine.

    Unlike ``remove_images`` it never refuses: images that others stand on stay for them. Documents that only the
    caller's ``own_leases`` hold go at once; blobs that they hold stay for as long.
    """
    catalog = holdings.catalog
    with catalog.transaction():
        before = catalog.reachable(_others(holdings, own_leases))
        for name in names:
            catalog.remove_name(name)
        after = catalog.reachable(_others(holdings, own_leases))
        for digest in before.documents - after.documents:
            catalog.remove_document(digest)
    holdings.publish()
    gone = _everything(before) - _everything(after)
    return collect(holdings, only=gone) if gone else Report()


def remove_blob(holdings: Holdings, digest: Digest, *, own_leases: Collection[str] = ()) -> None:
    """Remove a blob that nothing but the caller's ``own_leases`` needs.

    Raises NotFound, and FailedPrecondition (``blob-in-use``) when a document or an operation under way needs it.
    """
    catalog = holdings.catalog
    with catalog.transaction():
        if not holdings.content.exists(digest):
            raise NotFound("there is no such blob", code="blob-not-found", subject=f"blob {digest}")
        if catalog.document(digest) is not None or digest in catalog.reachable(_others(holdings, own_leases)).blobs:
            raise FailedPrecondition("images or operations under way need it", code="blob-in-use", subject=str(digest))
        catalog.remove_dropped_blob(digest)
        catalog.remove_blob_diff(digest)
        catalog.forget_blob(digest)
        holdings.content.remove(digest)


def _others(holdings: Holdings, own: Collection[str]) -> set[str]:
    live, _ = dead_leases(holdings.catalog, holdings.ingest)
    return live - set(own)


def _everything(reachable: Reachable) -> set[Digest]:
    return {*reachable.documents, *reachable.blobs, *reachable.diff_ids, *reachable.chain_ids}
