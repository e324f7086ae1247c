"""Which images may be pulled: a caller's own check, and ``policy.json``.

Format: containers-policy.json(5). ``insecureAcceptAnything`` and ``reject`` are obeyed. What needs a signature to be
verified (``signedBy``, ``sigstoreSigned``) is refused as Unsupported, so that nothing passes for verified that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamella._sys.files import os_errors
from lamella.errors import AccessDenied, InvalidInput, LamellaError, Unsupported
from lamella.spec import jsondoc
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.reference import Reference

SYSTEM = Path("/etc/containers/policy.json")
_KINDS = frozenset({"insecureAcceptAnything", "reject", "signedBy", "sigstoreSigned"})
_WHAT = "the policy"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that is about to be pulled: nothing but its manifest or index was fetched.

    ``referrers`` lists what refers to it, ``signatures`` what cosign keeps beside it, by tag; both ask the registry.
    """

    reference: Reference
    descriptor: Descriptor
    document: bytes
    referrers: Callable[[], Sequence[Descriptor]]
    signatures: Callable[[], Mapping[str, Digest]]


Verify = Callable[[Candidate], object]
"""Refuses an image by returning False, or by raising; whatever else it returns lets it pass."""


def verified(candidate: Candidate, verify: Verify | None) -> None:
    """Ask ``verify``. Raises AccessDenied (``policy-rejected``), or what it raises."""
    if verify is not None and verify(candidate) is False:
        raise _rejected(candidate.reference)


@dataclass(frozen=True, slots=True)
class Policy:
    """The requirements for images from registries (the transport ``docker``), by scope; a ``Verify`` when called."""

    default: tuple[jsondoc.Object, ...]
    scopes: Mapping[str, tuple[jsondoc.Object, ...]]
    subject: str = "policy.json"

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read a policy. Raises NotFound, InvalidInput for one that is malformed."""
        with os_errors(str(path)):
            raw = path.read_bytes()
        try:
            return cls.parse(raw, subject=str(path))
        except LamellaError as error:
            raise error.about(subject=str(path)) from None

    @classmethod
    def parse(cls, raw: bytes, *, subject: str = "policy.json") -> Policy:
        """Read the document."""
        document = jsondoc.parse_object(raw, _WHAT)
        unknown = set(document) - {"default", "transports"}
        if unknown:
            raise InvalidInput(f"it has '{sorted(unknown)[0][:80]}', which is not known", code="policy-malformed")
        transports: dict[str, Any] = jsondoc.field(document, "transports", dict, _WHAT, {})
        scopes: dict[str, Any] = jsondoc.field(transports, "docker", dict, _WHAT, {})
        return cls(
            _requirements(jsondoc.field(document, "default", list, _WHAT)),
            {scope: _requirements(value) for scope, value in scopes.items()},
            subject,
        )

    def requirements(self, reference: Reference) -> tuple[jsondoc.Object, ...]:
        """What is required of an image: by the most specific scope there is for it."""
        return next((self.scopes[s] for s in _scopes_of(reference) if s in self.scopes), self.default)

    def __call__(self, candidate: Candidate) -> bool:
        """Let an image pass. Raises AccessDenied if it is rejected, Unsupported if a signature would be needed."""
        for requirement in self.requirements(candidate.reference):
            kind = requirement["type"]
            if kind == "reject":
                raise _rejected(candidate.reference)
            if kind != "insecureAcceptAnything":
                raise Unsupported(
                    f"{self.subject} demands a signature ({kind}), which cannot be verified here",
                    code="policy-signature",
                    subject=candidate.reference.familiar,
                    hint="--policy names another policy, --insecure-policy accepts everything",
                )
        return True


def _requirements(value: Any) -> tuple[jsondoc.Object, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise InvalidInput("a scope has no list of requirements", code="policy-malformed")
    for item in value:
        kind = jsondoc.field(item, "type", str, _WHAT)
        if kind not in _KINDS:
            raise InvalidInput(f"'{kind[:80]}' is no kind of requirement", code="policy-malformed")
    return tuple(value)


def _scopes_of(reference: Reference) -> Iterator[str]:
    """The scopes that an image is in, the most specific first."""
    if reference.digest is not None:
        yield f"{reference.repository}@{reference.digest}"
    if reference.tag:
        yield f"{reference.repository}:{reference.tag}"
    name = reference.repository
    while "/" in name:
        yield name
        name = name.rpartition("/")[0]
    yield name
    domain = name.partition(":")[0]
    while "." in domain:
        domain = domain.partition(".")[2]
        yield f"*.{domain}"
    yield ""


def _rejected(reference: Reference) -> AccessDenied:
    return AccessDenied("the policy rejects it", code="policy-rejected", subject=reference.familiar)
