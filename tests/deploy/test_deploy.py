"""The image, the manifests and the kernel's settings in deploy/: whole, and true to the program."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness.found import find_upstreams
from harness.upstreams import echo

from spliceproxy import __version__
from spliceproxy.config import Config, load, loads
from spliceproxy.control.limits import find_bites
from spliceproxy.control.machine import Machine
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.slots import UpstreamSlots

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
README = (DEPLOY / "README.md").read_text()
CONTAINER = DEPLOY / "container"
KUBERNETES = DEPLOY / "kubernetes"
EXAMPLES = [DEPLOY / "systemd" / "spliceproxy.yaml", CONTAINER / "spliceproxy.yaml"]


def instructions(name: str) -> list[str]:
    """The arguments of all instructions `name` of the Containerfile."""
    text = (CONTAINER / "Containerfile").read_text().replace("\\\n", " ")
    found = (line.split(None, 1) for line in text.splitlines() if line and line[0] != "#")
    return [words[1] for words in found if words[0] == name]


def manifest(name: str) -> Any:
    return yaml.safe_load((KUBERNETES / f"{name}.yaml").read_text())


def cluster_config() -> Config:
    return loads(manifest("configmap")["data"]["spliceproxy.yaml"], "configmap.yaml", env={})


def ports(config: Config) -> set[int]:
    return {one.port for listener in config.listeners.values() for one in listener.bind}


def drain(config: Config) -> float:
    assert config.timeouts.drain is not None
    return config.timeouts.drain


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_each_configuration_passes_the_check(path: Path) -> None:
    check(path)


def test_the_configuration_in_the_config_map_passes_the_check(tmp_path: Path) -> None:
    (file,) = manifest("configmap")["data"]
    path = tmp_path / file
    path.write_text(manifest("configmap")["data"][file])
    check(path)


def check(path: Path) -> None:
    command = [sys.executable, "-m", "spliceproxy", "check", str(path)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr


def test_what_the_image_copies_exists_and_is_let_through() -> None:
    """.dockerignore: the last line that fits a path or a directory above it decides."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().split("\n") if line]
    sources = [
        source
        for arguments in instructions("COPY")
        if not arguments.startswith("--from=")
        for source in arguments.split()[:-1]
    ]
    assert len(sources) == 5
    for source in sources:
        path = ROOT / source
        files = [path] if path.is_file() else [*path.rglob("*.py")]
        assert files, source
        for file in files:
            name = file.relative_to(ROOT).as_posix()
            above = [name, *(str(parent) for parent in Path(name).parents)]
            fitting = [
                rule for rule in rules if any(fnmatch(one, rule.lstrip("!")) for one in above)
            ]
            assert fitting[-1].startswith("!"), name


def test_the_image_starts_the_configuration_that_it_brings_as_an_ordinary_user() -> None:
    config = load(CONTAINER / "spliceproxy.yaml", {})
    (entry,), (command,) = instructions("ENTRYPOINT"), instructions("CMD")
    copied = next(one for one in instructions("COPY") if one.startswith("deploy"))
    assert yaml.safe_load(entry) + yaml.safe_load(command) == [
        "spliceproxy",
        "run",
        copied.split()[1],
    ]
    assert instructions("USER")[-1].split(":")[0].isdecimal()
    assert {int(port) for port in instructions("EXPOSE")} == ports(config)


def healthcheck(port: int) -> int:
    """The exit code of the image's health check, where the proxy has `port`."""
    (line,) = instructions("HEALTHCHECK")
    command = yaml.safe_load(line.partition("CMD ")[2])
    script = command[2].replace("8080", str(port))
    assert (command[0], str(port) in script) == ("python", True)
    return subprocess.run([sys.executable, "-c", script], stderr=subprocess.DEVNULL).returncode


def test_the_health_check_fails_only_where_nobody_listens() -> None:
    with echo("v4") as upstream:
        assert isinstance(upstream.name, tuple)
        assert healthcheck(upstream.name[1]) == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert healthcheck(port) == 1


def test_the_compose_file_fits_the_image_and_its_configuration() -> None:
    services = yaml.safe_load((CONTAINER / "compose.yaml").read_text())["services"]
    proxy = services.pop("proxy")
    build = proxy["build"]
    context = (CONTAINER / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).is_file()
    for volume in proxy["volumes"]:
        assert (CONTAINER / volume.split(":")[0]).is_file()
    config = load(CONTAINER / "spliceproxy.yaml", {})
    upstreams = {one.address.host for one in config.pools["app"].upstreams}
    assert upstreams == set(services) == set(proxy["depends_on"])
    assert {int(one.split(":")[1]) for one in proxy["ports"]} == ports(config)
    assert int(proxy["stop_grace_period"].removesuffix("s")) >= drain(config) + 5


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("deployment")["spec"]["template"]["spec"]
    return spec


