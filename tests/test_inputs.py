"""Inputs as they are written: which are URLs, what is refused, and which URLs of strangers lie below what a worker's owner has named."""

from __future__ import annotations

import pytest

from hubs import House, asked, offer
from overnight.desk import Desk
from overnight.errors import NotAllowedError, UsageError
from overnight.queue.fit import could_run
from overnight.queue.inputs import address_of, check, check_prefix, granting, input_of, is_below
from overnight.queue.words import Machine, wish_of
from repositories import git
from yards import Yard

SHA = "ab" * 32
HASH = f"#sha256={SHA}"
BELOW = ("s3://bucket/", "https://data.example.org/sets")


@pytest.mark.parametrize(
    ("entry", "name", "path"),
    [
        ("/mnt/x", "", "/mnt/x"),
        ("data=/mnt/x=y", "data", "/mnt/x=y"),
        ("/mnt/a=b", "", "/mnt/a=b"),
        (f"x.bin=s3://b/y.bin{HASH}", "x.bin", f"s3://b/y.bin{HASH}"),
        (f"sub/x=https://h/y?a=b&c=d{HASH}", "sub/x", f"https://h/y?a=b&c=d{HASH}"),
        (f"https://h/folder/y.bin?a=b/c{HASH}", "y.bin", f"https://h/folder/y.bin?a=b/c{HASH}"),
    ],
)
def test_an_entry_is_a_name_and_a_path_or_a_url(entry: str, name: str, path: str) -> None:
    assert (name, path) == input_of(entry)


def test_a_url_has_its_hash_behind_it_and_says_which_path_a_file_is() -> None:
    address, file = address_of(f"S3://b/k#1{HASH.upper().replace('SHA', 'sha')}"), address_of(f"file:///mnt/x{HASH}")
    assert address is not None
    assert file is not None
    assert ((address.url, address.sha256, address.path), file.path) == (("s3://b/k#1", SHA, ""), "/mnt/x")


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ("x=s3://b/k", "E-INPUT-HASH"), ("s3://b/k", "E-INPUT-HASH"), ("x=https://h/k#sha256=", "E-INPUT-HASH"), (f"x=https://h/k#sha256={SHA[1:]}", "E-INPUT-HASH"),
        (f"x=https://h/k#md5={SHA}", "E-INPUT-HASH"), (f"x=https://{HASH}", "E-INPUT-HASH"), (f"x=https://h/\nk{HASH}", "E-INPUT-HASH"),
        (f"x=https://h/{'k' * 5000}{HASH}", "E-INPUT-HASH"), (f"https://h/{HASH}", "E-INPUT-URL"), (f"https://h/..{HASH}", "E-INPUT-URL"),
        (f"x=file://host/k{HASH}", "E-INPUT-URL"), (f"x=https://me:secret@h/k{HASH}", "E-INPUT-URL"),
    ],
)  # fmt: skip
def test_a_url_without_a_well_formed_hash_or_that_cannot_be_meant_is_refused_at_submit(house: House, entry: str, code: str) -> None:
    with pytest.raises(UsageError) as refused:
        house.desk.submit(asked(inputs=(entry,)))
    assert (code, True) == (refused.value.code, "#sha256=HEX" in refused.value.fix)


@pytest.mark.parametrize(
    "entry", ["/mnt/x", "data=/mnt/x", f"x=abfs://container@account.dfs.example.org/k{HASH}", f"x=sftp://me@h/k{HASH}"]
)
def test_what_can_be_meant_is_taken(entry: str) -> None:
    check([entry])
    assert asked(inputs=(entry,)).trouble() == ""


def test_urls_are_submitted_with_code_as_they_are_and_linked_below_its_folder(yard: Yard) -> None:
    sub = yard.root / "code" / "sub"
    sub.mkdir(parents=True)
    (sub / "train.py").touch()
    git(yard.root / "code", "init", "-q")
    job = yard.submit("true", workdir=sub, inputs=(f"x=https://h/y?a=b{HASH}", f"s3://b/z.bin{HASH}", "data=/mnt"))
    assert job.told().submission.inputs == (f"sub/x=https://h/y?a=b{HASH}", f"sub/z.bin=s3://b/z.bin{HASH}", "sub/data=/mnt")


