"""Named data sets come whole or not at all: from any mirror, resumed after a break, never more than published. No network."""

import errno
import hashlib
import io
import json
import os
import re
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import pytest
from file_server import BODY, NAME, Server, build_remote, failure, get, names, refuse
from processes import wait_until

from clearsight.data.named import download, fetch
from clearsight.data.named.download import MirrorError
from clearsight.data.named.fetch import REMOTE, fetch_data
from clearsight.errors import ClearsightError, DataError, UsageError


@pytest.fixture
def servers():
    made = []

    def build(*plan, body=BODY):
        made.append(Server(body))
        made[-1].plan = list(plan) or [{}]
        return made[-1]

    yield build
    for server in made:
        server.close()


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    """The published mnist is one small file; proxies and mirrors of the machine do not count."""
    monkeypatch.setitem(REMOTE, "mnist", build_remote(BODY))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(fetch.MIRROR_VARIABLE, raising=False)


def test_a_file_comes_whole_and_nothing_else_stays(tmp_path, servers, capfd):
    assert get(tmp_path / "new" / "data", servers()) == tmp_path / "new" / "data" / "mnist"
    assert (tmp_path / "new" / "data" / "mnist" / NAME).read_bytes() == BODY
    assert names(tmp_path) == ["new/data/.mnist.lock", f"new/data/mnist/{NAME}"]
    assert (tmp_path / "new" / "data" / "mnist" / NAME).stat().st_mode & 0o444 == 0o444 & ~os.umask(os.umask(0o22))
    assert capfd.readouterr() == ("", "")


def test_a_right_file_is_not_fetched_again(tmp_path, servers):
    server = servers()
    get(tmp_path, server)
    get(tmp_path, server)
    assert len(server.asked) == 1


def test_a_file_put_there_by_hand_needs_no_network(tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / NAME).write_bytes(BODY)
    assert get(tmp_path, "http://127.0.0.1:9") == tmp_path / "mnist"


def test_a_wrong_file_is_neither_taken_nor_overwritten(tmp_path, servers):
    (tmp_path / "mnist").mkdir()
    path = tmp_path / "mnist" / NAME
    path.write_bytes(b"mine")
    wanted, got = (hashlib.sha256(content).hexdigest() for content in (BODY, b"mine"))
    message = (
        f"{path} must be the published file with SHA-256 {wanted}, got {got}. Delete it or move it, and fetch again."
    )
    refuse(DataError, message, get, tmp_path, servers())
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("cut", [1, 8192, 100_001, len(BODY) - 1])
def test_a_broken_connection_is_resumed_and_no_byte_comes_twice(tmp_path, servers, cut):
    server, notes = servers({"cut": cut}, {}), []
    get(tmp_path, server, notes=notes)
    assert [headers.get("Range") for _, headers in server.asked] == [None, f"bytes={cut}-"]
    assert (server.asked[1][1]["If-Range"], server.sent) == ('"one"', len(BODY))
    assert (tmp_path / "mnist" / NAME).read_bytes() == BODY
    assert notes == [
        f"{server.url}/{NAME} broke off (connection closed) after {cut:,} of 200,000 bytes",
        f"{NAME}: resuming at {cut:,} of 200,000 bytes",
    ]


def test_a_later_call_goes_on_at_another_mirror(tmp_path, servers):
    first, second = servers({"cut": 50_000}, {"status": 503}), servers()
    refuse(
        ClearsightError, failure(tmp_path, f"{first.url}/{NAME} answers 503 Service Unavailable"), get, tmp_path, first
    )
    assert names(tmp_path / "mnist") == [f"{NAME}.part", f"{NAME}.part.json"]
    record = json.loads((tmp_path / "mnist" / f"{NAME}.part.json").read_text())
    assert record == {"url": f"{first.url}/{NAME}", "validator": '"one"'}
    get(tmp_path, second)
    assert (second.asked[0][1]["Range"], "If-Range" in second.asked[0][1], second.sent) == (
        "bytes=50000-",
        False,
        150_000,
    )
    assert names(tmp_path / "mnist") == [NAME]


def test_a_server_that_keeps_breaking_is_left_after_some_attempts(tmp_path, servers):
    server = servers({"cut": 1000})
    with pytest.raises(ClearsightError, match="broke off"):
        get(tmp_path, server)
    assert len(server.asked) == 6
    assert (tmp_path / "mnist" / f"{NAME}.part").read_bytes() == BODY[:6000]


