"""Keys of a cluster: made, handed on, renewed, replaced; and refused where they are not right."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cli_driver import Cli
from megalith import certificates, doctor, keys
from megalith.exceptions import KeysError

settings.register_profile("megalith", deadline=None, derandomize=True, database=None, max_examples=100)
settings.load_profile("megalith")

FILES = (keys.ANCHORS, keys.CERTIFICATE, keys.KEY)


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def home(tmp_path: Path) -> Path:
    keys.create(tmp_path / "a", "a")
    return tmp_path / "a"


@pytest.fixture
def other(home: Path, tmp_path: Path) -> Path:
    assert keys.join(tmp_path / "b", keys.token(home, "b") + "\n") == "b"
    return tmp_path / "b"


def chain(directory: Path) -> tuple[x509.Certificate, ...]:
    return certificates.parse_chain((directory / keys.CERTIFICATE).read_text())


def anchors(directory: Path) -> tuple[x509.Certificate, ...]:
    return certificates.parse_chain((directory / keys.ANCHORS).read_text())


def trusts(directory: Path, peer: Path) -> bool:
    """Whether the one takes the other's certificate: directly, or by the crossed one that it shows."""
    own, *between = chain(peer)
    known = [*anchors(directory), *(c for c in between if certificates.issuer_of(c, anchors(directory)) is not None)]
    return certificates.issuer_of(own, known) is not None


def test_a_cluster_is_made_and_joined(home: Path, other: Path) -> None:
    assert set(content(home)) == {*FILES, keys.AUTHORITY_KEY}
    assert set(content(other)) == set(FILES)
    for directory in (home, other):
        assert mode(directory) == 0o700
        assert mode(directory / keys.KEY) == 0o600
        assert keys.present(directory)
        found = keys.status(directory)
        assert (found.name, found.anchors, found.makes_hosts) == (directory.name, 1, directory == home)
        assert timedelta(days=364) < found.host_until - certificates.utc_now() <= timedelta(days=365)
        assert timedelta(days=3650) < found.authority_until - certificates.utc_now() <= timedelta(days=3652)
        assert certificates.name_of(chain(directory)[0]) == directory.name
    assert mode(home / keys.AUTHORITY_KEY) == 0o600
    assert content(home)[keys.KEY] != content(other)[keys.KEY]
    assert trusts(home, other)
    assert trusts(other, home)


def test_a_second_cluster_is_another(home: Path, tmp_path: Path) -> None:
    keys.create(tmp_path / "x", "a")
    assert not trusts(home, tmp_path / "x")


@pytest.mark.parametrize("missing", [(), (keys.KEY,), (keys.CERTIFICATE, keys.KEY, keys.ANCHORS)])
def test_nothing_is_replaced_untold(home: Path, missing: tuple[str, ...]) -> None:
    for name in missing:
        (home / name).unlink()
    before = content(home)
    with pytest.raises(KeysError, match="is there already"):
        keys.create(home, "a")
    assert content(home) == before


def test_joining_replaces_only_by_force(home: Path, other: Path) -> None:
    before, token = content(other), keys.token(home, "c")
    with pytest.raises(KeysError, match="add --force"):
        keys.join(other, token)
    assert content(other) == before
    assert keys.join(other, token, force=True) == "c"
    assert keys.status(other).name == "c"
    with pytest.raises(KeysError, match="makes the keys of a cluster"):
        keys.join(home, token, force=True)


def test_a_renewed_host_has_another_key_and_the_same_name(home: Path, other: Path) -> None:
    before = content(home)
    assert keys.renew(home) == "a"
    after = content(home)
    assert {name for name in after if after[name] != before[name]} == {keys.CERTIFICATE, keys.KEY}
    assert keys.status(home).name == "a"
    assert trusts(other, home)
    with pytest.raises(KeysError, match="megalith token NAME"):
        keys.renew(other)


def test_a_new_authority_takes_over_without_a_gap(home: Path, other: Path, tmp_path: Path) -> None:
    third = tmp_path / "c"
    keys.join(third, keys.token(home, "c"))
    everybody = (home, other, third)
    old = anchors(home)[0]

    def all_trust_all() -> bool:
        return all(trusts(one, two) for one in everybody for two in everybody)

    keys.rotate(home)
    assert all_trust_all()
    assert (len(anchors(home)), len(anchors(other))) == (2, 1)
    with pytest.raises(KeysError, match="--forget-old"):
        keys.rotate(home)
    for directory in (other, third):
        keys.join(directory, keys.token(home, directory.name), force=True)
        assert all_trust_all()
    assert keys.renew(home) == "a"
    assert all_trust_all()
    for directory in everybody:
        assert keys.forget_old(directory) == 1
        assert all_trust_all()
        assert old not in anchors(directory)
        assert len(chain(directory)) == 1
    assert not (home / keys.CROSS).exists()
    assert keys.forget_old(home) == 0
    keys.rotate(home)


