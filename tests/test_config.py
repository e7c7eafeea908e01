"""cluster.yaml is read exactly, and what is wrong with it is said with line and remedy."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.config import Settings, json_schema, load_settings, settings_for_address
from batchrun.config.file import FILES, ConnectSettings, LocalSettings, WorkerGroup
from batchrun.errors import ConfigError

ROOT = Path(__file__).parent.parent


def write(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(folder, text))
    return str(caught.value)


def sources(settings: Settings) -> dict[str, str]:
    return {entry.key: entry.source for entry in settings.entries()}


def values(settings: Settings) -> dict[str, object]:
    return {entry.key: entry.value for entry in settings.entries()}


def test_without_a_file_there_are_two_local_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.path is None
    assert isinstance(settings.cluster, LocalSettings)
    assert sum(group.count for group in settings.cluster.workers.values()) == 2
    assert set(sources(settings).values()) == {"default"}
    assert settings.artifact_root == str(tmp_path / ".batchrun" / "runs")


def test_the_nearest_file_above_the_current_folder_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "workers: {a: {count: 5}}")
    deep = tmp_path / "one" / "two"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    settings = load_settings()
    assert settings.path == path
    assert settings.store_url == f"sqlite:///{(tmp_path / '.batchrun' / 'store.db').as_posix()}"


def test_every_value_knows_its_line(tmp_path: Path) -> None:
    text = "workers:\n  big:\n    count: 2\n    memory: 8GiB\n    resources:\n      HIGHMEM: 1\n"
    text += "run: {flush_every: 2s}\n"
    settings = load_settings(write(tmp_path, text), {"workers.big.threads": "4"})
    found = sources(settings)
    assert found["workers.big.count"] == "cluster.yaml:3"
    assert found["workers.big.memory"] == "cluster.yaml:4"
    assert found["workers.big.resources.HIGHMEM"] == "cluster.yaml:6"
    assert found["run.flush_every"] == "cluster.yaml:7"
    assert found["workers.big.threads"] == "flag"
    assert found["run.flush_bytes"] == "default"
    assert values(settings)["workers.big.memory"] == "8GiB"
    assert settings.run.flush_every == 2.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: local\nworkerz: {}", r"cluster\.yaml:2: unknown key `workerz`\. Did you mean `workers`\?"),
        (
            "workers:\n  a: {cout: 1}",
            r"cluster\.yaml:2: unknown key `workers\.a\.cout`\. Did you mean `count`\?",
        ),
        ("run:\n\n  flush_evry: 1s", r"cluster\.yaml:3: unknown key `run\.flush_evry`\..*`flush_every`"),
        (
            "kind: conect",
            r"cluster\.yaml:1: kind: 'conect' is not local or connect\. Did you mean `connect`\?",
        ),
        ("workers:\n  a:\n    memory: lots", r"cluster\.yaml:3: workers\.a\.memory: 'lots' is not a size"),
        (
            "workers: {a: {count: two}}",
            r"cluster\.yaml:1: workers\.a\.count: 'two' is not integer|an? .*integer",
        ),
        ("workers: {a: {threads: yes}}", r"workers\.a\.threads: True is not"),
        ("workers: {a: {threads: 0}}", r"workers\.a\.threads: 0 is not greater than or equal to 1"),
        (
            "workers: {a: {resources: {MEMORY: 1}}}",
            r"MEMORY is advertised by every worker; set it by `memory`",
        ),
        ("workers: {a: {resources: {GPU: 0}}}", r"workers\.a\.resources\.GPU: 0 is not greater than 0"),
        ("workers: {a: {count: 0}}", r"no group has a worker"),
        ("workers: {a b: {count: 1}}", r"'a b' is no name for a worker group"),
        ("run: {flush_every: soon}", r"cluster\.yaml:1: run\.flush_every: 'soon' is not a time"),
        ("dashboard: 8787", r"cluster\.yaml:1: dashboard: write host:port"),
        ("kind: connect", r"`address` is missing"),
        ("kind: connect\naddress: here", r"cluster\.yaml:2: address: 'here' is not an address like tcp://"),
        (
            "address: tcp://h:1",
            r"cluster\.yaml:1: `address` belongs to `kind: connect`, but the kind is local",
        ),
        (
            "kind: connect\naddress: tcp://h:1\nworkers: {}",
            r"cluster\.yaml:3: `workers` belongs to `kind: local`",
        ),
        ("store: a\nkind: local\nstore: b", r"cluster\.yaml:3: `store` is set twice, first in line 1"),
        ("workers: {a: {count: 1, count: 2}}", r"`workers\.a\.count` is set twice"),
        ("kind: [", r"cluster\.yaml:1: not valid YAML"),
        ("- kind", r"cluster\.yaml:1: a mapping is wanted here"),
        ("workers: &a {b: *a}", r"nested too deeply"),
        ("store: !!python/object:os.system x", r"cluster\.yaml:1: not valid YAML"),
        ("? [a, b]\n: 1", r"cluster\.yaml:1: a key must be a plain word"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert re.search(said, refusal(tmp_path, text)), refusal(tmp_path, text)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, "workers:\n  a:\n    count: -1\n    memory: lots\n    colour: red\n")
    assert [line.split(":")[1] for line in sorted(message.splitlines())] == ["3", "4", "5"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load_settings(tmp_path / "none.yaml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_bytes(b"\xff\xfe\x00kind")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(path)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "# nothing yet\n")).cluster == LocalSettings()


def test_aliases_and_merge_keys_are_understood(tmp_path: Path) -> None:
    text = "workers:\n  a: &shape {threads: 2, memory: 1GiB}\n  b:\n    <<: *shape\n    threads: 3\n"
    settings = load_settings(write(tmp_path, text))
    assert isinstance(settings.cluster, LocalSettings)
    assert settings.cluster.workers["b"] == WorkerGroup(threads=3, memory=2**30)


def test_a_flag_overrides_one_value_and_says_so_when_it_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path, "workers: {a: {count: 2}}\n")
    assert load_settings(path, {"workers.a.count": "4"}).cluster.workers["a"].count == 4  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"^flag: workers\.a\.count: 'many' is not"):
        load_settings(path, {"workers.a.count": "many"})
    with pytest.raises(ConfigError, match=r"^flag: unknown key `workers\.a\.size`"):
        load_settings(path, {"workers.a.size": "4"})
    with pytest.raises(ConfigError, match="single value"):
        load_settings(path, {"workers.a.count.more": "4"})


def test_a_flag_on_the_default_group_keeps_the_other_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {"workers.standard.memory": "1GiB"})
    assert isinstance(settings.cluster, LocalSettings)
    assert settings.cluster.workers == {"standard": WorkerGroup(count=2, memory=2**30)}


def test_a_dashboard_for_other_machines_must_be_asked_for_twice(tmp_path: Path) -> None:
    assert "expose_dashboard: true" in refusal(tmp_path, "dashboard: 0.0.0.0:8787")
    settings = load_settings(write(tmp_path, "dashboard: 0.0.0.0:8787\nexpose_dashboard: true"))
    assert isinstance(settings.cluster, LocalSettings)
    assert settings.cluster.dashboard == "0.0.0.0:8787"


@pytest.mark.parametrize("word", ["off", "false", "no", "'off'", "null"])
def test_the_dashboard_can_be_off(tmp_path: Path, word: str) -> None:
    settings = load_settings(write(tmp_path, f"dashboard: {word}"))
    assert isinstance(settings.cluster, LocalSettings)
    assert settings.cluster.dashboard is None


def test_places_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, "store: db\nartifacts: ../files"))
    assert settings.store_url == f"sqlite:///{(tmp_path / 'db' / 'store.db').as_posix()}"
    assert os.path.normpath(settings.artifact_root) == str(tmp_path.parent / "files")


def test_urls_are_taken_as_they_are_and_their_passwords_are_never_shown(tmp_path: Path) -> None:
    settings = load_settings(
        write(
            tmp_path,
            "store: postgresql://me:hush@db.example.org/runs\nartifacts: s3://bucket/runs?secret=hush\n",
        )
    )
    assert settings.store_url == "postgresql://me:hush@db.example.org/runs"
    assert settings.artifact_root == "s3://bucket/runs?secret=hush"
    assert values(settings)["store"] == "postgresql://me:***@db.example.org/runs"
    assert "hush" not in repr(settings.entries())
    assert "hush" not in repr(settings)


def test_an_address_alone_keeps_the_store_of_the_nearest_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "workers: {a: {count: 3}}\nstore: kept\n")
    monkeypatch.chdir(tmp_path)
    settings = settings_for_address("tcp://10.0.0.5:8786", overrides={"timeout": "2s"})
    assert settings.cluster == ConnectSettings(kind="connect", address="tcp://10.0.0.5:8786", timeout=2.0)
    assert settings.store_url.endswith("kept/store.db")
    with pytest.raises(ConfigError, match="not an address like"):
        settings_for_address("tcp://")


def test_tls_files_are_relative_to_the_file(tmp_path: Path) -> None:
    text = (
        "kind: connect\naddress: tls://h:1\nsecurity: {ca_file: ca.pem, cert_file: c.pem, key_file: /k.pem}\n"
    )
    cluster = load_settings(write(tmp_path, text)).cluster
    assert isinstance(cluster, ConnectSettings)
    assert cluster.security is not None
    assert cluster.security.ca_file == str(tmp_path / "ca.pem")
    assert Path(cluster.security.key_file) == Path("/k.pem")


@given(
    count=st.integers(1, 99),
    threads=st.integers(1, 64),
    mebibytes=st.integers(1, 10**6),
    tags=st.dictionaries(
        st.from_regex(r"[A-LN-Z][A-Z0-9_]{0,8}", fullmatch=True), st.integers(1, 9), max_size=3
    ),
)
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, count: int, threads: int, mebibytes: int, tags: dict[str, int]
) -> None:
    resources = ", ".join(f"'{tag}': {amount}" for tag, amount in tags.items())
    shape = f"count: {count}, threads: {threads}, memory: {mebibytes}MiB, resources: {{{resources}}}"
    text = f"workers: {{g: {{{shape}}}}}"
    settings = load_settings(write(tmp_path_factory.mktemp("c"), text))
    assert isinstance(settings.cluster, LocalSettings)
    group = settings.cluster.workers["g"]
    assert group == WorkerGroup(
        count=count,
        threads=threads,
        memory=mebibytes * 2**20,
        resources={k: float(v) for k, v in tags.items()},
    )


def test_the_cluster_yaml_that_ships_is_loopback_only_and_fits_a_laptop() -> None:
    settings = load_settings(ROOT / "cluster.yaml")
    assert isinstance(settings.cluster, LocalSettings)
    groups = settings.cluster.workers.values()
    assert [group.count for group in groups] == [2, 1]
    assert sum(group.count * group.memory for group in groups) < 8 * 10**9
    assert settings.cluster.workers["highmem"].resources == {"HIGHMEM": 1}
    assert settings.cluster.dashboard == "127.0.0.1:8787"


def schema_keys() -> list[str]:
    """Every key that cluster.yaml may have, as the manual writes it."""
    schema = json_schema()
    found: list[str] = []

    def visit(node: dict, key: str) -> None:
        if "$ref" in node:
            visit(schema["$defs"][node["$ref"].rpartition("/")[2]], key)
        for option in node.get("anyOf", []):
            visit(option, key)
        for name, inner in node.get("properties", {}).items():
            inner_key = f"{key}.{name}" if key else name
            found.append(inner_key)
            visit(inner, inner_key)
        more = node.get("additionalProperties")
        if isinstance(more, dict) and "$ref" in more:
            visit(more, f"{key}.NAME")

    visit(schema, "")
    return found


def test_the_manual_explains_every_key_with_its_default() -> None:
    manual = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    keys = schema_keys()
    assert len(keys) > 20
    assert [key for key in keys if f"\n| `{key}` |" not in manual] == []
    rows = dict(re.findall(r"^\| `(run\.[a-z_]+)` \| `([^`]+)` \|", manual, flags=re.MULTILINE))
    defaults = {
        entry.key: str(entry.value).lower()
        if isinstance(entry.value, bool)
        else str(entry.value).replace(" ", "")
        for entry in load_settings(ROOT / "cluster.yaml").entries()
    }
    assert rows == {key: value for key, value in defaults.items() if key.startswith("run.")}


def test_every_key_of_the_schema_is_described() -> None:
    for model in (*FILES.values(), WorkerGroup):
        assert [name for name, field in model.model_fields.items() if not field.description] == []