@pytest.mark.parametrize("plan", [{"no_range": True}, {"shift": 1}], ids=["ignored", "elsewhere"])
def test_a_server_that_does_not_resume_starts_again_at_0(tmp_path, servers, plan):
    server, notes = servers({"cut": 5000}, plan, {}), []
    get(tmp_path, server, notes=notes)
    assert (tmp_path / "mnist" / NAME).read_bytes() == BODY
    assert notes[-1] == f"{NAME}: starting again at 0 of 200,000 bytes"


def test_a_changed_file_starts_again_at_0(tmp_path, servers):
    old = servers({"cut": 5000, "body": bytes(len(BODY))}, {"status": 500})
    with pytest.raises(ClearsightError):
        get(tmp_path, old)
    old.etag, old.plan = '"two"', [{}]
    get(tmp_path, old)
    assert (old.asked[-1][1]["If-Range"], old.sent) == ('"one"', 5000 + len(BODY))
    assert (tmp_path / "mnist" / NAME).read_bytes() == BODY


@pytest.mark.parametrize("stale", [bytes(5000), bytes(len(BODY)), bytes(len(BODY) + 1)], ids=["short", "full", "long"])
def test_a_stale_part_is_found_out_by_its_checksum(tmp_path, servers, stale):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / f"{NAME}.part").write_bytes(stale)
    (tmp_path / "mnist" / f"{NAME}.part.json").write_text("[not JSON")
    notes = []
    get(tmp_path, servers(), notes=notes)
    assert (names(tmp_path / "mnist"), (tmp_path / "mnist" / NAME).read_bytes() == BODY) == ([NAME], True)
    assert "starting again at 0" in notes[-1] or "was dropped" in notes[-1]


def test_416_starts_again_at_0(tmp_path, servers):
    server = servers({"cut": 5000}, {"status": 416}, {})
    get(tmp_path, server)
    assert [headers.get("Range") for _, headers in server.asked] == [None, "bytes=5000-", None]


def flip(at):
    return BODY[:at] + bytes([BODY[at] ^ 1]) + BODY[at + 1 :]


def test_a_wrong_checksum_leads_to_the_next_mirror(tmp_path, servers):
    bad, good, notes = servers(body=flip(777)), servers(), []
    get(tmp_path, bad, good, notes=notes)
    assert (tmp_path / "mnist" / NAME).read_bytes() == BODY
    assert notes == [f"{bad.url}/{NAME} gave a file with a wrong checksum; trying the next mirror"]


def test_no_file_with_a_wrong_checksum_stays(tmp_path, servers):
    bad = [servers(body=flip(0)), servers(body=flip(len(BODY) - 1))]
    reasons = [f"{server.url}/{NAME} gave a file with a wrong checksum" for server in bad]
    refuse(ClearsightError, failure(tmp_path, *reasons), get, tmp_path, *bad)
    assert names(tmp_path) == [".mnist.lock"]
    assert not (tmp_path / "mnist").exists()


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ({"status": 404}, "answers 404 Not Found"),
        ({"status": 500}, "answers 500 Internal Server Error"),
        ({"status": 503}, "answers 503 Service Unavailable"),
        ({"status": 206}, "answers 206 Partial Content"),
        ({"length": 5}, "offers 5 bytes instead of 200,000"),
        ({"length": 200_001}, "offers 200,001 bytes instead of 200,000"),
        ({"body": BODY + b"more", "chunked": True}, "sends more than the 200,000 bytes of the file"),
        ({"status": 302}, "redirects to '', which is no web address"),
        ({"status": 302, "to": "file:///etc/passwd"}, "redirects to 'file:///etc/passwd', which is no web address"),
        ({"status": 302, "to": "/x/again"}, "redirects more than 5 times"),
        ({"status": 301, "to": "http://[::1"}, "redirects to 'http://[::1', which is no web address"),
    ],
)
def test_a_bad_answer_is_named_and_leaves_nothing(tmp_path, servers, plan, reason):
    server = servers(plan)
    refuse(ClearsightError, failure(tmp_path, f"{server.url}/{NAME} {reason}"), get, tmp_path, server)
    assert names(tmp_path) == [".mnist.lock"]


