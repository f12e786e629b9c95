"""Joining a relay: what the line says, and every way in which it does not work, each with one clear error."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.errors import NotAllowedError, OvernightError, UsageError
from overnight.hub import certificates, enrol, folder, invitation, keys
from overnight.hub.invitation import Line
from overnight.hub.link import Link
from ports import free_port
from relays import Relay, answering, relay, said


@pytest.fixture(scope="module")
def house() -> Iterator[Relay]:
    with relay() as found:
        yield found


@pytest.fixture
def line(house: Relay, request: pytest.FixtureRequest) -> Line:
    name = f"w{abs(hash(request.node.nodeid)) % 10**9}"
    return enrol.invite(house.folder, "worker", name, time.time())


def refused(line: Line | str, code: str, exit_code: int) -> OvernightError:
    with pytest.raises(OvernightError) as found:
        enrol.join(line if isinstance(line, str) else line.text())
    assert (found.value.code, found.value.exit_code, bool(found.value.fix)) == (code, exit_code, True)
    return found.value


# --- the line ---------------------------------------------------------------------------------------------------------

SAMPLE = invitation.new(("relay.example.org", 8443), "worker", (b"a" * 16, b"h" * 16), keys.public(keys.new_seed(keys.ACCOUNT)), keys.new_seed(keys.ACCOUNT), 1_800_000_000)  # fmt: skip


def test_a_line_says_what_it_was_made_of() -> None:
    assert invitation.read(SAMPLE.text()) == SAMPLE


def test_a_line_is_one_word_that_no_shell_changes() -> None:
    assert set(SAMPLE.text()) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:")
    assert len(SAMPLE.text()) < 300


def test_a_line_does_not_hold_the_key_that_it_leads_to() -> None:
    assert SAMPLE.seed not in SAMPLE.text()


@given(st.integers(0, 400))
def test_a_line_that_was_cut_is_no_line(length: int) -> None:
    text = SAMPLE.text()[:length]
    if text != SAMPLE.text():
        with pytest.raises(UsageError, match="no join line, or not all of it"):
            invitation.read(text)


@given(st.integers(0, 290), st.sampled_from("AZaz09-_./:"))
def test_a_line_with_one_letter_changed_is_no_line(place: int, letter: str) -> None:
    text = SAMPLE.text()
    place %= len(text)
    changed = text[:place] + letter + text[place + 1 :]
    if changed != text:
        with contextlib.suppress(UsageError):  # the last letter of base64 has bits that do not count
            assert invitation.read(changed) == SAMPLE


@given(st.text(max_size=400))
def test_no_other_text_is_a_line(text: str) -> None:
    for each in (text, "h:1/" + text):
        with pytest.raises(UsageError, match="no join line"):
            invitation.read(each)


# --- joining ----------------------------------------------------------------------------------------------------------


def test_who_joins_can_come_at_once(house: Relay, line: Line) -> None:
    with house.hub() as hub, Link(enrol.join(line.text())) as link:
        hub.serve("ask", lambda who, _payload: who.name.encode())
        assert link.request("ask", b"") == link.name.encode()


def test_seeds_stay_where_they_were_made(house: Relay, line: Line) -> None:
    found = enrol.join(line.text())
    kept = b"".join(path.read_bytes() for path in house.folder.path.rglob("*") if path.is_file())
    assert [secret for secret in (found.identity.seed, found.identity.box, line.seed) if secret.encode() in kept] == []


def test_a_line_is_good_once(line: Line) -> None:
    enrol.join(line.text())
    assert "was used already" in str(refused(line, "E-INVITE-USED", 4))


def test_a_line_that_was_used_but_not_answered_can_be_used_again_by_the_same_machine(house: Relay, line: Line) -> None:
    enroller, own = enrol.Enroller(house.folder), keys.new_identity("x", "worker")
    first, second = (enrol._checked(enroller.answer(line.id, enrol._request(line, own.peer())), line) for _ in range(2))
    assert first["name"] == second["name"]


def test_an_expired_line_is_refused(house: Relay) -> None:
    old = enrol.invite(house.folder, "worker", "late", time.time() - 700)
    assert "has expired" in str(refused(old, "E-INVITE-EXPIRED", 4))


def test_the_relay_itself_holds_against_an_expired_line(house: Relay) -> None:
    old = enrol.invite(house.folder, "worker", "later", time.time() - 700)
    answer = enrol.Enroller(house.folder).answer(old.id, enrol._request(old, keys.new_identity("x", "worker").peer()))
    with pytest.raises(NotAllowedError, match=r"this invitation expired \d+ seconds ago"):
        enrol._checked(answer, old)


def test_an_invitation_that_was_taken_back_is_void(house: Relay) -> None:
    line = enrol.invite(house.folder, "worker", "unwanted", time.time())
    with house.folder.changing() as held:
        held[0] = folder.cut_off(held[0], "unwanted", time.time())
    assert "was taken back" in str(refused(line, "E-INVITE-VOID", 4))


def test_a_newer_invitation_of_a_name_voids_the_older(house: Relay) -> None:
    older, newer = (enrol.invite(house.folder, "worker", "asked-twice", time.time()) for _ in range(2))
    refused(older, "E-INVITE-VOID", 4)
    assert enrol.join(newer.text()).name == "asked-twice"


def test_a_name_that_has_joined_is_not_given_to_another(house: Relay, line: Line) -> None:
    name = enrol.join(line.text()).name
    with pytest.raises(NotAllowedError, match="has joined already"):
        enrol.invite(house.folder, "client", name, time.time())


@pytest.mark.parametrize("name", ["", "A", "a b", "a.b", "a*", ">", "hub", "-x", "x" * 33, "ä", "a\n"])
def test_a_name_that_subjects_cannot_carry_is_refused(house: Relay, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        enrol.invite(house.folder, "worker", name, time.time())


def test_another_code_is_not_let_in(line: Line) -> None:
    refused(replace(line, code=b"x" * 16), "E-INVITE-CODE", 4)


def test_who_has_no_code_cannot_answer_for_a_guest(house: Relay, line: Line) -> None:
    thief = replace(line, code=b"x" * 16)
    answer = enrol.Enroller(house.folder).answer(line.id, enrol._request(thief, keys.new_identity("x", "worker").peer()))
    with pytest.raises(NotAllowedError, match="not the code"):
        enrol._checked(answer, line)


@given(st.binary(max_size=300))
def test_nonsense_of_guests_is_answered_with_an_error(data: bytes) -> None:
    with _alone() as (found, line):
        with pytest.raises(OvernightError):
            enrol._checked(enrol.Enroller(found).answer(line.id, data), line)
        assert found.roster().members == {}


_KEPT: list[tuple[folder.Folder, Line]] = []


@contextlib.contextmanager
def _alone() -> Iterator[tuple[folder.Folder, Line]]:
    """A relay's folder with one invitation, made once."""
    if not _KEPT:
        import tempfile

        found = folder.make(Path(tempfile.mkdtemp(prefix="relay-")) / "relay", "localhost", 1, ("", ""), time.time())
        _KEPT.append((found, enrol.invite(found, "worker", "w", time.time())))
    yield _KEPT[0]


