"""A page has the same elements for any texts of a run, and the texts unpack from it unchanged."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rlm.events import Event, RLMStarted, RunStarted, SubCallFinished, SubCallStarted
from rlm.trajectory.context_search import SearchableContext
from rlm.trajectory.run_details import RunDetails
from rlm.trajectory.trajectory import build_trajectory
from rlm.trajectory.view.page import render_page
from rlm.trajectory.view.page_data import CONTEXT_PART_CHARS
from rlm.trajectory.view.text_store import PIECE_CHARS, TextStore
from rlm.types import Message

texts = st.text(st.characters() | st.sampled_from("<>&'\"/!-\x00\ud800\u202e")) | st.sampled_from(
    ["</script>", "<!--", "</style><img src=x onerror=x>", "__proto__"]
)


class Elements(HTMLParser):
    """The start tags of a page and the texts of its scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.within: dict[str, str] = {}
        self._open = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.within[self._open] = self.within.get(self._open, "") + data


def unpack(packed: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def run(*texts_of_run: str) -> Sequence[Event]:
    name, question, prompt, answer = texts_of_run
    return [
        RunStarted(query=question, depth=1, models={0: name}, context_bytes=3, run_id=name),
        RLMStarted(level=0, depth=1, model=name, sandbox=name, context_type=name, context_size=3),
        SubCallStarted(node=f"0.{name}", prompt=prompt, model=name, recursive=False, batch=0),
        SubCallFinished(node=f"0.{name}", ok=True, text=answer, seconds=0.0),
    ]


@given(st.lists(texts, min_size=4, max_size=4))
def test_no_text_adds_an_element_or_an_attribute(values: list[str]) -> None:
    plain = Elements(render_page((build_trajectory(run("a", "b", "c", "d")), RunDetails())))
    hostile = Elements(render_page((build_trajectory(run(*values)), RunDetails(notes=values))))
    assert hostile.tags == plain.tags
    assert (hostile.within["script"], hostile.within["style"]) == (plain.within["script"], plain.within["style"])


@given(st.lists(texts, min_size=4, max_size=4))
def test_every_text_is_in_the_page_unchanged(values: list[str]) -> None:
    _, question, prompt, answer = values
    elements = Elements(render_page((build_trajectory(run(*values)), RunDetails())))
    (data,) = unpack(elements.within["runs"])["runs"]
    called = data["nodes"][-1]
    for ref, text in ((data["query"], question), (called["prompt"], prompt), (called["answer"], answer)):
        piece, place, _ = ref
        assert unpack(elements.within[f"t{piece}"])[place] == text


def test_the_policy_allows_exactly_the_script_and_style_of_the_page() -> None:
    elements = Elements(render_page((build_trajectory(run("a", "b", "c", "d")), RunDetails())))
    policy = next(attributes["content"] for tag, attributes in elements.tags if "http-equiv" in attributes)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(elements.within[name].encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert not re.search(r"unsafe|https?:|\*", policy)


def test_the_viewer_is_small_and_makes_no_requests() -> None:
    elements = Elements(render_page((build_trajectory(run("a", "b", "c", "d")), RunDetails())))
    viewer = elements.within["script"] + elements.within["style"]
    assert len(viewer) < 150_000
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|XMLHttp", viewer)
    assert set(re.findall(r"https?://[\w./]+", viewer)) <= {"http://www.w3.org/2000/svg"}


def test_a_text_is_stored_once_in_pieces_of_bounded_size() -> None:
    store = TextStore()
    long = "x" * (PIECE_CHARS + 1)
    refs = [store.put(text) for text in ("a", "b", "a", long, "c", "\U0001f600")]
    store.flush()
    assert refs == [(0, 0, 1), (0, 1, 1), (0, 0, 1), (0, 2, PIECE_CHARS + 1), (1, 0, 1), (1, 1, 2)]
    assert [unpack(piece) for piece in store.pieces] == [["a", "b", long], ["c", "\U0001f600"]]


def test_the_page_holds_the_context_its_slices_and_limits_if_known() -> None:
    context = "".join(f"line {number} of a context that is long\n" for number in range(5_000))
    events = run("a", "b", context[100:1_000], "d")
    data_without = unpack(Elements(render_page((build_trajectory(events), RunDetails()))).within["runs"])["runs"][0]
    assert (data_without["context"], data_without["limits"]) == (None, {})
    details = RunDetails(context=SearchableContext(context), limits={"max_calls": 3}, notes=["a note"])
    elements = Elements(render_page((build_trajectory(events), details)))
    data = unpack(elements.within["runs"])["runs"][0]
    assert data["limits"] == {"max_calls": 3}
    assert data["notes"] == ["a note"]
    parts = [unpack(elements.within[f"t{piece}"])[place] for piece, place, _ in data["context"]["parts"]]
    assert "".join(parts) == context
    assert {len(part) for part in parts[:-1]} == {CONTEXT_PART_CHARS}
    ((call, start, end, offset),) = data["context"]["slices"]
    assert data["nodes"][call]["label"] == context[100:220]
    assert (end, context[start:end]) == (1_000, context[100:1_000][offset:])


def test_a_reply_has_the_messages_that_were_sent_for_it() -> None:
    details = RunDetails(sent={"0": [("one", [Message(role="user", content="?")]), ("two", [])]})
    assert details.sent_for("0", "one") == [Message(role="user", content="?")]
    assert details.sent_for("0", "three") == ()
    assert details.sent_for("0.1", "one") == ()


def test_the_packages_of_the_viewer_are_pinned_by_hash_and_name_no_registry() -> None:
    lock = json.loads((Path(__file__).parents[4] / "viewer" / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert all(package["integrity"].startswith("sha512-") for package in packages)
    assert not any("resolved" in package for package in packages)