def test_an_endless_answer_is_cut_off(tmp_path, servers):
    server = servers({"chunked": True}, body=BODY + bytes(2**26))
    with pytest.raises(ClearsightError, match="sends more than"):
        get(tmp_path, server)
    assert server.sent < 2**25  # the buffers between both ends


def test_a_connection_closed_without_a_length_is_resumed(tmp_path, servers):
    server = servers({"cut": 5000, "chunked": True}, {"chunked": True})
    get(tmp_path, server)
    assert server.sent == len(BODY)


def test_a_redirect_to_another_host_is_followed(tmp_path, servers):
    target = servers()
    get(tmp_path, servers({"status": 302, "to": f"{target.url}/{NAME}"}))
    assert (tmp_path / "mnist" / NAME).read_bytes() == BODY


def test_a_redirect_never_leaves_https():
    assert download._follow("https://a/b/c", "d") == "https://a/b/d"
    assert download._follow("http://a/", "https://b/") == "https://b/"
    refuse(
        MirrorError,
        "redirects from https to http://a/d, which is not protected",
        download._follow,
        "https://a/",
        "http://a/d",
    )


@pytest.mark.parametrize("cut", [0, 9000])
def test_a_silent_server_is_left_in_time(tmp_path, servers, cut):
    done = threading.Event()
    server = servers({"cut": cut, "hang": done}, {"status": 404})
    with pytest.raises(ClearsightError, match=r"no answer within 0\.2 s|answers 404"):
        get(tmp_path, server, timeout=0.2)
    done.set()


def test_without_a_network_the_mirrors_are_listed(tmp_path):
    reasons = [f"http://127.0.0.1:{port}/{NAME} cannot be reached (Connection refused)" for port in (9, 1)]
    refuse(ClearsightError, failure(tmp_path, *reasons), get, tmp_path, "http://127.0.0.1:9", "http://127.0.0.1:1/")


def test_the_mirror_of_the_environment_comes_first(tmp_path, servers, monkeypatch):
    mine, other = servers(), servers()
    monkeypatch.setenv(fetch.MIRROR_VARIABLE, f"{mine.url}/")
    get(tmp_path, other)
    assert ([path for path, _ in mine.asked], other.asked) == ([f"/x/mnist/{NAME}"], [])


@pytest.mark.parametrize("base", ["", "ftp://a/b", "/home/me", "http://", "http://[::1"])
def test_a_mirror_must_be_a_web_address(tmp_path, base):
    message = f"mirror must be a web address, got {base!r}. Write it like https://host/folder."
    refuse(UsageError, message, get, tmp_path, base)
    assert names(tmp_path) == []


def test_an_unknown_name_gets_the_nearest(tmp_path):
    known = "name must be one of mnist, fashion-mnist, kmnist, cifar10, got"
    refuse(UsageError, f"{known} 'cifar-10'. Did you mean cifar10?", get, tmp_path, "http://a", name="cifar-10")
    refuse(UsageError, f"{known} '../x'. Choose one of them.", get, tmp_path, "http://a", name="../x")


def test_a_place_that_cannot_be_written_is_named(tmp_path, servers, monkeypatch):
    (tmp_path / "file").write_text("")
    message = f"{tmp_path}/file must be writable, got: File exists. Change its permissions, or choose another place."
    refuse(ClearsightError, message, get, tmp_path / "file", servers())

    def deny(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", deny)
    message = (
        f"{tmp_path}/new must be writable, got: Permission denied. Change its permissions, or choose another place."
    )
    refuse(ClearsightError, message, get, tmp_path / "new", servers())


def test_a_full_disk_is_said_and_what_came_is_kept(tmp_path, servers, monkeypatch):
    opened, real = [], Path.open

    class Full(io.FileIO):
        def write(self, content):
            if self.tell() > 100_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content)

    def open_full(path, mode="r", *args, **kwargs):
        opened.append(path.name)
        return Full(path, mode) if mode in ("wb", "ab") else real(path, mode, *args, **kwargs)

    server = servers()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_full)
        message = (
            f"disk must have room for mnist in {tmp_path}/mnist, got: No space left on device. "
            "Free space and fetch again; what came so far is kept."
        )
        refuse(ClearsightError, message, get, tmp_path, server)
    kept = (tmp_path / "mnist" / f"{NAME}.part").stat().st_size
    get(tmp_path, server)
    assert kept > 100_000
    assert server.asked[1][1]["Range"] == f"bytes={kept}-"


