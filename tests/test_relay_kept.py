"""What is kept of a relay on both sides: credentials, who is allowed, certificates, the roster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overnight.app import joining
from overnight.errors import NotAllowedError, OvernightError, UnreachableError, UsageError
from overnight.hub import certificates, credentials, enrol, folder, invitation, keys, steering
from overnight.hub.invitation import Line
from overnight.hub.link import Link
from ports import free_port
from relays import Relay, relay


@pytest.fixture(scope="module")
def house() -> Iterator[Relay]:
    with relay() as found:
        yield found


@pytest.fixture
def line(house: Relay, request: pytest.FixtureRequest) -> Line:
    name = f"w{abs(hash(request.node.nodeid)) % 10**9}"
    return enrol.invite(house.folder, "worker", name, time.time())


def test_what_was_joined_is_for_its_owner_alone(house: Relay, tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    line = enrol.invite(house.folder, "worker", "kept", time.time())
    found, path = joining.join(env, "worker", line.text(), None, lambda _text: None)
    assert (path, path.stat().st_mode & 0o777, credentials.load(path, "worker join")) == (
        tmp_path / "overnight" / "worker.json",
        0o600,
        found,
    )


def test_what_others_could_read_is_not_used(line: Line, tmp_path: Path) -> None:
    env = {"OVERNIGHT_CREDENTIALS": str(tmp_path / "w.json")}
    joining.join(env, "worker", line.text(), None, lambda _text: None)
    (tmp_path / "w.json").chmod(0o640)
    with pytest.raises(UsageError, match="can be read by others") as found:
        joining.linked(env, "worker")
    assert found.value.fix == f"chmod 600 {tmp_path / 'w.json'}"


def test_a_machine_joins_one_relay_at_a_time_and_no_line_is_lost_over_it(house: Relay, tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    for name in ("first-one", "second-one"):
        line = enrol.invite(house.folder, "worker", name, time.time())
        with contextlib.nullcontext() if name == "first-one" else pytest.raises(UsageError, match=r"has joined .* already"):
            joining.join(env, "worker", line.text(), None, lambda _text: None)
    assert enrol.join(line.text()).name == "second-one"


def test_a_line_for_a_client_makes_no_worker(house: Relay, tmp_path: Path) -> None:
    line = enrol.invite(house.folder, "client", "a-client", time.time())
    with pytest.raises(UsageError, match="for a client, not for a worker"):
        joining.join({"XDG_CONFIG_HOME": str(tmp_path)}, "worker", line.text(), None, lambda _text: None)


def test_a_place_that_cannot_be_written_is_found_out_before_the_line_is_used(line: Line, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OvernightError, match="cannot be written"):
        joining.join({}, "worker", line.text(), tmp_path / "file" / "w.json", lambda _text: None)
    assert enrol.join(line.text()).identity.kind == "worker"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"identity": 3}', '{"identity": {"name": "x"}, "hub": {}}'])
def test_damaged_credentials_are_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="is damaged"):
        joining.linked({"OVERNIGHT_CREDENTIALS": str(path)}, "worker")


def test_a_machine_that_has_joined_nothing_is_told_how(tmp_path: Path) -> None:
    with pytest.raises(OvernightError, match="has joined no relay") as found:
        joining.linked({"XDG_CONFIG_HOME": str(tmp_path)}, "client")
    assert (found.value.exit_code, found.value.fix.startswith("overnight join LINE")) == (3, True)


def test_the_list_of_who_is_allowed_grows_and_shrinks(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    before = joining.allowed(env)
    joining.allow(env, ["anna", "ben"])
    joining.check_allowed(env, "anna")
    assert (before, joining.forbid(env, "anna"), joining.forbid(env, "ben"), joining.allowed(env)) == (None, ("ben",), (), ())
    with pytest.raises(NotAllowedError, match="jobs of 'ben' may not run here"):
        joining.check_allowed(env, "ben")
    assert (joining.allow(env, ["all"]), joining.allowed(env)) == ((), None)


def test_a_damaged_list_allows_nobody(tmp_path: Path) -> None:
    (tmp_path / "overnight").mkdir()
    (tmp_path / "overnight" / "allowed.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        joining.check_allowed({"XDG_CONFIG_HOME": str(tmp_path)}, "anna")


def test_a_certificate_is_made_anew_when_a_month_is_left(tmp_path: Path) -> None:
    now = time.time()
    found = folder.make(tmp_path / "relay", "localhost", 1, ("", ""), now)
    assert [found.renew(now + days * 86400) for days in (300, 370, 371)] == [False, True, False]


def test_members_of_before_trust_the_certificate_that_was_made_anew(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        house = Relay(tmp_path / "relay")
        stack.callback(house.end)
        house.start()
        found = house.joined("worker", "w")
        house.end()
        above = certificates.Pair(house.folder.authority(), (house.folder.path / "authority.key").read_bytes())
        folder._write_pair(house.folder.path / "server", certificates.server(above, "localhost", time.time() - 86400))
        house.start()
        with Link(found) as link:
            assert link.is_up


def test_a_certificate_that_was_given_is_shown_and_followed(tmp_path: Path) -> None:
    now, above = time.time(), certificates.authority(time.time())
    files = (tmp_path / "cert.pem", tmp_path / "key.pem")
    for number, days in enumerate((0.0, 1.0)):
        pair = certificates.server(above, "relay.example.org", now - days * 86400)
        files[0].write_bytes(pair.certificate)
        files[1].write_bytes(pair.key)
        if number == 0:
            found = folder.make(tmp_path / "relay", "relay.example.org", 1, (str(files[0]), str(files[1])), now)
            assert not found.renew(now)
    assert (found.renew(now), (found.path / "server.pem").read_bytes() == files[0].read_bytes(), found.authority()) == (True, True, b"")
    assert enrol.invite(found, "worker", "w", now).authority == invitation.SYSTEM


@pytest.mark.parametrize(("host", "days", "why"), [("other.org", 0, "not for other.org"), ("relay.org", -900, "valid from")])
def test_a_certificate_that_does_not_fit_is_not_taken(host: str, days: int, why: str) -> None:
    now = time.time()
    pair = certificates.server(certificates.authority(now), "relay.org", now + days * 86400)
    with pytest.raises(UsageError, match=why):
        certificates.check_given(pair.certificate, pair.key, host, now)


def test_a_key_that_is_not_the_certificates_is_not_taken() -> None:
    now = time.time()
    one, other = (certificates.server(certificates.authority(now), "relay.org", now) for _ in range(2))
    for key, why in ((other.key, "not that of the certificate"), (b"nonsense", "cannot be used")):
        with pytest.raises(UsageError, match=why):
            certificates.check_given(one.certificate, key, "relay.org", now)


def test_a_hub_knows_who_has_just_joined_and_forgets_who_was_cut_off(tmp_path: Path) -> None:
    now = time.time()
    found = folder.make(tmp_path / "relay", "localhost", 1, ("", ""), now)
    peers, line = found.peers(), enrol.invite(found, "worker", "w", now)
    before = peers("w")
    enrol.Enroller(found).answer(line.id, enrol._request(line, keys.new_identity("w", "worker").peer()))
    joined = peers("w")
    with found.changing() as held:
        held[0] = folder.cut_off(held[0], "w", now)
    assert (before, joined is not None, peers("w")) == (None, True, None)


def test_an_unreachable_relay_is_exit_code_7_for_a_link_too(house: Relay) -> None:
    found = replace(steering.beside(house.folder, "hub", time.time()), address=f"nats://127.0.0.1:{free_port()}")
    with pytest.raises(UnreachableError) as error:
        Link(found)
    assert error.value.exit_code == 7
