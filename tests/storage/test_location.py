"""URLs: which are accepted, what is said of others, where they come from, what is printed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from skiptune.errors import StorageError, render
from skiptune.storage import location as module
from skiptune.storage.database import Database, open_database
from skiptune.storage.location import (
    DEFAULT_URL,
    has_password,
    masked_url,
    parse_url,
    refuse_network_folder,
    resolve_url,
    sqlite_path,
)


def in_four_parts(error: StorageError) -> str:
    [problem] = error.problems
    assert problem.where and problem.expected and problem.found and error.hint
    return render(error)


@pytest.mark.parametrize(
    "url, driver, database",
    [
        ("sqlite:///skiptune.db", "sqlite", "skiptune.db"),
        ("sqlite:////data/skiptune.db", "sqlite", "/data/skiptune.db"),
        ("sqlite+pysqlite:///a b.db", "sqlite+pysqlite", "a b.db"),
        ("postgresql://me@host/studies", "postgresql+psycopg", "studies"),
        ("postgres://me:pw@host:5433/studies", "postgresql+psycopg", "studies"),
        ("postgresql+psycopg://host/studies?sslmode=require", "postgresql+psycopg", "studies"),
        ("postgres+psycopg://host/studies", "postgresql+psycopg", "studies"),
        ("postgresql:///studies?host=/run/postgresql", "postgresql+psycopg", "studies"),
    ],
)
def test_forms_of_a_url(url: str, driver: str, database: str) -> None:
    parsed = parse_url(url)
    assert (parsed.drivername, parsed.database) == (driver, database)
    # All the rest is as it was given.
    assert parsed.set(drivername="x") == make_url(url).set(drivername="x")
    assert sqlite_path(url) == (Path(database) if "sqlite" in driver else None)


REFUSED = {
    "skiptune.db": "no database URL",
    "": "no database URL",
    "me:geheim@host": "no database URL",
    "postgresql://me:geheim@host:port/skiptune": "no database URL",
    "sqllite:///skiptune.db": "did you mean sqlite://?",
    "sqlite3:///skiptune.db": "did you mean sqlite://?",
    "postgressql://me:geheim@host/skiptune": "did you mean postgresql://?",
    "postgre://me:geheim@host/skiptune": "did you mean postgresql://?",
    "pgsql://me:geheim@host/skiptune": "did you mean postgresql://?",
    "mysql://me:geheim@host/skiptune": "the driver 'mysql'",
    "mysql+pymysql://me:geheim@host/skiptune": "the driver 'mysql+pymysql'",
    "mysql+nothing://me:geheim@host/skiptune": "the driver 'mysql+nothing'",
    "oracle://me:geheim@host/skiptune": "the driver 'oracle'",
    "sqlite+aiosqlite:///skiptune.db": "'sqlite+aiosqlite'",
    "postgresql+psycopg2://me:geheim@host/skiptune": "the driver psycopg2",
    "postgresql+asyncpg://me:geheim@host/skiptune": "the driver asyncpg",
    "postgres+psycopg2://me:geheim@host/skiptune": "the driver psycopg2",
    "postgresql://me:geheim@host": "expected: the name of a database",
    "postgresql://me:geheim@host/": "expected: the name of a database",
    "sqlite://": "a database in memory",
    "sqlite:///:memory:": "a database in memory",
    "sqlite:///file:x?mode=memory&uri=true": "a database in memory",
}


@pytest.mark.parametrize("url, said", REFUSED.items())
@pytest.mark.parametrize(
    "call", [parse_url, sqlite_path, Database, lambda url: open_database(url, create=True)]
)
def test_what_is_refused(url: str, said: str, call: Callable[[str], object]) -> None:
    with pytest.raises(StorageError) as raised:
        call(url)
    text = in_four_parts(raised.value)
    assert said in text
    assert "geheim" not in text + str(raised.value)
    assert "--storage " in raised.value.hint
    assert "mysql" not in raised.value.hint


def test_no_near_name_is_invented() -> None:
    with pytest.raises(StorageError) as raised:
        parse_url("mysql://host/db")
    assert "did you mean" not in in_four_parts(raised.value)


def test_a_missing_driver_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StorageError) as raised:
        parse_url("postgresql://me:geheim@host/studies")
    assert raised.value.hint == "pip install 'skiptune[postgres]'"
    assert "psycopg" in in_four_parts(raised.value)
    assert parse_url(DEFAULT_URL).drivername == "sqlite"


def test_sqlite_needs_no_driver_for_servers(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    program = (
        "import sys\n"
        "sys.modules['psycopg'] = None\n"
        "from skiptune.storage import init_database, optuna_storage\n"
        "with init_database(sys.argv[1]) as database:\n"
        "    print(len(optuna_storage(database).get_all_studies()))\n"
    )
    assert run_python(program, f"sqlite:///{tmp_path}/skiptune.db") == "0\n"


# Where a URL comes from.


@pytest.mark.parametrize(
    "given, environment, resolved",
    [
        (None, {}, DEFAULT_URL),
        (None, {"SKIPTUNE_STORAGE": ""}, DEFAULT_URL),
        (None, {"SKIPTUNE_STORAGE": "sqlite:///a.db"}, "sqlite:///a.db"),
        ("sqlite:///b.db", {"SKIPTUNE_STORAGE": "sqlite:///a.db"}, "sqlite:///b.db"),
        ("sqlite:///b.db", {"SKIPTUNE_STORAGE_FILE": "missing"}, "sqlite:///b.db"),
        (
            "sqlite:///b.db",
            {"SKIPTUNE_STORAGE": "x", "SKIPTUNE_STORAGE_FILE": "y"},
            "sqlite:///b.db",
        ),
        (
            None,
            {"SKIPTUNE_STORAGE": "sqlite:///a.db", "SKIPTUNE_STORAGE_FILE": ""},
            "sqlite:///a.db",
        ),
    ],
)
def test_what_is_given_comes_before_the_environment(
    given: str | None, environment: dict[str, str], resolved: str
) -> None:
    assert resolve_url(given, environment) == resolved


def test_the_environment_of_the_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKIPTUNE_STORAGE_FILE", raising=False)
    monkeypatch.setenv("SKIPTUNE_STORAGE", "sqlite:///elsewhere.db")
    assert resolve_url() == "sqlite:///elsewhere.db"


def test_both_variables_are_one_too_many() -> None:
    with pytest.raises(StorageError) as raised:
        resolve_url(None, {"SKIPTUNE_STORAGE": "me:geheim@x", "SKIPTUNE_STORAGE_FILE": "file"})
    text = in_four_parts(raised.value)
    assert "both are set" in text and raised.value.hint == "unset SKIPTUNE_STORAGE"
    assert "geheim" not in text


URL = "postgresql://me:geheim@host/studies"


@pytest.mark.parametrize("mode", [0o600, 0o400])
@pytest.mark.parametrize("text", [URL, f"{URL}\n", f"\n  {URL}  \r\n"])
def test_a_file_holds_the_url(tmp_path: Path, mode: int, text: str) -> None:
    file = tmp_path / "url"
    file.write_text(text)
    file.chmod(mode)
    assert resolve_url(None, {"SKIPTUNE_STORAGE_FILE": str(file)}) == URL


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601, 0o777])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "url"
    file.write_text(URL)
    file.chmod(mode)
    with pytest.raises(StorageError) as raised:
        resolve_url(None, {"SKIPTUNE_STORAGE_FILE": str(file)})
    text = in_four_parts(raised.value)
    assert f"mode {mode:04o}" in text and raised.value.hint == f"chmod 600 {file}"
    assert "geheim" not in text


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "0 lines"),
        (b" \n\n", "0 lines"),
        (b"sqlite:///a.db\nsqlite:///b.db\n", "2 lines"),
        (b"\xff\xfe", "no text"),
        (None, "No such file"),
    ],
)
def test_a_file_that_holds_no_url(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    with pytest.raises(StorageError) as raised:
        resolve_url(None, {"SKIPTUNE_STORAGE_FILE": str(file)})
    assert said in in_four_parts(raised.value)
    assert str(file) in raised.value.problems[0].where


# What is printed.


@given(
    password=st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=8),
    form=st.sampled_from(["postgresql+psycopg://me:{}@host:5432/db", "me:{}@host"]),
)
def test_no_password_is_printed(password: str, form: str) -> None:
    secret = f"<{password}>"
    url = form.format(secret)
    assert secret not in masked_url(url)
    assert has_password(url)
    assert masked_url(form.format("x")) == form.format("***")


def test_a_password_among_the_parameters_is_masked() -> None:
    url = "postgresql://host/db?user=me&password=geheim&sslmode=require"
    assert masked_url(url) == "postgresql://host/db?user=me&password=***&sslmode=require"
    assert has_password(url)


@pytest.mark.parametrize(
    "url", ["sqlite:////a:b/c@d.db", "postgresql://me@host:5432/db", "postgresql:///db"]
)
def test_what_has_no_password_is_printed_whole(url: str) -> None:
    assert masked_url(url) == url
    assert not has_password(url)


# File systems. The list is the kernel's, see proc(5): mount point, then options, then the type.

LINE = "{number} 1 0:{number} / {point} rw,relatime shared:1 - {kind} source rw,vers=4.2\n"


def mounted(tmp_path: Path, *mounts: tuple[Path | str, str]) -> Path:
    """Write a list of mounts and make their points; `/` is on a local disk."""
    lines = [LINE.format(number=1, point="/", kind="ext4")]
    for number, (point, kind) in enumerate(mounts, start=2):
        escaped = str(point).replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011")
        lines.append(LINE.format(number=number, point=escaped, kind=kind))
        Path(point).mkdir(parents=True, exist_ok=True)
    path = tmp_path / "mountinfo"
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "lustre", "fuse.sshfs", "ceph", "gpfs"])
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    share = tmp_path / "share"
    mounts = mounted(tmp_path, (share, kind))
    for path in (share / "skiptune.db", share / "not" / "made" / "yet.db"):
        with pytest.raises(StorageError) as raised:
            refuse_network_folder(path, mounts=mounts)
        text = in_four_parts(raised.value)
        assert f"{kind}, mounted on {share}" in text
        assert "postgresql://" in raised.value.hint
    # Only what lies below, not what begins alike.
    refuse_network_folder(tmp_path / "shared.db", mounts=mounts)
    refuse_network_folder(tmp_path / "skiptune.db", mounts=mounts)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuseblk"])
def test_a_local_disk_is_not(tmp_path: Path, kind: str) -> None:
    refuse_network_folder(tmp_path / "a.db", mounts=mounted(tmp_path, (tmp_path, kind)))


@pytest.mark.parametrize("name", ["my share", "tab\there", "back\\slash", r"not\040a space"])
def test_mount_points_with_unusual_characters(tmp_path: Path, name: str) -> None:
    mounts = mounted(tmp_path, (tmp_path / name, "nfs4"))
    with pytest.raises(StorageError, match="nfs4"):
        refuse_network_folder(tmp_path / name / "skiptune.db", mounts=mounts)


def test_the_innermost_mount_counts(tmp_path: Path) -> None:
    share, disk, inner = tmp_path / "s", tmp_path / "s" / "disk", tmp_path / "s" / "disk" / "s"
    # In an order that says nothing.
    mounts = mounted(tmp_path, (inner, "cifs"), (share, "nfs"), (disk, "xfs"))
    refuse_network_folder(disk / "skiptune.db", mounts=mounts)
    for path, kind in ((share / "skiptune.db", "nfs"), (inner / "skiptune.db", "cifs")):
        with pytest.raises(StorageError, match=kind):
            refuse_network_folder(path, mounts=mounts)


def test_of_two_mounts_on_one_point_the_later_one_is_seen(tmp_path: Path) -> None:
    below = mounted(tmp_path, (tmp_path / "s", "nfs"), (tmp_path / "s", "tmpfs"))
    refuse_network_folder(tmp_path / "s" / "a.db", mounts=below)
    above = mounted(tmp_path, (tmp_path / "s", "tmpfs"), (tmp_path / "s", "nfs"))
    with pytest.raises(StorageError, match="nfs"):
        refuse_network_folder(tmp_path / "s" / "a.db", mounts=above)


def test_a_link_leads_where_it_points(tmp_path: Path) -> None:
    share, local = tmp_path / "share", tmp_path / "local"
    share.mkdir()
    local.symlink_to(share)
    with pytest.raises(StorageError, match="nfs"):
        refuse_network_folder(local / "a.db", mounts=mounted(tmp_path, (share, "nfs")))
    (share / "skiptune.db").touch()
    (tmp_path / "linked.db").symlink_to(share / "skiptune.db")
    with pytest.raises(StorageError, match="nfs"):
        refuse_network_folder(tmp_path / "linked.db", mounts=mounted(tmp_path, (share, "nfs")))


def test_a_relative_path_lies_where_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="nfs"):
        refuse_network_folder(Path("a.db"), mounts=mounted(tmp_path, (tmp_path, "nfs")))


def test_without_a_list_nothing_is_refused(tmp_path: Path) -> None:
    refuse_network_folder(tmp_path / "a.db", mounts=tmp_path / "missing")


def test_the_list_of_this_machine_can_be_read(tmp_path: Path) -> None:
    found = module._mount_of(tmp_path, Path("/proc/self/mountinfo"))
    assert found is not None and tmp_path.is_relative_to(found[0])


def test_a_database_on_a_share_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_mount_of", lambda path, mounts: ("/share", "nfs4"))
    with pytest.raises(StorageError, match="nfs4"):
        open_database(f"sqlite:///{tmp_path}/skiptune.db", create=True)
    assert list(tmp_path.iterdir()) == []