def test_the_manifests_are_all_applied_and_speak_of_the_same_pods() -> None:
    kinds = {path.stem for path in KUBERNETES.glob("*.yaml")} - {"kustomization"}
    listed = {Path(one).stem for one in manifest("kustomization")["resources"]}
    assert kinds == listed == {"configmap", "deployment", "service", "poddisruptionbudget"}
    for kind in kinds:
        assert manifest(kind)["kind"].lower() == kind
    deployment = manifest("deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert manifest("service")["spec"]["selector"] == labels
    budget = manifest("poddisruptionbudget")["spec"]
    assert budget["selector"]["matchLabels"] == labels
    assert budget["minAvailable"] < deployment["replicas"]
    (volume,) = pod()["volumes"]
    assert volume["configMap"]["name"] == manifest("configmap")["metadata"]["name"]


def test_the_pod_has_the_ports_and_the_file_of_its_configuration() -> None:
    (container,) = pod()["containers"]
    (mount,) = container["volumeMounts"]
    (file,) = manifest("configmap")["data"]
    assert container["args"] == ["run", f"{mount['mountPath']}/{file}"]
    named = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert set(named.values()) == ports(cluster_config())
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["tcpSocket"]["port"] in named
    assert {one["targetPort"] for one in manifest("service")["spec"]["ports"]} == set(named)
    assert container["image"] == f"spliceproxy:{__version__}"


def test_sessions_of_a_pod_may_end_before_it_is_killed() -> None:
    (container,) = pod()["containers"]
    command, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    needed = int(pause) + drain(cluster_config()) + 5
    assert pod()["terminationGracePeriodSeconds"] >= needed


def test_the_pod_has_no_more_rights_than_it_needs() -> None:
    (container,) = pod()["containers"]
    user = str(pod()["securityContext"]["runAsUser"])
    assert user == instructions("USER")[-1].split(":")[0]
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert all(port >= 1024 for port in ports(cluster_config()))


def settings() -> dict[str, str]:
    lines = (DEPLOY / "sysctl" / "99-spliceproxy.conf").read_text().splitlines()
    pairs = (line.split("=") for line in lines if line and line[0] != "#")
    return {key.strip(): value.strip() for key, value in pairs}


def test_the_kernel_knows_each_setting() -> None:
    for key in settings():
        path = Path("/proc/sys", *key.split("."))
        assert path.exists(), key


def bites(machine: Machine, yaml_text: str) -> Iterator[Any]:
    config = loads(yaml_text, "app.yaml", env={})
    snapshot = make_snapshot(config, find_upstreams(config), machine, 2, 4, UpstreamSlots())
    return find_bites(config, snapshot, machine, 2, 4)


def test_with_the_settings_of_deploy_no_limit_goes_against_the_examples() -> None:
    low, high = map(int, settings()["net.ipv4.ip_local_port_range"].split())
    pages = int(settings()["fs.pipe-user-pages-soft"])
    unit = (DEPLOY / "systemd" / "spliceproxy.service").read_text()
    limit = re.search(r"^LimitNOFILE=(\d+)$", unit, re.MULTILINE)
    assert limit
    machine = Machine(
        nofile=int(limit[1]),
        somaxconn=int(settings()["net.core.somaxconn"]),
        ports=high - low + 1,
        pipe_max_size=1024 * 1024,
        pipe_user_pages=pages - pages // 8,
    )
    text = (DEPLOY / "systemd" / "spliceproxy.yaml").read_text()
    assert [one for one in bites(machine, text) if one.warning] == []
    assert f"{machine.ports:,} sessions" in (DEPLOY / "sysctl/99-spliceproxy.conf").read_text()


def test_the_readme_explains_every_limit_that_the_program_may_name() -> None:
    poor = Machine(nofile=5000, somaxconn=1, ports=1, pipe_max_size=4096, pipe_user_pages=1)
    text = """\
max_sessions: 100000
listeners: {web: {bind: ":8080", pool: app, max_sessions: 100000}}
pools: {app: {upstreams: 127.0.0.1:9}}
"""
    named = {one.limit for one in bites(poor, text)}
    assert named == set(re.findall(r"^\| `([^`]+)`", README, re.MULTILINE))
    assert settings().keys() <= named


def test_files_that_the_readme_names_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (DEPLOY / target).exists(), target
    for block in re.findall(r"^```console\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        for word in shlex.split(block, comments=False):
            if word.startswith("deploy/"):
                assert (ROOT / word).exists(), word


def test_deploy_is_whole() -> None:
    """Nothing lies there that no test and no page knows."""
    directories = {path.name for path in DEPLOY.iterdir() if path.is_dir()}
    assert directories == set(re.findall(r"^\| \[(\w+)/\]", README, re.MULTILINE))
