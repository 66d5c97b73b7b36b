"""Which addresses and spellings are refused, with and without the operator's leave."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from app.errors import FetchRefused
from app.outbound import Outbound, is_public

REFUSED = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.0.1./",
    "http://0x7f.1/",
    "http://0x7f000001/",
    "http://2130706433/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://127。0。0。1/",
    "http://\uff11\uff12\uff17.0.0.1/",
    "http://127.0.0.1:80@127.0.0.1/",
    "http://0.0.0.0/",
    "http://0/",
    "http://10.1.2.3/",
    "http://100.64.0.1/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://169.254.169.254/latest/meta-data/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://192.0.0.192/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:8.8.8.8]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b:1::a00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[ff02::1]/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "http:///etc",
    "//example.com/",
    "example.com/file.mp4",
    "http://user@example.com/",
    "http://user:pass@example.com/",
    "http://@example.com/",
    "http://example.com\\@127.0.0.1/",
    "http://exa mple.com/",
    "http://example.com/\r\nHost: 127.0.0.1",
    "http://example.com\t.evil/",
    "http://a..b/",
    "http://x%2ecom/",
    "http://[::1",
    "http://example.com:0/",
    "http://example.com:99999/",
    "http://",
    "",
    "http://example.com/" + "a" * 9000,
]


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_is_not_plainly_public_is_refused_before_any_lookup(url: str) -> None:
    with pytest.raises(FetchRefused):
        Outbound().check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://EXAMPLE.com:8443/a?b=c@d#e",
        "http://example.com?mail=a@b",
        "https://example.com./x",
        "https://bücher.example/",
        "http://8.8.8.8/",
        "http://[2606:4700::1111]/",
    ],
)
def test_a_public_url_passes(url: str) -> None:
    Outbound().check(url)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "[::1]", "[fd12::1]", "100.64.1.1"])
def test_the_operator_can_open_private_addresses_one_by_one(address: str) -> None:
    opened = Outbound(allow_hosts=[address])
    opened.check(f"http://{address}:9000/hook")
    with pytest.raises(FetchRefused):
        opened.check("http://192.168.7.7/")


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "[fe80::1]", "224.0.0.1", "0.0.0.0", "[fd00:ec2::254]"]
)
def test_metadata_and_link_local_addresses_stay_refused_even_when_allowed(address: str) -> None:
    with pytest.raises(FetchRefused):
        Outbound(allow_hosts=[address], allow_private=True).check(f"http://{address}/")


@pytest.mark.parametrize("text", ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2a00::1", "2001:200::1"])
def test_neighbors_of_reserved_networks_are_public(text: str) -> None:
    assert is_public(ip_address(text))