def test_an_answer_of_another_hub_is_not_believed(house: Relay, line: Line) -> None:
    answer = enrol.Enroller(house.folder).answer(line.id, enrol._request(line, keys.new_identity("x", "worker").peer()))
    with pytest.raises(NotAllowedError, match="does not come from the hub"):
        enrol._checked(answer, replace(line, hub=b"x" * 16))


def test_an_answer_that_was_changed_on_its_way_is_not_believed(house: Relay, line: Line) -> None:
    answer = enrol.Enroller(house.folder).answer(line.id, enrol._request(line, keys.new_identity("x", "worker").peer()))
    with pytest.raises(NotAllowedError, match="does not come from the hub"):
        enrol._checked(answer.replace(b'"kind": "worker"', b'"kind": "client"'), line)


# --- what can be wrong on the way --------------------------------------------------------------------------------------


def test_a_relay_that_is_not_there_is_unreachable(line: Line) -> None:
    assert "refused" in str(refused(replace(line, port=free_port()), "E-RELAY-UNREACHABLE", 7)).lower()


def test_a_name_that_nobody_has_is_unreachable(line: Line) -> None:
    refused(replace(line, host="relay.invalid"), "E-RELAY-UNREACHABLE", 7)


def test_another_relay_at_the_same_address_is_not_joined(line: Line) -> None:
    assert "another relay" in str(refused(replace(line, authority=b"x" * 16), "E-RELAY-CERTIFICATE", 4))