def test_the_old_authority_is_not_forgotten_before_the_host_has_a_new_certificate(home: Path) -> None:
    before = content(home)
    keys.rotate(home)
    for name in (keys.CERTIFICATE, keys.KEY):
        (home / name).write_bytes(before[name])
    with pytest.raises(KeysError, match="--renew"):
        keys.forget_old(home)


@pytest.mark.parametrize("use", [keys.renew, keys.rotate, lambda directory: keys.token(directory, "b")])
def test_a_ca_key_that_others_can_read_is_not_used(home: Path, use: Callable[[Path], object]) -> None:
    before = content(home)
    (home / keys.AUTHORITY_KEY).chmod(0o640)
    with pytest.raises(KeysError, match=r"others may read it.*chmod 600"):
        use(home)
    assert content(home) == before


@pytest.mark.parametrize("name", ["", "a b", "-a", "a-", "a..b", "10.0.0.1", "7", "ä", "a" * 64, "*.lab", "a/b"])
def test_names_that_no_certificate_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeysError, match="cannot be named"):
        keys.create(tmp_path / "x", name)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["a", "node-7", "n_1", "A.b.c3", "7a"])
def test_names_that_certificates_have(name: str) -> None:
    authority = certificates.new_authority(certificates.utc_now())
    made = certificates.new_host(authority, name, certificates.utc_now())
    assert certificates.name_of(made.chain[0]) == name


def retold(token: str, **changes: str) -> str:
    head, _, body = token.rpartition(".")
    fields = json.loads(base64.urlsafe_b64decode(body)) | changes
    return f"{head}.{base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()}"


def test_tokens_that_contradict_themselves(home: Path, other: Path, tmp_path: Path) -> None:
    token = keys.token(home, "c")
    keys.create(tmp_path / "x", "x")
    wrong = {
        "key": content(other)[keys.KEY].decode(),
        "chain": content(other)[keys.CERTIFICATE].decode(),
        "anchors": content(tmp_path / "x")[keys.ANCHORS].decode(),
        "name": "d",
    }
    for field, value in wrong.items():
        with pytest.raises(KeysError, match="contradicts itself"):
            keys.join(tmp_path / "c", retold(token, **{field: value}))
    for field in wrong:
        with pytest.raises(KeysError):
            keys.join(tmp_path / "c", retold(token, **{field: "?"}))
    assert not (tmp_path / "c").exists()


def test_a_token_is_as_good_as_its_certificate(home: Path, tmp_path: Path) -> None:
    authority = keys._authority(home)[0]
    for at in (timedelta(days=-400), timedelta(days=2)):
        made = certificates.new_host(authority, "b", certificates.utc_now() + at)
        late = {"key": certificates.key_pem(made.key), "chain": certificates.chain_pem(made.chain)}
        with pytest.raises(KeysError, match="not good now"):
            keys.join(tmp_path / "b", retold(keys.token(home, "b"), **late))


@given(
    st.text(max_size=200) | st.binary(max_size=200).map(lambda b: "megalith-token-1." + base64.b64encode(b).decode())
)
@example("megalith-token-1.")
@example("megalith-token-1." + base64.b64encode(b"[" * 100_000).decode())
@example("megalith-token-1." + base64.b64encode(b'{"name": 1, "key": 2, "chain": 3, "anchors": 4}').decode())
def test_any_text_is_a_token_or_is_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    directory = tmp_path_factory.getbasetemp() / "nobody"
    with pytest.raises(KeysError) as raised:
        keys.join(directory, text)
    assert "\n" not in str(raised.value)
    assert not directory.exists()


def test_the_doctor_knows_how_long_keys_are_good(home: Path, other: Path, tmp_path: Path) -> None:
    now = certificates.utc_now()

    def check(directory: Path, days: float) -> tuple[str, str | None]:
        found = doctor.check_keys(directory, now + timedelta(days=days))
        return found.state, found.mend

    assert check(tmp_path / "none", 0) == ("ok", None)
    assert check(home, 0) == ("ok", None)
    assert check(home, 334) == ("ok", None)
    assert check(home, 336) == ("warn", "megalith init --renew")
    assert check(home, 366) == ("fail", "megalith init --renew")
    by_hand = "where the cluster was made: megalith token b | ssh b megalith init --join - --force"
    assert check(other, 336) == ("warn", by_hand)
    assert check(other, 366) == ("fail", by_hand)
    found = doctor.check_keys(home, now)
    assert f"host a until {now + timedelta(days=365):%Y-%m-%d}" in found.found
    assert f"its CA until {now + timedelta(days=3652):%Y-%m-%d}" in found.found
    keys.rotate(home)
    assert "2 CAs trusted" in doctor.check_keys(home, now).found
    (home / keys.KEY).chmod(0o644)
    found = doctor.check_keys(home, now)
    assert found.state == "fail"
    assert "chmod 600" in found.found


