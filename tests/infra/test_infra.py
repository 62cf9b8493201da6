"""infra/ against the real schemas, linters and argument parsers; and the pipeline on the real server and database.

Neither Docker nor Kubernetes nor Slurm is needed, so what only they can show is not shown here: docs/clusters.md
lists it.
"""

import json
import math
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from repository import copy_project, environment

from pipeline.config import PARAMS, Cluster
from pipeline.config.validation import checked
from pipeline.tracking.shipped import last_sent

pytestmark = pytest.mark.filterwarnings(r"ignore:Using extra keyword arguments on `Field`")  # Ray's own
ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
BIN = Path(sys.executable).parent
LOCK = (ROOT / "requirements.lock").read_text()
RAY = re.search(r"^ray\[?[^=]*==(\S+)", LOCK, re.MULTILINE)[1]
OVERLAYS = ["cpu", "gpu", "cpu-job", "gpu-job"]
PROVIDERS = ["local", "aws", "gcp"]
SCRIPTS = sorted([*INFRA.rglob("*.sh"), *INFRA.rglob("*.sbatch")])


def run(*command: str | Path, cwd: Path = ROOT, ok: bool = True, **variables: str) -> str:
    variables = {"DVC_NO_ANALYTICS": "1"} | variables
    done = subprocess.run(
        command, cwd=cwd, env=environment() | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert (done.returncode == 0) == ok, f"{command} exited {done.returncode}:\n{done.stdout}"
    return done.stdout


def parsed(command: Any, arguments: list[str]) -> dict[str, Any]:
    """The options as click reads them; fails for those that it does not know."""
    return command.make_context(command.name, list(arguments)).params


def cluster_of(params: str) -> Cluster:
    """GENLOOM_PARAMS, checked as params.yaml is."""
    settings = dict(param.split("=", 1) for param in params.split())
    assert all(name.startswith("cluster.") for name in settings)
    raw = {name.removeprefix("cluster."): yaml.safe_load(value) for name, value in settings.items()}
    return checked(Cluster, raw, PARAMS, "cluster.")


def assert_fits(cluster: Cluster, nodes: list[dict[str, float]]) -> None:
    """Ray places every worker of the ScalingConfig on the nodes that are there before any are added."""
    cpus, gpus = cluster.cpus_per_worker or 1, cluster.gpus_per_worker or 0
    places = [min(node["CPU"] // cpus, node["GPU"] // gpus if gpus else math.inf) for node in nodes]
    assert cluster.address == "auto"
    assert 0 < cluster.workers <= sum(places), (cluster, nodes)


# ---- The image


def test_every_tag_is_the_locked_ray() -> None:
    tags = {
        (path.name, tag)
        for path in [*INFRA.rglob("*"), ROOT / "docs/clusters.md"]
        if path.is_file()
        for tag in re.findall(r"(?:genloom:ray-|newTag: ray-|rayVersion: )(\d[\d.]*\d)", path.read_text())
    }
    assert {"Dockerfile", "kustomization.yaml", "cluster.yaml", "compose.yaml", "common.yaml"} <= {n for n, _ in tags}
    assert {tag for _, tag in tags} == {RAY}


def test_hadolint_accepts_the_dockerfile() -> None:
    run(BIN / "hadolint", INFRA / "Dockerfile")


def test_the_image_ends_as_an_ordinary_user_and_holds_no_secrets() -> None:
    users = re.findall(r"^USER (\S+)", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    assert users[-1] == "1000"
    assert "**/.env" in (INFRA / "Dockerfile.dockerignore").read_text().splitlines()


# ---- Shell


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_accepts_the_scripts(script: Path) -> None:
    run(BIN / "shellcheck", "--external-sources", script)


def test_no_value_of_a_secret_is_in_a_file() -> None:
    examples = dict(re.findall(r"^([A-Z_]+)=(.*)$", (INFRA / "mlflow/.env.example").read_text(), re.MULTILINE))
    assert examples and not any(examples.values())
    names = "|".join(["PASSWORD", "SECRET_ACCESS_KEY", "SECRET_KEY", "AUTH_TOKEN"])
    for path in INFRA.rglob("*.yaml"):
        for value in re.findall(rf"(?:{names})\w*: *(\S.*)$", path.read_text(), re.MULTILINE):
            assert value.startswith("${"), f"{path}: {value}"
    run("git", "check-ignore", "--quiet", "infra/mlflow/.env")


def test_the_scripts_interface_is_set_unless_it_was() -> None:
    script = ". infra/node.sh; echo $RAY_AUTH_MODE $GLOO_SOCKET_IFNAME $NCCL_SOCKET_IFNAME"
    assert run("bash", "-euc", script, GLOO_SOCKET_IFNAME="ib0", NCCL_SOCKET_IFNAME="ib1") == "token ib0 ib1\n"
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    default = next((line.split()[0] for line in routes if line.split()[1] == "00000000"), "")
    assert run("bash", "-euc", script).split() == ["token", *([default] * 2 if default else [])]


# ---- A small project: run.sh, and DVC's remote


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one stage and the folder infra/, committed, and with a remote on the disk."""
    folder = tmp_path_factory.mktemp("small")
    shutil.copytree(INFRA, folder / "infra")
    (folder / "params.yaml").write_text("scale: 2\ncluster:\n  workers: 1\n  address: null\n")
    stage = {"cmd": 'echo "$MLFLOW_TRACKING_URI" >out.txt', "params": ["scale"], "outs": ["out.txt"]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"only": stage}}))
    run("git", "init", "-q", cwd=folder)
    run("dvc", "init", "-q", cwd=folder)
    run("dvc", "remote", "add", "-q", "-d", "store", str(folder.parent / "remote"), cwd=folder)
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    run("git", "add", "-A", cwd=folder)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x", cwd=folder)


def test_run_sh_clones_sets_the_cluster_and_reads_the_secrets(small: Path, tmp_path: Path) -> None:
    workspace, secrets = tmp_path / "workspace", tmp_path / "env"
    secrets.write_text("MLFLOW_TRACKING_URI=http://mlflow.example.com\n")
    variables = {
        "GENLOOM_WORKSPACE": str(workspace),
        "GENLOOM_PARAMS": "cluster.address=auto cluster.workers=4",
        "GENLOOM_ENV": str(secrets),
        "GIT_CONFIG_GLOBAL": "/dev/null",  # a container's user has no name for git
    }
    run(small / "infra/run.sh", cwd=tmp_path, **variables)
    assert yaml.safe_load((workspace / "params.yaml").read_text())["cluster"] == {"workers": 4, "address": "auto"}
    assert (workspace / "out.txt").read_text() == "http://mlflow.example.com\n"
    assert "Running stage" not in run(small / "infra/run.sh", cwd=tmp_path, **variables)


def test_push_and_pull_bring_the_results_to_another_checkout(small: Path, tmp_path: Path) -> None:
    run("dvc", "repro", cwd=small, MLFLOW_TRACKING_URI="here")
    commit(small)
    run("dvc", "push", cwd=small)
    run("git", "clone", "-q", str(small), str(tmp_path / "other"))
    run("dvc", "pull", cwd=tmp_path / "other")
    assert (tmp_path / "other/out.txt").read_text() == "here\n"


@pytest.mark.parametrize("scheme", ["s3", "gs", "ssh"])
def test_the_remotes_of_the_docs_are_installed(scheme: str) -> None:
    from dvc.fs import get_fs_cls

    assert get_fs_cls({"url": f"{scheme}://host/folder"}).get_missing_deps() == []


# ---- MLflow's server


def compose(**variables: str) -> dict[str, Any]:
    """compose.yaml as Docker reads it: variables filled in; KeyError where a required one is missing."""

    def value(match: re.Match[str]) -> str:
        name, operator, default = match.groups()
        return variables[name] if operator == ":?" else variables.get(name, default)

    text = re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", value, (INFRA / "mlflow/compose.yaml").read_text())
    return yaml.safe_load(text)


@pytest.fixture
def secrets() -> dict[str, str]:
    names = re.findall(r"^([A-Z_]+)=$", (INFRA / "mlflow/.env.example").read_text(), re.MULTILINE)
    return dict.fromkeys(names, "secret")


def test_compose_is_valid_and_needs_every_secret(secrets: dict[str, str]) -> None:
    model = PyCompose.from_json(json.dumps(compose(**secrets)))
    assert set(model.service_names()) == {"database", "buckets", "objects", "mlflow"}
    for name in secrets:
        with pytest.raises(KeyError):
            compose(**{key: value for key, value in secrets.items() if key != name})
    broken = compose(**secrets)
    broken["services"]["mlflow"]["comand"] = []
    with pytest.raises(ValueError, match="comand"):
        PyCompose.from_json(json.dumps(broken))


def test_compose_servers_are_ordinary_users_healthy_and_on_loopback(secrets: dict[str, str]) -> None:
    services = compose(**secrets)["services"]
    once = services.pop("buckets")
    assert once["network_mode"] == "none" and "ports" not in once
    for name, service in services.items():
        assert service["healthcheck"]["test"] and service["restart"] == "unless-stopped", name
        assert service["cap_drop"] == ["ALL"] and service.get("user") != "root", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_the_servers_command_parses_and_shows_no_secret(tmp_path: Path, secrets: dict[str, str]) -> None:
    from mlflow.cli import cli

    fake = fake_program(tmp_path, "mlflow")
    variables = compose(**secrets)["services"]["mlflow"]["environment"]
    run(INFRA / "mlflow/serve.sh", PATH=f"{tmp_path}:{os.environ['PATH']}", **variables)
    ((command, *arguments),) = calls(fake)
    options = parsed(cli.commands[command], arguments)
    assert options["host"] == "0.0.0.0" and options["app_name"] == "basic-auth"
    assert options["artifacts_destination"] == "s3://mlflow" and "secret" not in " ".join(arguments)
    del variables["MLFLOW_HOST"], variables["MLFLOW_AUTH_ADMIN_PASSWORD"]
    run(INFRA / "mlflow/serve.sh", ok=False, PATH=f"{tmp_path}:{os.environ['PATH']}", **variables)
    run(INFRA / "mlflow/serve.sh", PATH=f"{tmp_path}:{os.environ['PATH']}", MLFLOW_AUTH_ADMIN_PASSWORD="x", **variables)
    assert parsed(cli.commands[command], calls(fake)[-1][1:])["host"] == "127.0.0.1"


def fake_program(folder: Path, name: str) -> Path:
    """A program that notes its arguments, one call a line, and does nothing else."""
    note = folder / f"{name}.calls"
    script = f'#!{sys.executable}\nimport json, sys\nopen({str(note)!r}, "a").write(json.dumps(sys.argv[1:]) + "\\n")\n'
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    return note


def calls(note: Path) -> list[list[str]]:
    return [json.loads(line) for line in note.read_text().splitlines()]


# ---- Kubernetes


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    """KubeRay's own, refusing unknown fields; how it was made says infra/kubernetes/schema/make_schema.py."""
    text = json.loads((INFRA / "kubernetes/schema/kuberay.json").read_text())
    return {kind: schema | {"$defs": text["$defs"]} for kind, schema in text["kinds"].items()}


@pytest.fixture(scope="module")
def rendered() -> dict[str, dict[str, Any]]:
    """The manifests of each overlay, by kind."""
    found = {}
    for overlay in OVERLAYS:
        text = run(BIN / "kubectl", "kustomize", INFRA / "kubernetes/overlays" / overlay)
        found[overlay] = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(text)}
    return found


def cluster_spec(manifests: dict[str, Any]) -> dict[str, Any]:
    return manifests["RayJob"]["spec"]["rayClusterSpec"] if "RayJob" in manifests else manifests["RayCluster"]["spec"]


def pods(manifests: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every pod template by its role."""
    spec = cluster_spec(manifests)
    found = {"head": spec["headGroupSpec"]["template"]}
    found |= {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    return found | ({"submitter": manifests["RayJob"]["spec"]["submitterPodTemplate"]} if "RayJob" in manifests else {})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_are_valid(overlay: str, rendered: dict[str, Any], schemas: dict[str, Any]) -> None:
    own = "RayJob" if overlay.endswith("-job") else "RayCluster"
    assert set(rendered[overlay]) == {own, "PersistentVolumeClaim", "PodDisruptionBudget", "NetworkPolicy"}
    for kind, manifest in rendered[overlay].items():
        if kind == own:
            jsonschema.Draft202012Validator(schemas[kind]).validate(manifest)
        else:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_schema_refuses_a_misspelt_field(rendered: dict[str, Any], schemas: dict[str, Any]) -> None:
    manifest = deepcopy(rendered["cpu"]["RayCluster"])
    container = manifest["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["volumeMount"] = container.pop("volumeMounts")
    with pytest.raises(jsonschema.ValidationError, match="volumeMount"):
        jsonschema.Draft202012Validator(schemas["RayCluster"]).validate(manifest)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_workers_of_a_training_fit_the_fewest_nodes(overlay: str, rendered: dict[str, Any]) -> None:
    spec = cluster_spec(rendered[overlay])
    nodes = []
    for group in [spec["headGroupSpec"] | {"minReplicas": 1}, *spec["workerGroupSpecs"]]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        node = {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}
        assert "num-cpus" not in group["rayStartParams"], "Ray would not offer the limits"
        assert group["minReplicas"] <= group.get("replicas", 1) <= group.get("maxReplicas", 1)
        nodes += [node] * group["minReplicas"]
    head = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
    variables = {variable["name"]: variable["value"] for variable in head["env"]}
    assert_fits(cluster_of(variables["GENLOOM_PARAMS"]), nodes)
    assert all(bool(node["GPU"]) == overlay.startswith("gpu") for node in nodes)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_unprivileged_limited_and_hold_no_secret(overlay: str, rendered: dict[str, Any]) -> None:
    assert cluster_spec(rendered[overlay])["authOptions"] == {"mode": "token"}
    for role, pod in pods(rendered[overlay]).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 1000, role
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert set(container["resources"]["limits"]) >= {"cpu", "memory"}, role
            if role != "submitter":
                assert "/dev/shm" in {mount["mountPath"] for mount in container["volumeMounts"]}
            variables = {variable["name"] for variable in container.get("env", [])}
            assert variables <= {"GENLOOM_WORKSPACE", "GENLOOM_PARAMS"}, role
            assert (container.get("envFrom") == [{"secretRef": {"name": "genloom-env"}}]) == (role == "head")


@pytest.mark.parametrize("overlay", ["gpu", "gpu-job"])
def test_gpu_nodes_tolerate_the_taint_of_gpu_machines(overlay: str, rendered: dict[str, Any]) -> None:
    for role, pod in pods(rendered[overlay]).items():
        tolerated = {toleration["key"] for toleration in pod["spec"].get("tolerations", [])}
        assert tolerated == ({"nvidia.com/gpu"} if role != "submitter" else set())


def test_selectors_match_the_pods_and_the_job_has_the_cluster_that_stays(rendered: dict[str, Any]) -> None:
    manifests = rendered["gpu-job"]
    label = {"app.kubernetes.io/name": "genloom"}
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == label
    budget = manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    assert budget == label | {"ray.io/node-type": "head"}  # KubeRay's own label
    for pod in pods(manifests).values():
        assert label.items() <= pod["metadata"]["labels"].items()
    assert cluster_spec(manifests) == cluster_spec(rendered["gpu"])
    assert {pod["spec"]["containers"][0]["image"] for pod in pods(manifests).values()} == {f"genloom:ray-{RAY}"}
    script = manifests["RayJob"]["spec"]["entrypoint"].removeprefix("/opt/genloom/")
    assert os.access(ROOT / script, os.X_OK)


# ---- Ray's cluster launcher


def launcher(provider: str) -> dict[str, Any]:
    """The file that `ray up` gets, with Ray's defaults."""
    from ray.autoscaler._private.util import prepare_config

    texts = [(INFRA / "ray" / f"{name}.yaml").read_text() for name in ("common", provider)]
    return prepare_config(yaml.safe_load("".join(texts)))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_launchers_file_is_valid(provider: str) -> None:
    from ray.autoscaler._private.util import validate_config

    config = launcher(provider)
    validate_config(config)
    assert not any(config[f"{place}setup_commands"] for place in ("", "head_", "worker_")), "installs into the image"
    assert "~/.ray/auth_token" in config["file_mounts"]
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        validate_config(config | {"idle_timeout_minute": 5})


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_launchers_commands_parse_with_the_dashboard_on_loopback(provider: str) -> None:
    from ray.scripts.scripts import start

    config = launcher(provider)
    for kind in ("head", "worker"):
        stop, command = config[f"{kind}_start_ray_commands"]
        assert stop == "ray stop"
        before, arguments = command.split("ray start ")
        assert before == ". /opt/genloom/infra/node.sh && "
        options = parsed(start, shlex.split(arguments.replace("$RAY_HEAD_IP", "192.0.2.10")))
        assert options["head"] == (kind == "head")
        assert options["dashboard_host"] in ("127.0.0.1", "localhost")


@pytest.mark.parametrize("provider", ["aws", "gcp"])  # of one's own machines no file says what they have
def test_a_training_fits_the_launchers_fewest_nodes(provider: str) -> None:
    config = launcher(provider)
    nodes = [
        {"CPU": 0, "GPU": 0} | kind["resources"]
        for name, kind in config["available_node_types"].items()
        for _ in range(1 if name == config["head_node_type"] else kind["min_workers"])
    ]
    options = shlex.split(" ".join(config["docker"]["run_options"]))
    params = next(option for option in options if option.startswith("--env=GENLOOM_PARAMS="))
    assert_fits(cluster_of(params.removeprefix("--env=GENLOOM_PARAMS=")), nodes)


# ---- Slurm


@pytest.mark.parametrize("gpus", [0, 4])
def test_the_slurm_job_starts_ray_on_every_machine(tmp_path: Path, gpus: int) -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    shutil.copytree(INFRA, tmp_path / "infra")
    note = fake_program(tmp_path, "srun")
    with (tmp_path / "srun").open("a") as file:
        file.write('print(__import__("os").environ["GENLOOM_PARAMS"])\n')
    status = fake_program(tmp_path, "dvc")
    (tmp_path / "ip").write_text('#!/bin/sh\necho "2: ib0    inet 192.0.2.10/24 brd 192.0.2.255 scope global ib0"\n')
    (tmp_path / "ip").chmod(0o755)
    slurm = {"SUBMIT_DIR": tmp_path, "JOB_ID": 4242, "JOB_NUM_NODES": 2, "CPUS_PER_TASK": 16}
    slurm |= {"GPUS_ON_NODE": gpus} if gpus else {}
    variables = {f"SLURM_{name}": str(value) for name, value in slurm.items()}
    script = INFRA / "slurm/genloom.sbatch"
    output = run("bash", script, **variables, PATH=f"{tmp_path}:{os.environ['PATH']}", GLOO_SOCKET_IFNAME="ib0")

    (arguments,) = calls(note)
    ours = arguments[arguments.index("symmetric-run") + 1 :]
    separator = ours.index("--")
    assert ours[separator + 1 :] == ["infra/run.sh"] and calls(status) == [["status", "--quiet"]]
    options = parsed(symmetric_run, ours)
    assert options["address"] == "192.0.2.10:24242" and options["min_nodes"] == 2
    node = parsed(start, curate_and_validate_ray_start_args(ours[:separator]))
    assert (node["num_cpus"], node["num_gpus"]) == (16, gpus)
    cluster = cluster_of(output.splitlines()[0])
    assert cluster.workers == (8 if gpus else 2)
    assert_fits(cluster, [{"CPU": node["num_cpus"], "GPU": node["num_gpus"]}] * 2)


# ---- The page


def commands() -> list[str]:
    """The lines of shell in docs/clusters.md, continued lines joined."""
    blocks = re.findall(r"(?:^    .*\n)+", (ROOT / "docs/clusters.md").read_text(), re.MULTILINE)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def test_the_page_names_files_and_options_that_exist() -> None:
    from dvc.cli import parse_args
    from ray.scripts.scripts import cli

    text = (ROOT / "docs/clusters.md").read_text()
    for name in set(re.findall(r"(?<!tests/)\binfra/[\w./-]*\w", text)):
        assert (ROOT / name).exists() or name.endswith(".env"), name
    for name in set(re.findall(r"overlays/([\w-]+)", text)):
        assert name in OVERLAYS
    assert len(commands()) > 20
    run("bash", "-n", "-c", "\n".join(commands()))
    for line in commands():
        words = list(takewhile(lambda word: word[0] not in "|&<>", shlex.split(line)))
        if words[0] == "dvc":
            parse_args(words[1:])
        elif words[0] == "ray" and words[1] != "job":  # its options are made when a server answers
            parsed(cli.commands[words[1]], words[2:])


# ---- The pipeline on the real server and database, and an S3 store


@dataclass(frozen=True)
class Server:
    uri: str
    variables: dict[str, str]


def _postgres(program: str) -> str:
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *map(Path, os.get_exec_path())]
    found = next((folder / program for folder in folders if (folder / program).exists()), None)
    if found is None:
        pytest.skip(f"PostgreSQL's {program} is not installed (Debian: apt-get install postgresql)")
    return str(found)


@pytest.fixture
def database() -> Iterator[dict[str, str]]:
    """A PostgreSQL of its own, on a socket in a fresh folder; it refuses to run as root."""
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    initdb, control, createdb = (_postgres(program) for program in ("initdb", "pg_ctl", "createdb"))
    folder = Path(tempfile.mkdtemp(prefix="genloom-postgres-"))  # tmp_path is closed to other users, its name too long
    if as_user:
        shutil.chown(folder, "postgres")
    data, variables = str(folder / "data"), {"PGHOST": str(folder), "PGUSER": "mlflow", "PGDATABASE": "mlflow"}
    try:
        run(*as_user, initdb, "--auth=trust", "--username=mlflow", "-D", data, cwd=folder)
        options = f"-k {folder} -c listen_addresses="
        start = [*as_user, control, "start", "--wait", "-D", data, "-l", str(folder / "log"), "-o", options]
        subprocess.run(start, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # a pipe would stay open with it
        run(*as_user, createdb, "mlflow", cwd=folder, **variables)
        yield variables
    finally:
        if (folder / "data/postmaster.pid").exists():
            run(*as_user, control, "stop", "--mode=fast", "-D", data, cwd=folder)
        shutil.rmtree(folder)


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An S3 server with the buckets of compose.yaml: moto speaks the protocol, and forgets all at the end."""
    import boto3
    from moto.server import ThreadedMotoServer

    variables = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    store.start()
    uri = "http://{}:{}".format(*store.get_host_and_port())
    for bucket in ("mlflow", "dvc"):
        boto3.client("s3", endpoint_url=uri).create_bucket(Bucket=bucket)
    yield variables | {"MLFLOW_S3_ENDPOINT_URL": uri}
    store.stop()


@pytest.fixture
def server(database: dict[str, str], objects: dict[str, str], tmp_path: Path) -> Iterator[Server]:
    """infra/mlflow/serve.sh on that database, artifacts in that store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = (
        database
        | objects
        | {
            "MLFLOW_AUTH_ADMIN_PASSWORD": "of-this-test-alone",
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-this-test-alone",
            "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow",
            "MLFLOW_PORT": str(port),
            "MLFLOW_WORKERS": "1",
        }
    )
    uri = f"http://127.0.0.1:{port}"
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [INFRA / "mlflow/serve.sh"],
            cwd=tmp_path,
            env=environment() | variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _await(f"{uri}/health", process, tmp_path / "server.log")
        yield Server(uri, {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "of-this-test-alone"})
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            with suppress(ProcessLookupError):  # its children, if it left any
                os.killpg(process.pid, signal.SIGKILL)


def _await(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 240  # seconds where the machine is idle
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.mark.slow
def test_the_pipeline_on_the_real_server_and_database(
    server: Server,
    database: dict[str, str],
    objects: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    tiny = {"method": "vae", "seed": 0, "width": 8, "latent": 8, "images": 1280, "log_every": 128}
    project = copy_project(tmp_path / "project", {"vae": tiny})
    run("dvc", "repro", cwd=project, MLFLOW_TRACKING_URI=server.uri, **server.variables)
    (journal,) = (project / ".genloom/runs").glob("vae-*")
    run_id, _ = last_sent(journal) or pytest.fail("the run was never sent")
    client = MlflowClient(server.uri)
    with pytest.raises(MlflowException):  # no password, no runs
        client.get_run(run_id)
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    assert client.get_run(run_id).data.metrics["fid_efficientnet_lite0"] > 0
    query = f"select count(*) from metrics where run_uuid = '{run_id}'"
    assert int(run(_postgres("psql"), "-At", "-c", query, **database)) >= 10
    weights = Path(client.download_artifacts(run_id, "weights.safetensors", str(tmp_path)))
    assert weights.read_bytes() == (project / "out/runs/vae/weights.safetensors").read_bytes()
    assert any("weights.safetensors" in key for key in keys(objects, "mlflow"))
    assert not (project / "mlflow.db").exists()


def keys(objects: dict[str, str], bucket: str) -> list[str]:
    import boto3

    found = boto3.client("s3", endpoint_url=objects["MLFLOW_S3_ENDPOINT_URL"]).list_objects_v2(Bucket=bucket)
    return [item["Key"] for item in found.get("Contents", [])]


@pytest.mark.slow
def test_push_and_pull_through_an_s3_store(small: Path, objects: dict[str, str], tmp_path: Path) -> None:
    for name in ("project", "other"):
        run("git", "clone", "-q", str(small), str(tmp_path / name))
        run("dvc", "remote", "add", "store", "s3://dvc", "--default", "--force", cwd=tmp_path / name)
        run("dvc", "remote", "modify", "store", "endpointurl", objects["MLFLOW_S3_ENDPOINT_URL"], cwd=tmp_path / name)
    run("dvc", "repro", cwd=tmp_path / "project", MLFLOW_TRACKING_URI="there")
    run("dvc", "push", cwd=tmp_path / "project")
    assert keys(objects, "dvc")
    shutil.copy(tmp_path / "project/dvc.lock", tmp_path / "other/dvc.lock")
    run("dvc", "pull", cwd=tmp_path / "other")
    assert (tmp_path / "other/out.txt").read_text() == "there\n"