def test_a_certificate_for_another_name_is_said(line: Line) -> None:
    assert "127.0.0.2" in str(refused(replace(line, host="127.0.0.2"), "E-RELAY-NAME", 4))


@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad Request", b"403 Forbidden", b"502 Bad Gateway"])
def test_a_proxy_that_breaks_websocket_is_told_from_a_relay_that_is_away(house: Relay, line: Line, tmp_path: Path, status: bytes) -> None:
    pair = certificates.Pair((house.folder.path / "server.pem").read_bytes(), (house.folder.path / "server.key").read_bytes())
    port = free_port()
    with answering(port, said(status), pair, tmp_path):
        found = refused(replace(line, port=port, host="127.0.0.1"), "E-RELAY-WEBSOCKET", 7)
    assert (f"HTTP {status[:3].decode()}" in found.message, "proxy" in found.why) == (True, True)


def test_something_that_does_not_speak_tls_is_said(line: Line, tmp_path: Path) -> None:
    port = free_port()
    with answering(port, said(b"200 OK"), None, tmp_path):
        refused(replace(line, port=port, host="127.0.0.1"), "E-RELAY-TLS", 7)


def test_a_relay_whose_certificate_is_not_valid_yet_points_at_the_clock(tmp_path: Path) -> None:
    with _dated(tmp_path, 10) as line:
        assert "not valid yet" in str(refused(line, "E-RELAY-CLOCK", 7))


def test_a_relay_whose_certificate_has_expired_is_said(tmp_path: Path) -> None:
    with _dated(tmp_path, -500) as line:
        assert "has expired" in str(refused(line, "E-RELAY-CLOCK", 7))


@contextlib.contextmanager
def _dated(tmp_path: Path, days: float) -> Iterator[Line]:
    """A line to a relay whose certificate was made so many days from now."""
    now = time.time()
    found, port = folder.make(tmp_path / "relay", "localhost", 1, ("", ""), now), free_port()
    above = certificates.Pair(found.authority(), (found.path / "authority.key").read_bytes())
    with answering(port, said(b"200 OK"), certificates.server(above, "localhost", now + days * 86400), tmp_path):
        yield replace(enrol.invite(found, "worker", "w", now), port=port)


def test_a_clock_that_differs_is_said_and_does_no_harm(tmp_path: Path) -> None:
    said: list[str] = []
    skewed = Relay(tmp_path / "relay")
    try:
        skewed.start(enrolling=False)
        with enrol.serving(skewed.folder, 2**30, said.append, lambda: time.time() + 300):
            line = enrol.invite(skewed.folder, "worker", "w", time.time())
            enrol.join(line.text(), said.append)
    finally:
        skewed.end()
    assert [text for text in said if "300 seconds behind" in text or "299 seconds behind" in text] != []


def test_a_relay_without_its_keeper_says_that_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrol, "_PATIENCE", 0.5)
    alone = Relay(tmp_path / "relay")
    try:
        alone.start(enrolling=False)
        refused(enrol.invite(alone.folder, "worker", "w", time.time()), "E-RELAY-SILENT", 7)
    finally:
        alone.end()
