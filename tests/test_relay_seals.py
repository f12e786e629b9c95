"""What is sealed opens for the two parties alone, and only as it was sealed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.hub import keys
from overnight.hub.keys import Identity, new_identity
from overnight.hub.seal import Head, Seal, SealError

A, B, C = (new_identity(name, "worker") for name in ("a", "b", "c"))


@given(st.binary(max_size=400))
def test_bytes_of_anybody_open_no_seal(data: bytes) -> None:
    for text in (data, b"\1" + data):
        with pytest.raises(SealError):
            Seal(A, B.peer()).open(text)


@given(st.integers(0, 300), st.integers(1, 255))
def test_a_seal_with_one_bit_changed_does_not_open(place: int, flip: int) -> None:
    data = bytearray(Seal(A, B.peer()).close(Head("ask x", bytes(16), 7, bytes(16)), b"payload"))
    data[place % len(data)] ^= flip
    with pytest.raises(SealError):
        Seal(B, A.peer()).open(bytes(data))


def test_a_seal_opens_for_the_two_parties_alone() -> None:
    head = Head("evt.a.job 1", b"s" * 16, 2**63, b"m" * 16)
    data = Seal(A, B.peer()).close(head, b"payload")
    assert Seal(B, A.peer()).open(data) == (head, b"payload")
    for own, peer in ((C, A), (B, C), (A, B)):
        with pytest.raises(SealError):
            Seal(own, peer.peer()).open(data)


def test_who_can_read_a_seal_cannot_pass_it_off_as_said_to_another() -> None:
    """b, who holds a's sealed words, seals them on to c under a's name: the signature is a's, and it is about b."""
    to_c = Seal(Identity("a", "worker", C.seed, B.box), C.peer()).close(Head("ask x"), b"payload")
    with pytest.raises(SealError):
        Seal(C, A.peer()).open(to_c)


@pytest.mark.parametrize("text", ["", "U", "UAAA", "x" * 200, "1" * 56])
def test_what_is_no_key_is_not_read_as_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"key|base32|padding|digit"):
        keys.raw(text)