def test_the_doctor_warns_of_a_ca_that_ends(tmp_path: Path) -> None:
    now = certificates.utc_now()
    keys.create(tmp_path, "a")
    authority = keys._authority(tmp_path)[0]
    keys._write_identity(tmp_path, certificates.new_host(authority, "a", now + timedelta(days=3600)))
    found = doctor.check_keys(tmp_path, now + timedelta(days=3640))
    assert (found.state, found.mend) == ("warn", "megalith init --rotate")


def test_the_command_line_from_beginning_to_end(cli: Cli) -> None:
    a, b = cli.home / "a", cli.home / "b"
    done = cli("init", "--name", "a", "--keys", str(a))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"this host is a; its keys are in {a}" in done.stdout
    done = cli("token", "b", "--keys", str(a))
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert "secret" in done.stderr
    (cli.home / "token").write_text(done.stdout)
    done = cli("init", "--join", str(cli.home / "token"), "--keys", str(b))
    assert (done.returncode, done.stderr) == (0, "")
    with (cli.home / "token").open() as token:
        done = cli("init", "--join", "-", "--force", "--keys", str(b), stdin=token)
    assert (done.returncode, done.stderr) == (0, "")
    for words in (["--renew"], ["--rotate"], ["--forget-old"]):
        done = cli("init", *words, "--keys", str(a))
        assert (done.returncode, done.stderr) == (0, ""), words
    done = cli("doctor", "--json", "--keys", str(a))
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert found["keys"]["found"].startswith("host a until ")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["init", "--name", "7"], 125, "cannot be named '7'"),
        (["init", "--join", "none"], 125, "--join none: No such file or directory"),
        (["init", "--join", "/dev/null"], 125, "this is no token"),
        (["init", "--renew"], 125, "ca.key is not here"),
        (["init", "--rotate"], 125, "ca.key is not here"),
        (["init", "--forget-old"], 125, "host.pem: No such file or directory"),
        (["token", "b"], 125, "ca.key is not here"),
        (["token", "b c"], 2, "'b c' is not a name"),
        (["init", "--renew", "--rotate"], 2, "not allowed with argument"),
        (["init", "--renew", "--name", "b"], 2, "--name is for a new cluster"),
        (["init", "--force"], 2, "--force is for --join"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(cli: Cli, words: list[str], code: int, message: str) -> None:
    done = cli(*words, "--keys", str(cli.home / "keys"))
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_agent_is_told_where_its_keys_are(cli: Cli) -> None:
    cli("init", "--name", "a", "--keys", str(cli.home / "k"))
    started = cli.home / "started"
    words = ["--name", "a", "--memory", "64M", "--listen", "127.0.0.1:0", "--dir", str(cli.home / "a")]
    for more, found in (([], None), (["--keys", str(cli.home / "k")], str(cli.home / "k"))):
        wish = {"started": str(started)}
        with cli.popen("agent", *words, *more, wish=wish) as agent:
            assert agent.stderr is not None
            assert "a listens on" in agent.stderr.readline()
            agent.terminate()
        assert json.loads(started.read_text()) == {"cluster": "default", "keys": found}


def test_local_hosts_are_kept_apart_by_an_id_that_nobody_can_read(cli: Cli) -> None:
    """Their agents listen on loopback, in plaintext: a run's own id is what other users of the computer lack."""
    started, seen = cli.home / "started", set()
    for _ in range(2):
        script = 'for p in /proc/[0-9]*; do tr "\\0" " " < $p/cmdline; echo; done'
        wish = {"started": str(started)}
        done = cli("run", "--quiet", "--local", "1", "--memory-per-host", "64M", "--", "sh", "-c", script, wish=wish)
        told = json.loads(started.read_text())
        assert done.returncode == 0, done.stderr
        assert "megalith agent --name host1" in done.stdout
        assert told["keys"] is None
        assert len(bytes.fromhex(told["cluster"])) == 16
        assert told["cluster"] not in done.stdout
        seen.add(told["cluster"])
    assert len(seen) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's files take root")
def test_a_key_that_is_another_users_is_not_used(home: Path) -> None:
    os.chown(home / keys.AUTHORITY_KEY, 65534, -1)
    with pytest.raises(KeysError, match="another user"):
        keys.renew(home)
