from __future__ import annotations

import socket

import pytest

from models.tools import guard


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.1", "2606:4700:4700::1111", "2001:4860::8"],
)
def test_the_open_internet(address: str) -> None:
    assert guard.is_open(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.0.192",
        "198.18.0.1",
        "224.0.0.1",
        "239.255.255.250",
        "255.255.255.255",
        "240.0.0.1",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "2001:db8::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1%eth0",
        "fec0::1",
        "ff02::1",
        "",
        "localhost",
    ],
)
def test_what_only_we_can_reach(address: str) -> None:
    assert not guard.is_open(address)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file:///etc/passwd", "only http"),
        ("gopher://a/", "only http"),
        ("ftp://a/", "only http"),
        ("javascript:alert(1)", "only http"),
        ("//a/b", "only http"),
        ("a.example", "only http"),
        ("http:///path", "no host"),
        ("http://user@a/", "name or password"),
        ("http://user:secret@a/", "name or password"),
        ("http://@a/", "name or password"),
        ("http://a\\@127.0.0.1/", "backslashes"),
        ("http://a/\r\nhost: b", "control characters"),
        ("http://a b/", "spaces"),
        ("http://a\x00b/", "control characters"),
        ("http://a:0/", "port 0"),
        ("http://a:99999/", "range"),
        ("http://[::1/", "IPv6"),
    ],
)
def test_addresses_that_are_no_plain_page(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        guard.check_url(url)


def test_a_plain_page() -> None:
    guard.check_url("https://example.org:8443/a?b=c#d")
    guard.check_url("http://[2606:4700::1]/")


def test_no_socket_is_made_for_a_closed_address() -> None:
    make = guard.socket_factory()
    with pytest.raises(guard.Refused):
        make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80)))
    with pytest.raises(guard.Refused):
        make((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", ("/run/docker.sock", 0)))
    make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("8.8.8.8", 80))).close()


def test_a_permission_is_for_one_port_only() -> None:
    make = guard.socket_factory(frozenset({("127.0.0.1", 81)}))
    make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 81))).close()
    with pytest.raises(guard.Refused):
        make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 82)))
