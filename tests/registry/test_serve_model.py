"""Any order of requests: ``lamella serve`` answers as a model of a registry does that fits on a page."""

from __future__ import annotations

import json

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import lamella
from lamella.testing import consistency
from support import building, serving, wire
from support.wire import EMPTY, INDEX, MANIFEST, Wire

DATA = strategies.binary(min_size=1, max_size=40)
TAGS = strategies.sampled_from(["a", "b", "v1.0", "V1"])
REPOSITORIES = strategies.sampled_from(["one", "two/three"])


class Model(RuleBasedStateMachine):
    """The registry under test, and what should be in it. Each run has repositories of its own, and shares blobs."""

    wire: Wire
    runs = 0

    @initialize()
    def begin_anew(self):
        type(self).runs += 1
        self.uploads: dict[str, bytes] = {}
        self.ended: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self.documents: dict[str, bytes] = {}
        self.names: dict[tuple[str, str], str] = {}
        self.put_blob_whole(EMPTY, "one")

    def path(self, repository: str) -> str:
        return f"run{self.runs}/{repository}"

    # -- uploads

    @rule(repository=REPOSITORIES)
    def begin(self, repository):
        self.uploads[self.wire.begin(self.path(repository))] = b""

    @precondition(lambda self: self.uploads)
    @rule(draw=strategies.data(), data=DATA, how=strategies.sampled_from(["stream", "chunk", "early", "late", "again"]))
    def patch(self, draw, data, how):
        where = draw.draw(strategies.sampled_from(sorted(self.uploads)))
        have = len(self.uploads[where])
        start = {"early": have - 1, "late": have + 1, "again": 0}.get(how, have)
        headers = {} if how == "stream" else {"Content-Range": f"{start}-{start + len(data) - 1}"}
        answer = self.wire.ask("PATCH", where, data, headers)
        if start < 0:
            assert answer.status == 400
        elif start != have:
            assert answer.status == 416
        else:
            assert answer.status == 202
            self.uploads[where] += data
            assert answer.headers["range"] == f"0-{len(self.uploads[where]) - 1}"

    @precondition(lambda self: self.uploads)
    @rule(draw=strategies.data(), data=strategies.binary(max_size=20), right=strategies.booleans())
    def finish(self, draw, data, right):
        where = draw.draw(strategies.sampled_from(sorted(self.uploads)))
        whole = self.uploads.pop(where) + data
        self.ended.append(where)
        digest = building.digest_of(whole if right else whole + b"wrong")
        answer = self.wire.ask("PUT", wire.with_query(where, digest=digest), data)
        assert answer.status == (201 if right else 400)
        if right:
            self.blobs[digest] = whole

    @precondition(lambda self: self.uploads)
    @rule(draw=strategies.data())
    def cancel(self, draw):
        where = draw.draw(strategies.sampled_from(sorted(self.uploads)))
        del self.uploads[where]
        self.ended.append(where)
        assert self.wire.ask("DELETE", where).status == 204

    @rule(data=DATA, repository=REPOSITORIES)
    def put_blob_whole(self, data, repository):
        digest = building.digest_of(data)
        path = f"/v2/{self.path(repository)}/blobs/uploads/?digest={digest}"
        assert self.wire.ask("POST", path, data).status == 201
        self.blobs[digest] = data

    # -- manifests

    @rule(draw=strategies.data(), repository=REPOSITORIES, tag=strategies.one_of(strategies.just(""), TAGS))
    def put_artifact(self, draw, repository, tag):
        layers = draw.draw(strategies.lists(strategies.sampled_from(sorted(self.blobs)), max_size=3))
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/x.test",
            "config": wire.descriptor("application/vnd.oci.empty.v1+json", EMPTY),
            "layers": [wire.descriptor("text/plain", self.blobs[digest]) for digest in layers],
            "annotations": {"run": str(self.runs)},
        }
        self._put(repository, tag, json.dumps(document).encode(), MANIFEST)

    @precondition(lambda self: self._alive())
    @rule(draw=strategies.data(), repository=REPOSITORIES, tag=TAGS)
    def put_index(self, draw, repository, tag):
        children = draw.draw(strategies.lists(strategies.sampled_from(sorted(self._alive())), min_size=1, max_size=3))
        listed = [
            {"mediaType": json.loads(self.documents[d])["mediaType"], "digest": d, "size": len(self.documents[d])}
            for d in children
        ]
        raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()
        self._put(repository, tag, raw, INDEX)

    def _put(self, repository: str, tag: str, raw: bytes, media_type: str) -> None:
        digest = building.digest_of(raw)
        answer = self.wire.put_manifest(self.path(repository), tag or digest, raw, media_type)
        assert answer.status == 201, answer.body
        self.documents[digest] = raw
        held = {child["digest"] for child in json.loads(raw).get("manifests", ())}
        if tag:
            self.names[repository, tag] = digest
            held.add(digest)
        elif digest not in {target for (place, _), target in self.names.items() if place == repository}:
            self.names[repository, f"@{digest}"] = digest
        for child in held:
            self.names.pop((repository, f"@{child}"), None)

    def _alive(self) -> set[str]:
        """What a name leads to."""
        found, todo = set(), list(self.names.values())
        while todo:
            digest = todo.pop()
            if digest not in found:
                found.add(digest)
                todo += [child["digest"] for child in json.loads(self.documents[digest]).get("manifests", ())]
        return found

    @precondition(lambda self: any(not tag.startswith("@") for _, tag in self.names))
    @rule(draw=strategies.data())
    def delete_tag(self, draw):
        tags = sorted(key for key in self.names if not key[1].startswith("@"))
        repository, tag = draw.draw(strategies.sampled_from(tags))
        assert self.wire.ask("DELETE", f"/v2/{self.path(repository)}/manifests/{tag}").status == 202
        del self.names[repository, tag]

    @precondition(lambda self: self.names)
    @rule(draw=strategies.data())
    def delete_document(self, draw):
        repository, tag = draw.draw(strategies.sampled_from(sorted(self.names)))
        digest = self.names[repository, tag]
        assert self.wire.ask("DELETE", f"/v2/{self.path(repository)}/manifests/{digest}").status == 202
        self.names = {k: target for k, target in self.names.items() if k[0] != repository or target != digest}

    # -- what is there

    @invariant()
    def uploads_are_as_far_as_they_are(self):
        for where, data in self.uploads.items():
            answer = self.wire.ask("GET", where)
            assert (answer.status, answer.headers["range"]) == (204, f"0-{max(0, len(data) - 1)}")
        for where in self.ended[-2:]:
            assert self.wire.ask("GET", where).status == 404

    @invariant()
    def tags_lead_to_what_they_were_given(self):
        for repository in ("one", "two/three"):
            path = f"/v2/{self.path(repository)}"
            inside = {tag: digest for (place, tag), digest in self.names.items() if place == repository}
            tags = sorted(tag for tag in inside if not tag.startswith("@"))
            answer = self.wire.ask("GET", f"{path}/tags/list")
            assert answer.status == (200 if inside else 404)
            if inside:
                assert answer.json["tags"] == tags
                assert (
                    self.wire.ask("GET", f"{path}/tags/list?n=1&last=V1").json["tags"]
                    == [tag for tag in tags if tag > "V1"][:1]
                )
            for tag in tags:
                assert self.wire.ask("GET", f"{path}/manifests/{tag}").body == self.documents[inside[tag]]

    @invariant()
    def documents_are_there_while_something_leads_to_them(self):
        alive = self._alive()
        for digest in alive:
            assert self.wire.ask("GET", f"/v2/any/manifests/{digest}").body == self.documents[digest]

    @invariant()
    def blobs_are_what_they_were(self):
        for digest, data in list(self.blobs.items())[-3:]:
            assert self.wire.ask("GET", f"/v2/any/blobs/{digest}").body == data


@pytest.fixture(scope="module")
def running(real_disk):
    with serving.served(real_disk / "serve-model", "--writable") as served:
        yield served
    with lamella.Store.open(served.root) as store:
        store.gc()
        assert consistency.problems(store) == []


def test_any_order_of_requests(running):
    Model.wire = running.wire
    run_state_machine_as_test(Model, settings=settings(max_examples=15, stateful_step_count=20))
