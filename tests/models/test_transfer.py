"""What arrives is whole and right, whatever the Hub, its CDN or another download does."""

from __future__ import annotations

import fcntl
import resource
import threading
from pathlib import Path

import pytest

from app.cli.download import DownloadFailed, Hub, Remote, Stopped, partial_path
from app.cli.fetching import SPARE_BYTES, Item, short_of_space
from app.workflows.manifest import ModelFile
from app.workflows.models import Needed, look
from tests.models.conftest import BASE
from tests.models.hubserver import FakeHub, Served


@pytest.fixture
def served(hub: FakeHub) -> Served:
    return hub.files["maker/parts/deep/base.safetensors"]


@pytest.fixture
def client(hub: FakeHub) -> Hub:
    return Hub(endpoint=hub.url, tries=3, pause_seconds=0.01, timeout_seconds=60)


def bring(client: Hub, model: ModelFile, target: Path) -> None:
    client.fetch(model, client.find(model), target, meter=lambda _done, _phase: None)


def without_facts(model: ModelFile) -> ModelFile:
    """The same file where no source states size and hash."""
    return model.model_copy(
        update={"sha256": None, "verified": model.verified.model_copy(update={"size": False})}
    )


def test_a_transfer_that_breaks_off_again_and_again_asks_only_for_the_rest(
    client: Hub, hub: FakeHub, served: Served, base: ModelFile, tmp_path: Path
) -> None:
    served.cuts = [1_000_000, 1, 999_999, 0]
    bring(client, base, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BASE
    assert hub.sent_bytes == len(BASE)
    assert hub.served() == [
        None,
        "bytes=1000000-",
        "bytes=1000001-",
        "bytes=2000000-",
        "bytes=2000000-",
    ]


def test_a_file_is_given_up_after_so_many_tries_without_a_byte(
    client: Hub, hub: FakeHub, served: Served, base: ModelFile, tmp_path: Path
) -> None:
    served.cuts = [500_000, *[0] * 50]
    with pytest.raises(DownloadFailed, match="Run it again to go on"):
        bring(client, base, tmp_path / "f")
    assert not (tmp_path / "f").exists()
    remote = client.find(base)
    assert partial_path(tmp_path / "f", remote).stat().st_size == 500_000


def test_a_server_without_ranges_starts_again_and_still_gives_the_right_bytes(
    client: Hub, served: Served, base: ModelFile, tmp_path: Path
) -> None:
    served.cuts = [1_000_000]
    served.ranges = False
    bring(client, base, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BASE


def test_a_server_that_sends_another_range_is_not_believed(
    client: Hub, served: Served, base: ModelFile, tmp_path: Path
) -> None:
    served.cuts = [1_000_000]
    served.range_shift = 7
    with pytest.raises(DownloadFailed, match="bytes 1000007-"):
        bring(client, base, tmp_path / "f")


def test_faults_of_the_server_are_waited_out(
    client: Hub, served: Served, base: ModelFile, tmp_path: Path
) -> None:
    served.faults = 2
    bring(client, base, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BASE


def test_an_address_that_expired_is_asked_for_anew(
    client: Hub, hub: FakeHub, served: Served, base: ModelFile, tmp_path: Path
) -> None:
    served.single_use = True
    served.cuts = [1_000_000, 1_000_000]
    bring(client, base, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BASE
    assert len({asked.path for asked in hub.cdn_requests}) == 3


@pytest.mark.parametrize("stated", [len(BASE) - 1, len(BASE) + 1])
def test_a_file_of_another_size_than_the_manifests_is_not_even_begun(
    client: Hub, hub: FakeHub, served: Served, base: ModelFile, stated: int
) -> None:
    served.stated_size = stated
    with pytest.raises(DownloadFailed, match="not downloaded"):
        client.find(base)
    assert hub.cdn_requests == []


def test_a_file_of_another_hash_than_the_manifests_is_not_even_begun(
    client: Hub, hub: FakeHub, served: Served, base: ModelFile
) -> None:
    served.stated_sha256 = "0" * 64
    with pytest.raises(DownloadFailed, match="SHA-256 0000"):
        client.find(base)
    assert hub.cdn_requests == []


@pytest.mark.parametrize(
    ("stated", "words"), [(len(BASE) - 1, "more"), (len(BASE) + 1, "of 3000001")]
)
def test_a_server_that_lies_about_the_size_leaves_nothing_in_place(
    client: Hub, served: Served, base: ModelFile, tmp_path: Path, stated: int, words: str
) -> None:
    served.stated_size = stated
    with pytest.raises(DownloadFailed, match=words):
        bring(client, without_facts(base), tmp_path / "f")
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("known", [True, False])
def test_damaged_bytes_never_take_the_files_place(
    client: Hub, served: Served, base: ModelFile, tmp_path: Path, *, known: bool
) -> None:
    served.stated_sha256 = served.sha256
    served.data = BASE[:-1] + bytes([BASE[-1] ^ 1])
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(DownloadFailed, match="damaged"):
        bring(client, base if known else without_facts(base), tmp_path / "f")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_what_is_left_of_an_older_version_of_the_file_is_not_gone_on_with(
    client: Hub, served: Served, base: ModelFile, tmp_path: Path
) -> None:
    target = tmp_path / "f"
    old = partial_path(target, Remote("", 1, "another-etag", None))
    old.write_bytes(b"x" * 1000)
    bring(client, base, target)
    assert target.read_bytes() == BASE
    assert not old.exists()


def test_two_downloads_do_not_write_into_one_another(
    client: Hub, base: ModelFile, tmp_path: Path
) -> None:
    partial = partial_path(tmp_path / "f", client.find(base))
    with partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DownloadFailed, match="Another download"):
            bring(client, base, tmp_path / "f")


def test_a_stop_ends_the_transfer_at_the_next_piece(
    hub: FakeHub, served: Served, base: ModelFile, tmp_path: Path
) -> None:
    stop = threading.Event()
    client = Hub(endpoint=hub.url, stop=stop)

    def meter(done: int, _phase: str) -> None:
        if done >= 1_048_576:
            stop.set()

    remote = client.find(base)
    with pytest.raises(Stopped):
        client.fetch(base, remote, tmp_path / "f", meter=meter)
    assert 0 < partial_path(tmp_path / "f", remote).stat().st_size < len(BASE)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ((403, "GatedRepo"), "asks for consent"),
        ((404, "RepoNotFound"), "There is no repository maker/parts"),
        ((401, "Other"), "HTTP 401"),
    ],
)
def test_a_refusal_is_said_in_words_and_not_repeated(
    client: Hub,
    hub: FakeHub,
    served: Served,
    base: ModelFile,
    error: tuple[int, str],
    words: str,
) -> None:
    served.error = error
    with pytest.raises(DownloadFailed, match=words):
        client.find(base)
    assert len(hub.hub_requests) == 1


def test_a_hub_that_is_not_there_is_said_in_words(base: ModelFile) -> None:
    client = Hub(endpoint="http://127.0.0.1:9", tries=2, pause_seconds=0.01)
    with pytest.raises(DownloadFailed, match="cannot be reached"):
        client.find(base)


def test_a_folder_that_cannot_be_made_is_said_in_words(
    client: Hub, base: ModelFile, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(DownloadFailed, match="File exists"):
        bring(client, base, tmp_path / "file" / "f")


def test_a_disk_that_takes_no_more_is_said_in_words_and_what_arrived_is_kept(
    client: Hub, base: ModelFile, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(DownloadFailed, match="File too large"):
            bring(client, base, tmp_path / "f")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    bring(client, base, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BASE


def test_room_is_counted_for_all_downloads_together(base: ModelFile, tmp_path: Path) -> None:
    found = look(tmp_path, base)
    remote = Remote("", 600, "e", None)
    items = [Item(Needed(base, (), ()), found, "download", remote, 600) for _ in range(2)]
    free_now = 10**18
    assert short_of_space(items, spare_bytes=SPARE_BYTES) == []
    assert len(short_of_space(items, spare_bytes=free_now)) == 1
    assert short_of_space([], spare_bytes=free_now) == []