def test_the_meter_counts_only_what_is_missing(tmp_path, servers):
    counted = []

    @contextmanager
    def meter(label, total, *, unit="pictures"):
        counted.append([label, total, unit, 0])

        def advance(count=1):
            counted[-1][3] += count

        yield advance

    server = servers({"cut": 5000}, {})
    fetch_data("mnist", folder=tmp_path, meter=meter, mirrors={"mnist": [server.url]})
    assert counted == [[NAME, 200_000, "bytes", 5000], [NAME, 195_000, "bytes", 195_000]]


def test_ctrl_c_keeps_what_came(tmp_path, servers):
    @contextmanager
    def meter(label, total, *, unit="pictures"):
        def advance(count=1):
            raise KeyboardInterrupt

        yield advance

    server = servers()
    with pytest.raises(KeyboardInterrupt):
        fetch_data("mnist", folder=tmp_path, meter=meter, mirrors={"mnist": [server.url]})
    assert names(tmp_path / "mnist") == [f"{NAME}.part", f"{NAME}.part.json"]
    get(tmp_path, server)
    assert server.asked[1][1]["Range"] == f"bytes={2**15}-"


WORKER = f"""
import sys
from pathlib import Path
from clearsight.data.named.fetch import REMOTE, RemoteData, fetch_data
from clearsight.data.named.download import RemoteFile
from clearsight.core.progress import SilentMeter
REMOTE["mnist"] = RemoteData((RemoteFile({NAME!r}, {len(BODY)}, {hashlib.sha256(BODY).hexdigest()!r}),), (sys.argv[2],))
fetch_data("mnist", folder=Path(sys.argv[1]), meter=SilentMeter)
"""


@pytest.fixture
def start(processes):
    return lambda folder, server: processes.start([sys.executable, "-c", WORKER, folder, server.url], stderr=PIPE)


@pytest.mark.long
def test_a_killed_process_is_resumed(start, tmp_path, servers):
    done = threading.Event()
    server = servers({"cut": 120_000, "hang": done}, {})
    process, part = start(tmp_path, server), tmp_path / "mnist" / f"{NAME}.part"
    wait_until(lambda: part.exists() and part.stat().st_size >= 50_000, process=process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done.set()
    kept = part.stat().st_size
    get(tmp_path, server)
    assert server.asked[1][1]["Range"] == f"bytes={kept}-"
    assert names(tmp_path / "mnist") == [NAME]


@pytest.mark.long
def test_two_processes_fetch_one_file_once(start, tmp_path, servers):
    server = servers({"slow": 0.02})
    started = [start(tmp_path, server) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in started] == [("", 0), ("", 0)]
    assert (len(server.asked), (tmp_path / "mnist" / NAME).read_bytes() == BODY) == (1, True)


@pytest.mark.long
def test_threads_wait_for_each_other_and_say_so(tmp_path, servers):
    server, notes = servers({"slow": 0.02}), []
    threads = [threading.Thread(target=get, args=(tmp_path, server), kwargs={"notes": notes}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(server.asked), set(notes)) == (1, {"another process fetches mnist; waiting for it"})


def test_several_files_come_from_different_mirrors(tmp_path, servers, monkeypatch):
    monkeypatch.setitem(REMOTE, "mnist", build_remote(BODY, BODY, BODY))
    first, second = servers({}, {"status": 404}), servers()
    get(tmp_path, first, second)
    assert names(tmp_path / "mnist") == ["b.gz", "c.gz", NAME]
    assert len(second.asked) == 2


def test_the_registry_is_sound():
    others = {name: remote for name, remote in REMOTE.items() if name != "mnist"}
    for name, remote in others.items():
        assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) and file.size > 0 for file in remote.files), name
        assert len({file.sha256 for file in remote.files}) == len(remote.files)
        assert all(download.is_address(base) and base.endswith("/") for base in remote.mirrors)
    assert [file.name for file in REMOTE["kmnist"].files] == [
        "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz",
    ]  # fmt: skip