def test_extras_are_paths_alone() -> None:
    assert "must lead to an absolute path" in asked(extras=(f"x=s3://b/k{HASH}",)).trouble()


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/k", "s3://bucket/a/b=c?d", "https://data.example.org/sets", "https://data.example.org/sets/x?a=../b&c=%2F", "https://DATA.Example.org:443/sets/x",
        "HTTPS://data.example.org/sets/%20x",
    ],
)  # fmt: skip
def test_what_lies_below_a_prefix_is_let_through(url: str) -> None:
    assert is_below(url, BELOW)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket2/k", "s3://", "s3a://bucket/k/../../x", "s3://bucket/../other/k", "s3://bucket/./k", "s3://bucket@other/k", "s3://x@bucket/k", "s3://Bucket/k",
        "S3A://bucket/k", "s3://bucket/k::file:///etc/passwd", "zip://x::s3://bucket/k", "simplecache::s3://bucket/k", "s3://bucket/%2e%2e/k", "s3://bucket/a?/../../x",
        "http://data.example.org/sets/x", "https://data.example.org/setsx", "https://data.example.org/SETS/x", "https://data.example.org/sets/../x",
        "https://data.example.org/sets/..;a=b/x", "https://data.example.org/sets/%2e%2e/x", "https://data.example.org/sets/%2E./x", "https://data.example.org/sets/..%2fx",
        "https://data.example.org/sets/..%5cx", "https://data.example.org/sets/%252e%252e/x", "https://data.example.org/sets\\..\\x", "https://data.example.org/sets/%zz",
        "https://data.example.org/sets/%00x", "https://data.example.org:8443/sets/x", "https://data.example.org@evil.org/sets/x", "https://evil.org@data.example.org/sets/x",
        "https://data.example.org.evil.org/sets/x", "https://data.example.org#@evil.org/sets/x", "https://data.example.org\\@evil.org/sets/x", "https://evil.org/data.example.org/sets/x",
        "https://data.example.org./sets/x", "https:///data.example.org/sets/x", "https:data.example.org/sets/x", "https://data.example.org/sets/x y", "https://data.example.org/sets/\tx",
        "https://data.example.org/sets/\uff0e\uff0e/x", "https://dat\uff41.example.org/sets/x", "https://%64ata.example.org/sets/x", "https://data.example.org:x/sets/x",
        "https://data.example.org:443:443/sets/x", "file:///etc/passwd", "local:///etc/passwd", "/etc/passwd", "",
    ],
)  # fmt: skip
def test_what_could_be_read_in_two_ways_lies_below_nothing(url: str) -> None:
    assert not is_below(url, BELOW)


@pytest.mark.parametrize(
    "prefix", ["file:///mnt", "s3://", "bucket", "https://h/..", "https://me@h/", "https://h/?a", "https://h/#a", "LOCAL:///mnt"]
)
def test_a_prefix_that_could_be_read_in_two_ways_is_refused(prefix: str) -> None:
    with pytest.raises(UsageError, match="E-FETCH"):
        check_prefix(prefix)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/mnt/x", "--share /mnt/x"),
        (f"file:///mnt/x{HASH}", "--share /mnt/x"),
        (f"https://h/a/b?key=c{HASH}", "--fetch https://h/a/"),
    ],
)
def test_a_refusal_names_the_words_that_would_grant_it(path: str, words: str) -> None:
    assert words == granting(path)


@pytest.mark.parametrize(
    ("owner", "entry", "runs"),
    [
        ("laptop", f"x=s3://bucket/k{HASH}", True), ("laptop", f"x=s3://other/k{HASH}", False), ("", f"x=s3://other/k{HASH}", True),
        ("laptop", f"x=file:///mnt/data/k{HASH}", True), ("laptop", f"x=file:///mnt/data/../k{HASH}", False), ("", f"x=file:///etc/k{HASH}", True),
    ],
)  # fmt: skip
def test_jobs_of_clients_go_to_workers_that_let_them_fetch(owner: str, entry: str, runs: bool) -> None:
    machine = Machine("w", 1, shares=("/mnt/data",), fetches=BELOW)
    assert runs == could_run(wish_of(asked(inputs=(entry,)), owner), machine)


def test_a_client_is_told_that_no_worker_lets_it_fetch_and_where_it_goes_when_one_does(house: House) -> None:
    desk: Desk = house.desk
    desk.claim(offer("closed"))
    wanted = asked(inputs=(f"x=https://h/a/b?key=secret{HASH}",), wait=True)
    with pytest.raises(NotAllowedError, match=r"read https://h/a/b\n") as refused:
        desk.submit(wanted, "laptop")
    opened = offer("open")
    desk.claim(type(opened)(Machine("open", 1, fetches=("https://h/a/",)), 1))
    job = desk.submit(wanted, "laptop")
    closed, granted = desk.claim(offer("closed")), desk.claim(type(opened)(Machine("open", 1, fetches=("https://h/a/",)), 1))
    assert granted is not None
    assert ("E-NOT-SHARED", "overnight worker start --fetch https://h/a/", None, job.id) == (
        refused.value.code, refused.value.fix.partition("   #")[0], closed, granted.job.id,
    )  # fmt: skip
